"""The dark around a round field of view, whatever its shade: a camera's own light, or a stop in the eyepiece."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import Colour
from blastscope.runtime.frames.grids import Grid
from blastscope.runtime.frames.part import Mask, framed
from blastscope.runtime.prediction import Box

# Of the glass' level. What is darker in every channel has a density above `stain.EXTRA_FROM`: it looks like a nearly black
# nucleus, and only its size tells.
DARK_SHARE = 0.37
WIDEST_NUCLEUS_UM = 16.0  # where the dark is less deep, it is at least as long along the frame's edge
EDGE_UM = 0.5  # how soft the edge of the dark is
RIM_UM = 1.5  # what of its blurred edge is left is narrower than this


def surround_in(picture: NDArray[np.uint8], grid: Grid, extent: Box, glass: Colour, um: float) -> Mask | None:
    """Where `picture` (h, w, 3) is dark and wider than a nucleus, and the blur of its edge; None where it is so nowhere.

    It lies on `grid` in the whole frame's `extent`, beyond which it counts as dark. So nothing but what is near tells, and a
    tile has what the whole frame has.
    """
    red, green, blue = (DARK_SHARE * level for level in glass)
    dark = np.asarray(cv2.inRange(picture, (0.0, 0.0, 0.0), (red, green, blue)), np.uint8) & np.uint8(1)
    if not cv2.countNonZero(dark):
        return None
    brush = _square(WIDEST_NUCLEUS_UM / 2, um)
    side = len(brush)
    beyond = framed(dark, side)
    left, top, right, bottom = _squares(extent, grid)
    beyond[:, : max(left + side, 0)] = beyond[: max(top + side, 0)] = 1
    beyond[:, max(right + side, 0) :] = beyond[max(bottom + side, 0) :] = 1
    wide = cv2.morphologyEx(beyond, cv2.MORPH_OPEN, brush)
    shown = np.asarray(wide, np.uint8)[side:-side, side:-side] & dark
    return np.asarray(cv2.dilate(shown, _square(EDGE_UM, um)), np.uint8) if cv2.countNonZero(shown) else None


def without_rim(stained: Mask, surround: Mask, um: float) -> Mask:
    """What is stained, without the surround and what is left of its blurred edge."""
    left = stained & (1 - surround)
    near = np.asarray(cv2.dilate(surround, _square(RIM_UM, um)), np.uint8)
    rimless = np.asarray(cv2.morphologyEx(left, cv2.MORPH_OPEN, _square(RIM_UM / 2, um)), np.uint8)
    return left & (rimless | (1 - near))


def _squares(box: Box, grid: Grid) -> tuple[int, int, int, int]:
    """The first and the last squares that lie wholly in `box`, which may lie beyond the grid."""
    left, top = (-((start - end) // grid.factor) for start, end in ((grid.x0, box[0]), (grid.y0, box[1])))
    return left, top, (box[2] - grid.x0) // grid.factor, (box[3] - grid.y0) // grid.factor


def _square(reach_um: float, um: float) -> Mask:
    side = 2 * math.ceil(reach_um / um) + 1
    return np.ones((side, side), np.uint8)
