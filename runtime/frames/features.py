"""Shape and colour features of a cell, for the drift monitor."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

STEP = 2  # every second pixel of every second row: at the scale of the networks enough, and the same for every cell
LEAST_PIXELS = 9


class CellFeatures(NamedTuple):
    """Figures of one cell as the networks see it.

    Attributes
    ----------
    diameter_px : float
        Diameter of the circle of its area, in pixels of the crop.
    elongation : float
        Longer axis by shorter, 1 for a circle.
    lightness : float
        Mean CIE L*, 0 to 100.
    green_red : float
        Mean CIE a*: the stain's red.
    blue_yellow : float
        Mean CIE b*: negative is blue.
    contrast : float
        Standard deviation of L*: nucleus against plasm.
    texture : float
        Mean absolute Laplacian of L*, away from the rim: chromatin, and sharpness.
    """

    diameter_px: float
    elongation: float
    lightness: float
    green_red: float
    blue_yellow: float
    contrast: float
    texture: float


def cell_features(image: NDArray[np.uint8]) -> CellFeatures | None:
    """The figures of the cell in `image` (H, W, 3) uint8 RGB on pure black; None where there is nothing but black."""
    small = np.ascontiguousarray(_lit(image[::STEP])[:, ::STEP])  # as they are: a mean would mix the rim with black
    if not small.size:
        return None
    mask = np.where(small[..., 0] | small[..., 1] | small[..., 2], np.uint8(255), np.uint8(0))
    moments = cv2.moments(mask, binaryImage=True)
    if moments["m00"] < LEAST_PIXELS:
        return None
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2Lab)  # 8 bits: L* times 2.55, a* and b* plus 128
    means, spreads = (figures.ravel() for figures in cv2.meanStdDev(lab, mask=mask))
    return CellFeatures(
        diameter_px=STEP * 2 * math.sqrt(moments["m00"] / math.pi),
        elongation=_elongation(moments),
        lightness=float(means[0]) / 2.55,
        green_red=float(means[1]) - 128,
        blue_yellow=float(means[2]) - 128,
        contrast=float(spreads[0]) / 2.55,
        texture=_texture(np.ascontiguousarray(lab[..., 0], np.uint8), mask) / 2.55,
    )


def _lit(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of `rows` (H, W, 3) outside of which all is black: on C-NMC a fifth of it. It begins at an even column."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(rows).reshape(len(rows), 3 * rows.shape[1]))
    return rows[y : y + height, x // 3 // STEP * STEP : -(-(x + width) // 3)]


def _elongation(moments: dict[str, float]) -> float:
    across, down, both = (moments[name] / moments["m00"] for name in ("mu20", "mu02", "mu11"))
    spread = math.hypot(across - down, 2 * both)
    return math.sqrt((across + down + spread + 1e-6) / max(across + down - spread, 1e-6))


def _texture(lightness: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    return float(cv2.mean(cv2.convertScaleAbs(cv2.Laplacian(lightness, cv2.CV_16S)), mask=inside)[0])
