"""Otsu's threshold in exact integers, so that no rounding can part two implementations."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

STRIP_PX = 1 << 23  # OpenCV counts in float32, which is exact below 2^24
NEARLY_EQUAL = 1 - 1e-9  # far wider than the rounding of the few float64 operations below


def histogram_of(gray: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many pixels of `gray` (H, W) have each of the 256 values, exactly."""
    flat = gray.reshape(1, -1)
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.shape[1], STRIP_PX):
        strip = flat[:, start : start + STRIP_PX]
        counts += np.ravel(cv2.calcHist([strip], [0], None, [256], [0, 256])).astype(np.int64)
    return counts


def otsu_threshold(histogram: NDArray[np.int64]) -> int:
    """The threshold t whose classes gray <= t and gray > t differ most between them; of equals the first.

    The variance between the classes is (N m - n M)^2 / (n (N - n)), up to a constant factor: n and m are count and sum up to t,
    N and M those of all pixels. With a single gray value that value is the answer, and nothing is brighter.
    """
    values = np.flatnonzero(histogram)  # an empty bin repeats its predecessor's variance, so it is never the first
    counts = histogram[values]
    below, total = np.cumsum(counts)[:-1], int(counts.sum())
    if not below.size:
        return int(values[0])
    sums = np.cumsum(counts * values)
    # |N m - n M| <= 255 N^2 / 4, exact in int64 up to 380 million pixels
    distance = total * sums[:-1] - below * int(sums[-1])
    variance = distance.astype(np.float64) ** 2 / (below.astype(np.float64) * (total - below))
    near = np.flatnonzero(variance >= variance.max() * NEARLY_EQUAL)
    best = near[0] if len(near) == 1 else max(near, key=lambda i: _exact(int(distance[i]), int(below[i]), total))
    return int(values[best])


def _exact(distance: int, below: int, total: int) -> Fraction:
    return Fraction(distance * distance, below * (total - below))
