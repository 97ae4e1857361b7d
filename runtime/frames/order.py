"""Order statistics that are one of the values themselves: exact, and without the toll that numpy's quantiles take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def at_share(values: NDArray[Any], share: float) -> float:
    """The value that about `share` of `values` lie below; the upper of two in the middle."""
    place = min(int(share * len(values)), len(values) - 1)
    return float(np.partition(values, place)[place])


def middle(values: NDArray[Any]) -> float:
    """The median."""
    return at_share(values, 0.5)
