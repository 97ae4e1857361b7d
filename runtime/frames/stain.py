"""Optical density, and the axis in it along which nuclei lie far out and red cells lie at zero.

Density over the glass makes a camera's white balance drop out. A red cell's density has one direction, whatever its
thickness and however many overlap; the component at a right angle to it is what red cells cannot show, and nuclei show
most.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import Colour

RED_CELL: Colour = (0.12, 0.28, 0.22)  # natural optical density of a red cell in R, G, B: medians over BCCD's training frames
LEAST_LIKE, LEAST_COLOUR = 0.2, 0.1  # an axis further from the usual one, or of cells with less colour, is noise
BLACK = 3.4  # no stain is so dense in blue: there the field of view ends, or someone has padded the frame
# What is so dense in red is a nucleus. A nearly black one has little colour left, so its density beyond this shows as well.
EXTRA_FROM, EXTRA = 1.0, 0.5
STEP = 4096  # of the whole numbers that stand for densities: sums of them are exact in any order


def density(picture: NDArray[np.uint8], glass: Colour) -> tuple[NDArray[np.float32], ...]:
    """Natural optical density over the glass, (H, W) each of red, green and blue; brighter than glass is negative."""
    levels = np.ascontiguousarray(_densities(glass).T, np.float32)
    return tuple(np.asarray(cv2.LUT(channel, own), np.float32) for channel, own in zip(cv2.split(picture), levels, strict=True))


def nuclear_axis(red: Colour) -> Colour:
    """The unit vector that neither `red` nor gray shows on; of usual red cells where these are all but gray themselves.

    Gray is dust, and the rim of the field of view.
    """
    usual, own = _beside_gray(RED_CELL), _beside_gray(red)
    like = float(usual @ own) / float(np.linalg.norm(usual) * np.linalg.norm(own) + 1e-12)
    chosen = own if like > LEAST_LIKE and np.linalg.norm(own) > LEAST_COLOUR * np.linalg.norm(red) else usual
    weights = chosen / np.linalg.norm(chosen)
    return round(float(weights[0]), 4), round(float(weights[1]), 4), round(float(weights[2]), 4)


def _beside_gray(colour: Colour) -> NDArray[np.float64]:
    """At a right angle to `colour` and to gray: their cross product, without numpy's toll."""
    red, green, blue = colour
    return np.asarray((green - blue, blue - red, red - green))


def along(axis: Colour, picture: NDArray[np.uint8], glass: Colour) -> NDArray[np.int16]:
    """(H, W) how much nuclear stain each pixel shows, in 1/STEP; glass and red cells are near 0."""
    # whole numbers have exact sums, so a pixel shows the same wherever it stands in the frame; channel by channel it takes
    # a quarter of the time
    red, green, blue = map(cv2.LUT, cv2.split(picture), _shares(axis, glass))
    return np.asarray(cv2.add(cv2.add(red, green), blue), np.int16)


@lru_cache(maxsize=16)
def _shares(axis: Colour, glass: Colour) -> tuple[NDArray[np.int16], ...]:
    """What each level of each channel shows of nuclear stain."""
    densities = _densities(glass)
    shown = densities * np.asarray(axis)
    shown[:, 0] += EXTRA * np.maximum(densities[:, 0] - EXTRA_FROM, 0)
    steps = np.clip(np.rint(shown * STEP), -10_000, 10_000).astype(np.int16)
    steps[densities[:, 2] > BLACK, 2] = -30_000
    return tuple(np.ascontiguousarray(channel) for channel in steps.T)


def _densities(glass: Colour) -> NDArray[np.float64]:
    """(256, 3) the density of each level of each channel."""
    levels = np.arange(256, dtype=np.float64)[:, None] + 1
    return np.asarray(-np.log(levels / (np.asarray(glass) + 1)), np.float64)
