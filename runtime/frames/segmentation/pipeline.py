"""`segment_cells`: the white cells of a frame, each with the outline of its nucleus and of the whole cell."""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import Grid, ImagePyramid, image_pyramid
from blastscope.runtime.frames.mask_geometry import Contour, Region
from blastscope.runtime.frames.segmentation.candidates import WIDEST_UM, CandidateRegion, find_candidates
from blastscope.runtime.frames.segmentation.cytoplasm import GROW_UM, RIM_UM, grow_cytoplasm, open_mask
from blastscope.runtime.frames.segmentation.merge_lobes import merge_lobes
from blastscope.runtime.frames.segmentation.qc import reject
from blastscope.runtime.frames.segmentation.region_view import RegionView, view_region
from blastscope.runtime.frames.segmentation.split_nuclei import LEAST_UM2, MOST_PARTS, large_enough, split_nuclei
from blastscope.runtime.frames.segmentation.stain_map import StainMap, make_stain_map
from blastscope.runtime.frames.tiling import owns
from blastscope.runtime.frames.types import FrameParameters, FrameSpecification, SegmentedCell
from blastscope.runtime.io.concurrency import SingleThread
from blastscope.runtime.types import Box

MARGIN_UM = GROW_UM + 2.0
CROWDED_PIXELS = 1_000_000  # of the picture at working resolution, some 40 bytes each
COARSEST_UM = 1.2  # a pixel: beyond it a nucleus is five pixels across, and anything could be one


def reach_px(facts: FrameParameters, spec: FrameSpecification) -> int:
    """How far a pixel can change what is found: the margin that a tile needs."""
    return math.ceil((WIDEST_UM + MARGIN_UM) / facts.pixel_um)


def segment_cells(
    frame: NDArray[np.uint8] | ImagePyramid,
    facts: FrameParameters,
    spec: FrameSpecification,
    *,
    threads: int | None = None,
    crowded: SingleThread | None = None,
    skipped: list[Box] | None = None,
    core: Box | None = None,
) -> tuple[SegmentedCell, ...]:
    """The white cells of `frame` (H, W, 3) uint8 RGB, top to bottom and left to right; none on pixels of over 1.2 um.

    At most `threads` look for stain in an array, or as many as the process may use; their number changes nothing.
    A turned or flipped frame has its cells turned, one shifted within empty glass has them shifted, to the pixel.
    Whoever looks at several frames at once gives all of them the same `crowded`: there goes what hangs together over much of a
    frame, since that takes ten times the memory of the rest. Places that hold more than `MOST_PARTS` parts are not looked at;
    their boxes, in pixels of the picture at working resolution, are put into `skipped`. With `core`, in pixels of `frame`, only
    cells whose box has its centre in it are given, and places that can hold none are passed over: the rest of a tile.
    """
    pictures = image_pyramid(frame, threads)
    if pictures.frame.size == 0 or facts.pixel_um > COARSEST_UM:
        return ()
    whole = make_stain_map(pictures, facts)
    # one after the other: a place is many short steps, for which two threads took longer than one
    found = []
    for place in find_candidates(whole):
        x0, y0, x1, y1 = place.box
        look = partial(_cells_at, whole, place, core)
        cells = crowded.run(look) if crowded and (x1 - x0) * (y1 - y0) > CROWDED_PIXELS else look()
        if cells is None and skipped is not None:
            skipped.append(place.box)
        found += cells or []
    return tuple(sorted(found, key=lambda cell: (cell.box[1], cell.box[0])))


def _cells_at(whole: StainMap, place: CandidateRegion, core: Box | None) -> list[SegmentedCell] | None:
    """The cells of one place whose centre lies in `core`; None where it holds more parts than anyone would look at."""
    if core and not _meets(core, whole.grid, place.box, math.ceil(MARGIN_UM / whole.um) + 1):
        return []  # all that is found in a place lies in its view
    view = view_region(whole, place, MARGIN_UM)
    parts = split_nuclei(view.nuclear, view.um)
    if len(parts) > MOST_PARTS:
        return None
    if sum(part.area for part in parts) * view.um**2 < LEAST_UM2:  # a nucleus is of parts that don't overlap
        return []
    joint = merge_lobes(parts, open_mask(view.cellular, view.um), view.inside, view.um) if len(parts) > 1 else parts
    nuclei = [part for part in joint if large_enough(part, view.um)]
    wanted = [nucleus for nucleus in nuclei if _belongs(nucleus, view, core)]
    if not wanted:
        return []
    cells = [grow_cytoplasm(nucleus, nuclei, view.cellular, view.um) for nucleus in nuclei]
    found = []
    for cell, nucleus in zip(cells, nuclei, strict=True):
        if nucleus not in wanted:
            continue
        contour = Contour(cell, view.grid, whole.shape).outline()
        if core is None or owns(core, _box(contour)):
            refusal = reject(view, nucleus, cell, cells)
            found.append(SegmentedCell(_box(contour), contour, Contour(nucleus, view.grid, whole.shape), refusal))
    return found


def _belongs(nucleus: Region, view: RegionView, core: Box | None) -> bool:
    """Whether a nucleus is this place's, and not a neighbour's, and its cell may have its centre in `core`."""
    x0, y0, x1, y1 = nucleus.box
    if 2 * cv2.countNonZero(view.own[y0:y1, x0:x1] & nucleus.mask) <= nucleus.area:
        return False
    if core is None:
        return True
    # a cell reaches beyond its nucleus by so much at most, so the middle of its box moves by half of that
    moved = math.ceil((GROW_UM + RIM_UM) / view.um / 2) + 2
    return _meets(core, view.grid, ((x0 + x1) // 2, (y0 + y1) // 2, (x0 + x1 + 1) // 2, (y0 + y1 + 1) // 2), moved)


def _meets(core: Box, grid: Grid, box: Box, margin: int) -> bool:
    """Whether a point that lies in `box`, in squares of `grid`, or up to `margin` of them beside it, may lie in `core`."""
    left, top, right, bottom = core
    across = margin * grid.factor
    x0, y0, x1, y1 = (start + side * grid.factor for start, side in zip((grid.x0, grid.y0) * 2, box, strict=True))
    return x0 - across < right and left <= x1 + across and y0 - across < bottom and top <= y1 + across


def _box(contour: NDArray[np.int32]) -> Box:
    """The half-open box of a contour."""
    x, y, width, height = cv2.boundingRect(contour)
    return x, y, x + width, y + height
