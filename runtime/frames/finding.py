"""`find_cells`: the white cells of a frame, each with the outline of its nucleus and of the whole cell."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import FoundCell, FrameFacts
from blastscope.runtime.frames.growing import GROW_UM, cell_around, opened
from blastscope.runtime.frames.lobes import joined
from blastscope.runtime.frames.looking import WIDEST_UM, Place, places
from blastscope.runtime.frames.nuclei import large_enough, parts_of
from blastscope.runtime.frames.part import Part
from blastscope.runtime.frames.refusing import why_not
from blastscope.runtime.frames.spec import FrameSpec
from blastscope.runtime.frames.thumbnail import Grid
from blastscope.runtime.frames.view import look_at
from blastscope.runtime.image import check_array
from blastscope.runtime.prediction import Box

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
    view = look_at(frame, place, facts, MARGIN_UM)
    parts = parts_of(view.nuclear, view.um)
    whole = joined(parts, opened(view.cellular, view.um), view.inside, view.um)
    nuclei = [part for part in whole if large_enough(part, view.um)]
    cells = [cell_around(nucleus, nuclei, view.cellular, view.um) for nucleus in nuclei]
    return [
        FoundCell(
            _box(cell, view.grid, frame.shape),
            _outline(cell, view.grid),
            _outline(nucleus, view.grid),
            why_not(view, nucleus, cell, cells),
        )
        for cell, nucleus in zip(cells, nuclei, strict=True)
        if _stands_at(nucleus, place, view.grid)
    ]


def _stands_at(nucleus: Part, place: Place, grid: Grid) -> bool:
    """Whether a nucleus is this place's own, and not a neighbour's that the margin shows."""
    own = np.zeros((grid.height, grid.width), np.uint8)
    corner = np.asarray((grid.x0, grid.y0))
    cv2.drawContours(own, [(outline - corner) // grid.factor for outline in place.outlines], -1, (1,), cv2.FILLED)
    x0, y0, x1, y1 = nucleus.box
    return 2 * cv2.countNonZero(own[y0:y1, x0:x1] & nucleus.mask) > nucleus.area


def _box(cell: Part, grid: Grid, shape: tuple[int, ...]) -> Box:
    """The box of `cell` in pixels of the frame, inside of it."""
    x0, y0, x1, y1 = (grid.factor * value for value in cell.box)
    return (
        max(x0 + grid.x0, 0),
        max(y0 + grid.y0, 0),
        min(x1 + grid.x0, shape[1]),
        min(y1 + grid.y0, shape[0]),
    )


def _outline(part: Part, grid: Grid) -> NDArray[np.int32]:
    """The largest outer contour of `part`, in pixels of the frame."""
    outlines = cv2.findContours(part.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    largest = max(outlines, key=cv2.contourArea).reshape(-1, 2) + np.asarray((part.x, part.y))
    return np.asarray(largest * grid.factor + grid.factor // 2 + np.asarray((grid.x0, grid.y0)), np.int32)
