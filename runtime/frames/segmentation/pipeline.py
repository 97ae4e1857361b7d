"""Segmentation of white cells, each with the outline of its nucleus and of the whole cell.

`segment_cells` looks for them all over a frame. `segment_boxes` knows their boxes: each gets one nucleus, of however many
lobes, and one outline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import Grid, ImagePyramid, image_pyramid
from blastscope.runtime.frames.mask_geometry import Contour, Mask, Region, iou, region_of, union
from blastscope.runtime.frames.segmentation.candidates import (
    WIDEST_UM,
    CandidateRegion,
    RegionView,
    find_candidates,
    view_region,
)
from blastscope.runtime.frames.segmentation.cell_outline import GROW_UM, RIM_UM, grow_cytoplasm, merge_lobes, open_mask
from blastscope.runtime.frames.segmentation.qc import reject
from blastscope.runtime.frames.segmentation.split_nuclei import (
    LEAST_UM2,
    MOST_PARTS,
    PART_UM2,
    large_enough,
    smooth_pieces,
    split_nuclei,
)
from blastscope.runtime.frames.segmentation.stain_map import StainMap, make_stain_map
from blastscope.runtime.frames.stain import STEP, project_density
from blastscope.runtime.frames.thresholding import split_threshold
from blastscope.runtime.frames.tiling import owns
from blastscope.runtime.frames.types import Colour, FrameParameters, FrameSpecification, SegmentedCell
from blastscope.runtime.io.concurrency import SingleThread
from blastscope.runtime.types import Box, Refusal

MARGIN_UM = GROW_UM + 2.0
CROWDED_PIXELS = 1_000_000  # of the picture at working resolution, some 40 bytes each
COARSEST_UM = 1.2  # a pixel: beyond it a nucleus is five pixels across, and anything could be one
REACH = 1.12  # of a box's half sides: boxes are a little too small as often as too large
ALIKE = 0.5  # the outline's box and the one that was found share this much of their union, or it isn't the cell's
AROUND = (1.15, 1.9)  # half sides from which to which the surroundings of a cell are looked at
STAINED_AROUND = 0.3  # where more of the surroundings than this is stained like a nucleus, the frame's axis doesn't tell
NUCLEUS_SHARE = 0.1  # of the box' ellipse, at least
# Where red cells show on the frame's axis, density does tell: nuclei are denser than anything else, in red most of all.
DENSITY_AXIS: Colour = (0.8, 0.6, 0.0)

Boxes = NDArray[np.float32]  # (K, 4) x0, y0, x1, y1 in pixels of the working picture
Squares = NDArray[np.float32]  # (h, w) of the distances of a view's pixels to the middle of a box, 1 on the ellipse in it


def reach_px(parameters: FrameParameters) -> int:
    """How far a pixel can change what is found: the margin that a tile needs."""
    return math.ceil((WIDEST_UM + MARGIN_UM) / parameters.pixel_um)


def segment_cells(
    frame: NDArray[np.uint8] | ImagePyramid,
    parameters: FrameParameters,
    spec: FrameSpecification,
    *,
    threads: int | None = None,
    crowded: SingleThread | None = None,
    skipped: list[Box] | None = None,
    core: Box | None = None,
) -> tuple[SegmentedCell, ...]:
    """The white cells of a frame, top to bottom and left to right; none on pixels of over 1.2 um.

    A turned or flipped frame has its cells turned, one shifted within empty background has them shifted, to the pixel.

    Parameters
    ----------
    frame : (H, W, 3) uint8 array in RGB, or ImagePyramid
        The frame.
    parameters : FrameParameters
        Its scale and stain.
    spec : FrameSpecification
        What is assumed of frames and cells.
    threads : int, optional
        How many look for stain in an array at most; by default as many as the process may use. Their number changes nothing.
    crowded : SingleThread, optional
        Where what hangs together over much of a frame is looked at, since that takes ten times the memory of the rest. Whoever
        looks at several frames at once gives all of them the same one.
    skipped : list, optional
        Gets the boxes of places that hold more than `MOST_PARTS` parts and aren't looked at, in pixels of the picture at
        working resolution.
    core : (x0, y0, x1, y1), optional
        In pixels of `frame`: only cells whose box has its centre in it are given. Places that can hold none are passed over.

    Returns
    -------
    tuple of SegmentedCell
    """
    pictures = image_pyramid(frame, threads)
    if pictures.frame.size == 0 or parameters.pixel_um > COARSEST_UM:
        return ()
    whole = make_stain_map(pictures, parameters)
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


@dataclass(frozen=True, slots=True, eq=False)
class _NucleusView:
    """The view of one box with the cell's nucleus in it.

    Attributes
    ----------
    view : RegionView
        The pixels of the box.
    nucleus : Region
        The nucleus.
    own : Mask
        1 where this box is the nearest.
    """

    view: RegionView
    nucleus: Region
    own: Mask


def segment_boxes(
    whole: StainMap, boxes: Boxes, refused: Sequence[Refusal | None] | None = None, *, core: Box | None = None
) -> list[SegmentedCell | None]:
    """The cell of each box, in its order.

    Parameters
    ----------
    whole : StainMap
        Of the frame.
    boxes : (K, 4) float32 array
        In pixels of `whole`.
    refused : sequence of Refusal or None, optional
        Why a cell gets no call, where that is known. Its quality isn't looked at.
    core : tuple of int, optional
        In pixels of the frame. Cells whose box has its centre outside of it are left out.

    Returns
    -------
    list of SegmentedCell or None
        In pixels of the frame. Where no nucleus shows, or the outline doesn't fit its box, the cell is refused as
        `unsegmented`, with the ellipse in its box for an outline. None for a cell that `core` leaves out.
    """
    dense: StainMap | None = None
    cells: list[SegmentedCell | None] = []
    for at, box in enumerate(boxes):
        # an outline's box shares at least half of its union with this one (`ALIKE`), so its centre lies in this one
        if core and not _meets(core, whole.grid, _whole_pixels(box), 1):
            cells.append(None)
            continue
        near, refusal = _near(boxes, at, math.ceil(MARGIN_UM / whole.um)), refused[at] if refused else None
        cell = _cell(whole, box, near, refusal)
        if cell is None:
            dense = dense or _by_density(whole)
            cell = _cell(_with_threshold(dense, box), box, near, refusal)
        cell = cell or _unsegmented(whole, box)
        cells.append(cell if core is None or owns(core, cell.box) else None)
    return cells


def _whole_pixels(box: Boxes) -> Box:
    x0, y0, x1, y1 = (float(side) for side in box)
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def _near(boxes: Boxes, at: int, reach: int) -> Boxes:
    """The other boxes near that one."""
    x0, y0, x1, y1 = boxes[at]
    apart = (boxes[:, 0] > x1 + reach) | (boxes[:, 2] < x0 - reach) | (boxes[:, 1] > y1 + reach) | (boxes[:, 3] < y0 - reach)
    apart[at] = True
    near: Boxes = boxes[~apart]
    return near


def _cell(whole: StainMap, box: Boxes, near: Boxes, refusal: Refusal | None) -> SegmentedCell | None:
    """The cell in `box`; None where nothing in it looks like one."""
    view = _view(whole, box)
    far = _ellipse_squares(view, _place(view, whole, box))
    others_far = [_ellipse_squares(view, _place(view, whole, other)) for other in near]
    seen = _seen(view, far, others_far)
    if seen is None:
        return None
    others = [other for away in others_far if (other := _nucleus(view, away, far)) is not None]
    cell = grow_cytoplasm(seen.nucleus, others, view.cellular & seen.own, view.um)
    contour = Contour(cell, view.grid, whole.shape).outline()
    found = _box(contour)
    if iou([found], [_in_frame(whole, box)])[0, 0] < ALIKE:
        return None
    core = Contour(seen.nucleus, view.grid, whole.shape)
    return SegmentedCell(found, contour, core, refusal or reject(view, seen.nucleus, cell, [cell]))


def _view(whole: StainMap, box: Boxes) -> RegionView:
    x0, y0, x1, y1 = (round(float(side)) for side in box)
    corners = np.asarray([[[x0, y0]], [[x1 - 1, y0]], [[x1 - 1, y1 - 1]], [[x0, y1 - 1]]], np.int32)
    return view_region(whole, CandidateRegion((x0, y0, x1, y1), False, (corners,)), MARGIN_UM)


def _seen(view: RegionView, far: Squares, others: Sequence[Squares]) -> _NucleusView | None:
    """The nucleus that is near a box; None where there is none, or where its surroundings are stained like it.

    `far` are the squares of how far each pixel lies from this box, `others` from those around it.
    """
    own = far < REACH**2
    around = (far > AROUND[0] ** 2) & (far < AROUND[1] ** 2) & (view.inside > 0)
    for other in others:
        own &= far <= other
        around &= other > AROUND[0] ** 2
    if int(np.count_nonzero(view.nuclear[around])) > STAINED_AROUND * max(int(np.count_nonzero(around)), 1):
        return None
    nucleus = _largest_union(view.nuclear & own.view(np.uint8), view.um)
    if nucleus is None or nucleus.area < NUCLEUS_SHARE * np.count_nonzero(own):
        return None
    return _NucleusView(view, nucleus, own.view(np.uint8))


def _nucleus(view: RegionView, far: Squares, other: Squares) -> Region | None:
    """The nucleus of a neighbour, as far as this view shows it: what is nearer to its box than to the other one."""
    own = (far < REACH**2) & (far < other)
    return _largest_union(view.nuclear & own.view(np.uint8), view.um)


def _largest_union(nuclear: Mask, um: float) -> Region | None:
    """All lobes in a mask as one nucleus; None of too little stain."""
    lobes = list(smooth_pieces(nuclear, um).drawn(PART_UM2 / um**2))
    if not lobes:
        return None
    largest = max(lobe.area for lobe in lobes)
    nucleus = reduce(union, [lobe for lobe in lobes if lobe.area * 20 >= largest])
    return nucleus if nucleus.area * um * um >= LEAST_UM2 / 2 else None


def _place(view: RegionView, whole: StainMap, box: Boxes) -> tuple[float, float, float, float]:
    """The middle and the half sides of `box` in pixels of the view."""
    step = view.grid.factor / whole.grid.factor
    left, top = (view.grid.x0 - whole.grid.x0) / whole.grid.factor, (view.grid.y0 - whole.grid.y0) / whole.grid.factor
    x0, y0, x1, y1 = (float(side) for side in box)
    return ((x0 + x1) / 2 - left) / step, ((y0 + y1) / 2 - top) / step, (x1 - x0) / 2 / step, (y1 - y0) / 2 / step


def _ellipse_squares(view: RegionView, place: tuple[float, float, float, float]) -> Squares:
    """The square of how far each pixel of the view lies from the middle of a box, 1 on the ellipse in it."""
    x, y, across, down = place
    height, width = view.stain.shape
    rows, columns = ((np.arange(height) + 0.5 - y) / max(down, 1)) ** 2, ((np.arange(width) + 0.5 - x) / max(across, 1)) ** 2
    return rows.astype(np.float32)[:, None] + columns.astype(np.float32)  # a third of the time that their roots took


def _by_density(whole: StainMap) -> StainMap:
    """The map of plain density in place of nuclear stain."""
    stain = project_density(DENSITY_AXIS, whole.picture, whole.parameters.background)
    return replace(whole, parameters=replace(whole.parameters, nuclear_axis=DENSITY_AXIS), stain=stain)


def _with_threshold(dense: StainMap, box: Boxes) -> StainMap:
    """The map with a threshold of its own for this box: what parts the densities in it and around it."""
    x0, y0, x1, y1 = (float(side) for side in box)
    across, down = (x1 - x0) * 0.25, (y1 - y0) * 0.25
    height, width = dense.stain.shape
    rows = slice(max(int(y0 - down), 0), min(int(y1 + down), height))
    columns = slice(max(int(x0 - across), 0), min(int(x1 + across), width))
    level = split_threshold(dense.stain[rows, columns].ravel().astype(np.int32)) / STEP
    parameters = replace(dense.parameters, nucleus_threshold=max(level, dense.parameters.cell_threshold * 2))
    return replace(dense, parameters=parameters)


def _in_frame(whole: StainMap, box: Boxes) -> tuple[float, float, float, float]:
    """`box` in pixels of the frame."""
    factor, x, y = whole.grid.factor, whole.grid.x0, whole.grid.y0
    x0, y0, x1, y1 = (float(side) * factor for side in box)
    return x0 + x, y0 + y, x1 + x, y1 + y


def _unsegmented(whole: StainMap, box: Boxes) -> SegmentedCell:
    """A cell that was found and could not be outlined."""
    height, width = whole.picture.shape[:2]
    x0, y0, x1, y1 = box
    left, right = np.clip([math.floor(x0), math.ceil(x1)], 0, width)
    top, bottom = np.clip([math.floor(y0), math.ceil(y1)], 0, height)
    rows, columns = np.ogrid[top : max(bottom, top + 1), left : max(right, left + 1)]
    across, down = max((x1 - x0) / 2, 1.0), max((y1 - y0) / 2, 1.0)
    inside = np.hypot((columns + 0.5 - (x0 + x1) / 2) / across, (rows + 0.5 - (y0 + y1) / 2) / down) <= 1
    if not inside.any():
        inside[:] = True
    part = region_of(inside.astype(np.uint8), (int(left), int(top)))
    core = Contour(part, whole.grid, whole.shape)
    contour = core.outline()
    reason = Refusal("unsegmented", "a white cell is here, but its outline can't be told from what is around it")
    return SegmentedCell(_box(contour), contour, core, reason)
