"""Optical density, stain vectors, and normalisation of a cell's stain to C-NMC's.

Optical density over the background doesn't depend on a camera's white balance. In it red cells lie along one direction, however
thick they are and however many overlap. The component at a right angle to that direction is near 0 for them, and large for
nuclei.

A cell is normalised by its own colours, since a slide may hold one cell only. What the depth of its stain may tell is lost by
that; the specification's `stain` turns it off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.mask_geometry import Mask
from blastscope.runtime.frames.types import Colour

Pair = tuple[float, float]

# Means over every tenth cell of C-NMC's folds 0 and 1, in the order of their paths (525 cells): the mean and the standard
# deviation of L*, a* and b* of a cell's pixels that aren't black, and `estimate_stains` of these (over a white background).
# Over the cells the mean of L* varies by 2.7, those of a* and b* by 1.7 and 1.5.
CNMC_MEAN: Colour = (18.85, 27.70, -22.67)
CNMC_SPREAD: Colour = (4.14, 3.40, 3.60)
CNMC_STAINS: tuple[Colour, Colour] = ((0.569, 0.652, 0.499), (0.495, 0.783, 0.373))
CNMC_AMOUNTS: Pair = (0.481, 2.338)
CNMC_AMOUNTS_SPREAD: Pair = (0.695, 0.610)
STRETCH = (0.5, 2.0)  # of a colour's spread: beyond it only noise is stretched
FAINT = 0.15  # Macenko's beta: density below it has no colour
EDGE = 1.0  # Macenko's alpha: percent of pixels beyond a stain's angle
FEWEST = 64  # pixels that a look is measured on
RED_CELL: Colour = (0.12, 0.28, 0.22)  # natural optical density of a red cell in R, G, B: medians over BCCD's training frames
LEAST_LIKE, LEAST_COLOUR = 0.2, 0.1  # an axis further from the usual one, or of cells with less colour, is noise
BLACK = 3.4  # no stain is so dense in blue: there the field of view ends, or someone has padded the frame
# What is so dense in red is a nucleus. A nearly black one has little colour left, so its density beyond this shows as well.
EXTRA_FROM, EXTRA = 1.0, 0.5
STEP = 4096  # of the whole numbers that stand for densities: sums of them are exact in any order


@dataclass(frozen=True, slots=True)
class Stains:
    """A cell's two stains; the first is the nucleus'.

    Attributes
    ----------
    vectors : pair of (float, float, float)
        Unit vectors of natural optical density in R, G and B.
    mean, spread : (float, float)
        Mean and standard deviation of how much there is of each.
    """

    vectors: tuple[Colour, Colour]
    mean: Pair
    spread: Pair


def normalize_stain(
    image: NDArray[np.uint8], mask: Mask, how: Literal["none", "reinhard", "macenko"], background: Colour
) -> NDArray[np.uint8]:
    """A cell in C-NMC's colours, on black.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
        RGB.
    mask : (H, W) uint8 array
        Not 0 where the cell is.
    how : {'none', 'reinhard', 'macenko'}
        By mean and spread in CIE L*a*b* (Reinhard 2001), or by the amounts of two stains (Macenko 2009).
    background : (float, float, float)
        R, G and B of the frame's background, 0 to 255.

    Returns
    -------
    (H, W, 3) uint8 array
    """
    if cv2.countNonZero(mask) >= FEWEST and how == "reinhard":
        image = _reinhard(image, mask)
    elif cv2.countNonZero(mask) >= FEWEST and how == "macenko":
        own = mask > 0
        coloured = np.zeros_like(image)
        coloured[own] = _macenko(image[own], background)
        image = coloured
    return np.asarray(cv2.copyTo(image, mask), np.uint8)


def estimate_stains(pixels: NDArray[np.uint8], background: Colour) -> Stains | None:
    """The two stains of these pixels (N, 3) RGB after Macenko (2009); None where they show fewer than two."""
    optical_density = _density(pixels, background)
    strong = optical_density[(optical_density > FAINT).any(axis=1)]
    if len(strong) < FEWEST:
        return None
    plane = np.linalg.eigh(np.cov(strong.T))[1][:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    spots = strong @ plane
    angles = np.arctan2(spots[:, 1], spots[:, 0])
    ends = np.percentile(angles, (EDGE, 100 - EDGE))
    vectors = [plane @ np.asarray((np.cos(end), np.sin(end))) for end in ends]
    vectors = [np.maximum(vector, 0.0) / max(float(np.linalg.norm(np.maximum(vector, 0.0))), 1e-6) for vector in vectors]
    first, second = sorted(vectors, key=lambda vector: -float(vector[0]))  # the first lets least red through: the nucleus'
    if float(first @ second) > 0.9999:
        return None
    amounts = optical_density @ np.linalg.pinv(np.stack([first, second]))
    mean, spread = amounts.mean(axis=0), amounts.std(axis=0)
    return Stains((_colour(first), _colour(second)), (float(mean[0]), float(mean[1])), (float(spread[0]), float(spread[1])))


def _reinhard(image: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """The pixels under `mask` with C-NMC's mean and spread of L, a and b (Reinhard, 2001)."""
    lab = _lab(image)
    mean, spread = (np.asarray(figures, np.float64).ravel() for figures in cv2.meanStdDev(lab, mask=mask))
    stretch = np.clip(np.asarray(CNMC_SPREAD) / np.maximum(spread, 1e-3), *STRETCH)
    shift = np.asarray(CNMC_MEAN) - mean * stretch
    moved = np.asarray(cv2.transform(lab, np.column_stack([np.diag(stretch), shift])), np.float32)
    return _bright(cv2.cvtColor(moved, cv2.COLOR_Lab2RGB) * np.float32(255))


def _macenko(pixels: NDArray[np.uint8], background: Colour) -> NDArray[np.uint8]:
    """The pixels with C-NMC's stains in place of their own, as much and as varied: its cells are dark all over."""
    own = estimate_stains(pixels, background)
    if own is None:
        return pixels
    amounts = _density(pixels, background) @ np.linalg.pinv(np.asarray(own.vectors))
    stretch = np.clip(np.asarray(CNMC_AMOUNTS_SPREAD) / np.maximum(np.asarray(own.spread), 1e-3), *STRETCH)
    amounts = (amounts - np.asarray(own.mean)) * stretch + np.asarray(CNMC_AMOUNTS)
    return _bright(255 * np.exp(-np.maximum(amounts, 0) @ np.asarray(CNMC_STAINS)))


def _lab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    # from linear light: exact, and in half the time of OpenCV's own way there, which interpolates
    return np.asarray(cv2.cvtColor(cv2.LUT(image, _linear_light()), cv2.COLOR_LRGB2Lab), np.float32)


@lru_cache(maxsize=1)
def _linear_light() -> NDArray[np.float32]:
    """(256,) the share of light that each level of sRGB stands for."""
    levels = np.arange(256) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _density(pixels: NDArray[np.uint8], background: Colour) -> NDArray[np.float64]:
    return np.asarray(-np.log((pixels.astype(np.float64) + 1) / (np.asarray(background) + 1)), np.float64)


def _bright(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Whole levels, none of them black: what is black is around the cell."""
    return np.asarray(np.clip(np.rint(values), 1, 255), np.uint8)


def _colour(values: NDArray[np.float64]) -> Colour:
    return float(values[0]), float(values[1]), float(values[2])


def optical_density(picture: NDArray[np.uint8], background: Colour) -> tuple[NDArray[np.float32], ...]:
    """Natural optical density over the background, (H, W) each of red, green and blue; brighter than background is negative."""
    levels = np.ascontiguousarray(_densities(background).T, np.float32)
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


def project_density(axis: Colour, picture: NDArray[np.uint8], background: Colour) -> NDArray[np.int16]:
    """How much nuclear stain each pixel shows; background and red cells are near 0.

    Parameters
    ----------
    axis : (float, float, float)
        Weight of the optical density in R, G and B.
    picture : (H, W, 3) uint8 array
        RGB.
    background : (float, float, float)
        R, G and B of the background, 0 to 255.

    Returns
    -------
    (H, W) int16 array
        In 1 / STEP.
    """
    # whole numbers have exact sums, so a pixel shows the same wherever it stands in the frame; channel by channel it takes
    # a quarter of the time
    red, green, blue = map(cv2.LUT, cv2.split(picture), _shares(axis, background))
    return np.asarray(cv2.add(cv2.add(red, green), blue), np.int16)


@lru_cache(maxsize=16)
def _shares(axis: Colour, background: Colour) -> tuple[NDArray[np.int16], ...]:
    """What each level of each channel shows of nuclear stain."""
    densities = _densities(background)
    shown = densities * np.asarray(axis)
    shown[:, 0] += EXTRA * np.maximum(densities[:, 0] - EXTRA_FROM, 0)
    steps = np.clip(np.rint(shown * STEP), -10_000, 10_000).astype(np.int16)
    steps[densities[:, 2] > BLACK, 2] = -30_000
    return tuple(np.ascontiguousarray(channel) for channel in steps.T)


def _densities(background: Colour) -> NDArray[np.float64]:
    """(256, 3) the density of each level of each channel."""
    levels = np.arange(256, dtype=np.float64)[:, None] + 1
    return np.asarray(-np.log(levels / (np.asarray(background) + 1)), np.float64)
