"""A frame at the resolution that its cells are looked for and outlined in.

The squares that a pixel stands for are laid by what the frame shows, as `FrameFacts.content` records it: so a frame that is
turned, flipped or shifted over empty glass has the same pixels, and a tile has those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.finding.spreading import spread
from blastscope.runtime.frames.finding.surround import surround_in, without_rim
from blastscope.runtime.frames.found import FrameFacts
from blastscope.runtime.frames.grids import Grid, grid_over, nearest_odd_factor, reduced
from blastscope.runtime.frames.part import Mask
from blastscope.runtime.frames.stain import STEP, along

WORKING_UM = 0.25  # a pixel, or the nearest that an odd number of the frame's pixels comes to
SPREAD_PIXELS = 600_000  # a smaller frame is seen by one thread before a second one has started
STRIP_ROWS = 64  # of the frame: a strip that the processor's cache holds


@dataclass(frozen=True, slots=True, eq=False)
class Working:
    """A frame in pixels of `um` micrometres."""

    grid: Grid
    um: float
    facts: FrameFacts
    picture: NDArray[np.uint8]  # (grid.height, grid.width, 3) RGB
    stain: NDArray[np.int16]  # nuclear stain, in 1/STEP
    stained: Mask  # 1 where it is stained like a nucleus
    surround: Mask | None  # 1 in the dark around the field of view; None without
    shape: tuple[int, ...]  # of the frame


def working(frame: NDArray[np.uint8], facts: FrameFacts, threads: int | None = None) -> Working:
    """`frame` (H, W, 3) at working resolution. At most `threads` are at work, and their number changes nothing."""
    grid = grid_over(frame.shape, facts.content, nearest_odd_factor(WORKING_UM / facts.pixel_um))
    picture = frame if grid.factor == 1 else np.empty((grid.height, grid.width, 3), np.uint8)
    stain = np.empty((grid.height, grid.width), np.int16)
    stained = np.empty(stain.shape, np.bool_)
    level, rows = round(facts.nucleus_threshold * STEP), max(STRIP_ROWS // grid.factor, 1)

    def look(top: int) -> None:
        end = min(top + rows, grid.height)
        if grid.factor > 1:
            strip = Grid(grid.x0, grid.y0 + top * grid.factor, grid.factor, grid.width, end - top)
            picture[top:end] = reduced(frame, strip)
        stain[top:end] = along(facts.nuclear_axis, picture[top:end], facts.background)
        np.greater(stain[top:end], level, out=stained[top:end])

    spread(look, range(0, grid.height, rows), threads if frame.size > 3 * SPREAD_PIXELS else 1)
    um, nuclear = grid.factor * facts.pixel_um, stained.view(np.uint8)
    surround = surround_in(picture, grid, facts.extent, facts.background, um)
    if surround is not None:
        nuclear = without_rim(nuclear, surround, um)
    return Working(grid, um, facts, picture, stain, nuclear, surround, frame.shape)
