"""A frame at the resolution that its cells are looked for and outlined in.

The squares that a pixel stands for are laid by what the frame shows, as `FrameFacts.content` records it: so a frame that is
turned, flipped or shifted over empty glass has the same pixels, and a tile has those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.finding.surround import surround_in, without_rim
from blastscope.runtime.frames.found import FrameFacts
from blastscope.runtime.frames.grids import Grid, nearest_odd_factor
from blastscope.runtime.frames.part import Mask
from blastscope.runtime.frames.pictures import Pictures
from blastscope.runtime.frames.spreading import spread, strips, threads_for
from blastscope.runtime.frames.stain import STEP, along

WORKING_UM = 0.25  # a pixel, or the nearest that an odd number of the frame's pixels comes to
STRIP_PIXELS = 100_000  # a strip that the processor's cache holds


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


def working(pictures: Pictures, facts: FrameFacts) -> Working:
    """A frame at working resolution."""
    grid, picture = pictures.over(facts.content, nearest_odd_factor(WORKING_UM / facts.pixel_um))
    stain, stained = np.empty(picture.shape[:2], np.int16), np.empty(picture.shape[:2], np.bool_)
    level = round(facts.nucleus_threshold * STEP)

    def look(rows: slice) -> None:
        stain[rows] = along(facts.nuclear_axis, picture[rows], facts.background)
        np.greater(stain[rows], level, out=stained[rows])

    pieces = strips(slice(0, grid.height), STRIP_PIXELS // grid.width)
    spread(look, pieces, threads_for(stain.size, pictures.threads))
    um, nuclear = grid.factor * facts.pixel_um, stained.view(np.uint8)
    surround = surround_in(picture, grid, facts.extent, facts.background, um)
    if surround is not None:
        nuclear = without_rim(nuclear, surround, um)
    return Working(grid, um, facts, picture, stain, nuclear, surround, pictures.frame.shape)
