"""Otsu's threshold and quantiles of whole numbers.

A quantile is one of the values themselves, so it is exact, and found faster than by numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 64


def split_threshold(values: NDArray[np.int32]) -> int:
    """What parts `values` into a lower and an upper class; what exceeds it is in the upper."""
    if len(values) < 2:
        return 0
    low, high = int(quantile(values, 0.01)), int(quantile(values, 0.99))
    step = max((high - low) // BINS, 1)
    counts = np.bincount((np.clip(values, low, high) - low) // step).astype(np.float64)
    below = counts.cumsum()[:-1]
    above = len(values) - below
    if not len(below):
        return low
    mass = (counts * np.arange(len(counts))).cumsum()
    apart = mass[:-1] / np.maximum(below, 1) - (mass[-1] - mass[:-1]) / np.maximum(above, 1)
    return low + (int(np.argmax(below * above * apart * apart)) + 1) * step - 1


def quantile(values: NDArray[Any], share: float) -> float:
    """The value that about `share` of `values` lie below; the upper of two in the middle."""
    place = min(int(share * len(values)), len(values) - 1)
    ordered = values.copy()
    ordered.partition(place)  # the method: the function of the same name takes as long again for a cell's few pixels
    return float(ordered[place])


def median(values: NDArray[Any]) -> float:
    """The median, one of the values themselves."""
    return quantile(values, 0.5)
