"""The stain map of a frame at working resolution, and the field of view.

The squares that a pixel stands for are laid by what the frame shows, as `FrameParameters.content` records it: so a frame
that is turned, flipped or shifted over empty background has the same pixels, and a tile has those of the whole.

The dark around a round field of view, whatever its shade: a camera's own light, or a stop in the eyepiece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import Grid, ImagePyramid, nearest_odd_factor
from blastscope.runtime.frames.mask_geometry import Mask, framed
from blastscope.runtime.frames.stain import STEP, project_density
from blastscope.runtime.frames.types import Colour, FrameParameters
from blastscope.runtime.io.concurrency import parallel_map, row_strips, threads_for
from blastscope.runtime.types import Box

WORKING_UM = 0.25  # a pixel, or the nearest that an odd number of the frame's pixels comes to
STRIP_PIXELS = 100_000  # a strip that the processor's cache holds
# Of the background's level. What is darker in every channel has a density above `stain.EXTRA_FROM`: it looks like a nearly
# black nucleus, and only its size tells.
DARK_SHARE = 0.37
WIDEST_NUCLEUS_UM = 16.0  # where the dark is less deep, it is at least as long along the frame's edge
EDGE_UM = 0.5  # how soft the edge of the dark is
RIM_UM = 1.5  # what of its blurred edge is left is narrower than this


@dataclass(frozen=True, slots=True, eq=False)
class StainMap:
    """A frame in pixels of `um` micrometres.

    Attributes
    ----------
    grid : Grid
        Where the map lies in the frame.
    um : float
        Micrometres per pixel of the map.
    parameters : FrameParameters
        The frame's scale and stain.
    picture : (grid.height, grid.width, 3) uint8 array
        RGB.
    stain : (grid.height, grid.width) int16 array
        Nuclear stain, in 1 / STEP.
    stained : (grid.height, grid.width) uint8 array
        1 where it is stained like a nucleus.
    surround : (grid.height, grid.width) uint8 array or None
        1 in the dark around the field of view; None where there is none.
    shape : tuple of int
        Of the frame: height, width, channels.
    """

    grid: Grid
    um: float
    parameters: FrameParameters
    picture: NDArray[np.uint8]
    stain: NDArray[np.int16]
    stained: Mask
    surround: Mask | None
    shape: tuple[int, ...]


def make_stain_map(pictures: ImagePyramid, parameters: FrameParameters) -> StainMap:
    """The stain map of a frame at working resolution."""
    grid, picture = pictures.over(parameters.content, nearest_odd_factor(WORKING_UM / parameters.pixel_um))
    stain, stained = np.empty(picture.shape[:2], np.int16), np.empty(picture.shape[:2], np.bool_)
    level = round(parameters.nucleus_threshold * STEP)

    def look(rows: slice) -> None:
        stain[rows] = project_density(parameters.nuclear_axis, picture[rows], parameters.background)
        np.greater(stain[rows], level, out=stained[rows])

    pieces = row_strips(slice(0, grid.height), STRIP_PIXELS // grid.width)
    parallel_map(look, pieces, threads_for(stain.size, pictures.threads))
    um, nuclear = grid.factor * parameters.pixel_um, stained.view(np.uint8)
    surround = field_of_view_surround(picture, grid, parameters.extent, parameters.background, um)
    if surround is not None:
        nuclear = without_rim(nuclear, surround, um)
    return StainMap(grid, um, parameters, picture, stain, nuclear, surround, pictures.frame.shape)


def field_of_view_surround(picture: NDArray[np.uint8], grid: Grid, extent: Box, background: Colour, um: float) -> Mask | None:
    """The dark around the field of view: what is dark and wider than a nucleus, with the blur of its edge.

    What lies beyond the whole frame counts as dark. So only what is near decides, and a tile has what the whole frame has.

    Parameters
    ----------
    picture : (h, w, 3) uint8 array
        RGB, at working resolution.
    grid : Grid
        Where it lies in the frame.
    extent : (x0, y0, x1, y1)
        The whole frame.
    background : (float, float, float)
        R, G and B of the background, 0 to 255.
    um : float
        Micrometres per pixel of the picture.

    Returns
    -------
    (h, w) uint8 array or None
        1 in the dark; None where it is dark nowhere.
    """
    red, green, blue = (DARK_SHARE * level for level in background)
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
