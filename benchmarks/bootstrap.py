"""Bootstrap intervals over rounds of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
INTERVAL = (2.5, 97.5)  # percentiles: 95 %
Rounds = Sequence[NDArray[np.float64]]  # the calls of each round, in milliseconds


def ratio_interval(above: Rounds, below: Rounds, *, seed: int = 0) -> tuple[float, float]:
    """The interval of median(above) / median(below), both sides of one run: round by round they are drawn together.

    With one round it is the ratio itself twice: a single round says nothing of how much rounds differ.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} and {len(below)} rounds: sides that ran in turn have as many")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(above), (DRAWS, len(above)))
    ratios = [_median(above, places) / _median(below, places) for places in drawn]
    low, high = np.percentile(ratios, INTERVAL)
    return float(low), float(high)


def change_interval(old: Rounds, new: Rounds, *, seed: int = 0) -> tuple[float, float]:
    """The interval of median(new) / median(old) of two runs, whose rounds have nothing in common."""
    rng = np.random.default_rng(seed)
    changes = [
        _median(new, rng.integers(0, len(new), len(new))) / _median(old, rng.integers(0, len(old), len(old)))
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(changes, INTERVAL)
    return float(low), float(high)


def _median(rounds: Rounds, places: NDArray[np.int64]) -> float:
    return float(np.median(np.concatenate([rounds[place] for place in places])))
