"""Bootstrap intervals of ratios of medians: whole rounds are resampled, since calls of one round share the machine's state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)  # of a 95 % interval
RoundTimes = Sequence[NDArray[np.float64]]  # for each round float64 (N,): milliseconds of its calls


def ratio_interval(numerator: RoundTimes, denominator: RoundTimes, *, seed: int = 0) -> tuple[float, float]:
    """The interval of median(numerator) / median(denominator) of two contenders of one run, whose rounds are drawn in pairs.

    Parameters
    ----------
    numerator, denominator
        The calls of each round, in milliseconds; both have the same number of rounds.
    seed
        Of the random generator.

    Returns
    -------
    tuple of float
        Lower and upper end of the 95 % interval. With one round both are the ratio itself: one round doesn't show how much
        rounds differ.

    Raises
    ------
    ValueError
        The numbers of rounds differ.
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds: contenders of one run have equally many")
    rng = np.random.default_rng(seed)
    resamples = rng.integers(0, len(numerator), (RESAMPLES, len(numerator)))
    ratios = [_median(numerator, rounds) / _median(denominator, rounds) for rounds in resamples]
    low, high = np.percentile(ratios, PERCENTILES)
    return float(low), float(high)


def change_interval(old: RoundTimes, new: RoundTimes, *, seed: int = 0) -> tuple[float, float]:
    """The interval of median(new) / median(old) of two separate runs, whose rounds are drawn independently.

    Parameters
    ----------
    old, new
        The calls of each round, in milliseconds.
    seed
        Of the random generator.

    Returns
    -------
    tuple of float
        Lower and upper end of the 95 % interval.
    """
    rng = np.random.default_rng(seed)
    ratios = [
        _median(new, rng.integers(0, len(new), len(new))) / _median(old, rng.integers(0, len(old), len(old)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(ratios, PERCENTILES)
    return float(low), float(high)


def _median(rounds: RoundTimes, indices: NDArray[np.int64]) -> float:
    return float(np.median(np.concatenate([rounds[index] for index in indices])))
