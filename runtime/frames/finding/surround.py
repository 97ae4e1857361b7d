"""The dark around a round field of view, whatever its shade: a camera's own light, or a stop in the eyepiece."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import Colour
from blastscope.runtime.frames.part import Mask

# Of the glass' level. What is darker in every channel has a density above `stain.EXTRA_FROM`: it looks like a nearly black
# nucleus, and only its size tells.
DARK_SHARE = 0.37
WIDE_UM = 1.5  # what is narrower is a grain of chromatin
EDGE_UM = 0.5  # how soft the edge of the dark is


def dark_in(picture: NDArray[np.uint8], among: Mask, glass: Colour, um: float) -> Mask | None:
    """What of `among` is dark in every channel and wide, and the blur of its edge; None where nothing is.

    `picture` (h, w, 3) has pixels of `um` micrometres.
    """
    red, green, blue = (DARK_SHARE * level for level in glass)
    dark = np.asarray(cv2.inRange(picture, (0.0, 0.0, 0.0), (red, green, blue)), np.uint8) & among
    if not cv2.countNonZero(dark):
        return None
    wide = cv2.morphologyEx(dark, cv2.MORPH_OPEN, _square(WIDE_UM / 2, um))
    return np.asarray(cv2.dilate(wide, _square(EDGE_UM, um)), np.uint8)


def without_rim(mask: Mask, um: float) -> Mask:
    """The mask without what is as narrow as the dark's blurred rim."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _square(WIDE_UM / 2, um)), np.uint8)


def blurred(mask: Mask, um: float) -> Mask:
    """The mask with the blur of its edge."""
    return np.asarray(cv2.dilate(mask, _square(EDGE_UM, um)), np.uint8)


def _square(reach_um: float, um: float) -> Mask:
    side = 2 * math.ceil(reach_um / um) + 1
    return np.ones((side, side), np.uint8)
