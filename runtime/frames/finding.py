"""`find_cells`: the white cells of a frame, each with the outline of its nucleus and of the whole cell."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import FoundCell, FrameFacts
from blastscope.runtime.frames.growing import GROW_UM, cells_around, opened
from blastscope.runtime.frames.lobes import joined
from blastscope.runtime.frames.looking import WIDEST_UM, Place, places
from blastscope.runtime.frames.nuclei import Mask, large_enough, parts_of
from blastscope.runtime.frames.spec import FrameSpec
from blastscope.runtime.frames.stain import STEP, along
from blastscope.runtime.frames.thumbnail import Grid, grid_around, reduced
from blastscope.runtime.image import check_array
from blastscope.runtime.prediction import Refusal

MARGIN_UM = GROW_UM + 2.0


def reach_px(facts: FrameFacts, spec: FrameSpec) -> int:
    """How far a pixel can change what is found: the margin that a tile needs."""
    return math.ceil((WIDEST_UM + MARGIN_UM) / facts.pixel_um)


def find_cells(frame: NDArray[np.uint8], facts: FrameFacts, spec: FrameSpec) -> tuple[FoundCell, ...]:
    """The white cells of `frame` (H, W, 3) uint8 RGB, top to bottom and left to right."""
    frame = np.ascontiguousarray(check_array(frame))
    if frame.size == 0:
        return ()
    found = [cell for place in places(frame, facts) for cell in _cells_at(frame, place, facts)]
    return tuple(sorted(found, key=lambda cell: (cell.box[1], cell.box[0])))


def _cells_at(frame: NDArray[np.uint8], place: Place, facts: FrameFacts) -> list[FoundCell]:
    um = place.factor * facts.pixel_um
    grid = grid_around(place.box, place.factor, math.ceil(MARGIN_UM / um))
    picture = reduced(frame, grid)
    sums = cv2.boxFilter(
        along(facts.nuclear_axis, picture, facts.background),
        cv2.CV_32S,
        (3, 3),
        normalize=False,
        borderType=cv2.BORDER_REPLICATE,
    )
    stain = np.asarray(sums, np.int32)  # 9 times as fine as STEP
    unit = 9 * STEP
    inside = np.zeros(stain.shape, np.uint8)
    inside[grid.inside(frame.shape)] = 1
    level = round(facts.nucleus_threshold * unit)
    stained = stain[(stain > level) & (inside > 0)]
    if not len(stained):
        return []
    level = max(level, round(0.45 * float(np.median(stained))))
    parts = parts_of(np.where(inside > 0, stain, 0), level, um)
    soft = np.asarray(cv2.boxFilter(stain, cv2.CV_32F, (3, 3), borderType=cv2.BORDER_REPLICATE), np.int32)
    stained_like_cells = ((soft > round(facts.cell_threshold * unit)) & (inside > 0)).astype(np.uint8)
    cytoplasm = opened(stained_like_cells, um)
    nuclei = [part for part in joined(parts, cytoplasm, inside, um) if large_enough(part, um)]
    if not nuclei:
        return []
    cells = cells_around([part.mask for part in nuclei], stained_like_cells, um)
    return [_found(cell, part.mask, grid, frame.shape) for cell, part in zip(cells, nuclei, strict=True)]


def _found(cell: Mask, nucleus: Mask, grid: Grid, shape: tuple[int, ...]) -> FoundCell:
    x, y, width, height = (grid.factor * value for value in cv2.boundingRect(cell))
    box = (
        max(x + grid.x0, 0),
        max(y + grid.y0, 0),
        min(x + grid.x0 + width, shape[1]),
        min(y + grid.y0 + height, shape[0]),
    )
    edge = grid.factor
    refusal = None
    if box[0] < edge or box[1] < edge or box[2] > shape[1] - edge or box[3] > shape[0] - edge:
        refusal = Refusal("touches-border", f"the cell's box {box} reaches the edge of the {shape[1]} x {shape[0]} frame")
    return FoundCell(box, _outline(cell, grid), _outline(nucleus, grid), refusal)


def _outline(mask: Mask, grid: Grid) -> NDArray[np.int32]:
    """The longest outer contour of `mask`, in pixels of the frame."""
    outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    longest = max(outlines, key=cv2.contourArea).reshape(-1, 2)
    return np.asarray(longest * grid.factor + grid.factor // 2 + np.asarray((grid.x0, grid.y0)), np.int32)
