"""Curves of scores against labels: ROC, and reliability with the expected calibration error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastscope.runtime.evaluation.confusion import (
    all_probabilities,
    check_both_classes,
    check_lengths,
    class_indices,
)
from blastscope.runtime.io.strict_model import StrictModel

BINS = 10


class ReliabilityBin(StrictModel):
    """The cells with a score in (low, high]; the first bin holds 0, too.

    Attributes
    ----------
    low, high : float
        The bin's ends.
    cells : int
        How many there are.
    mean_score : float or None
        None without cells.
    share_all : float or None
        Share of them whose label is ALL; None without cells.
    """

    low: float
    high: float
    cells: int
    mean_score: float | None
    share_all: float | None


class Reliability(StrictModel):
    """How far scores can be taken for probabilities: whether of cells with a score of 0.8, for example, 8 in 10 are ALL.

    Attributes
    ----------
    bins : tuple of ReliabilityBin
        Ten of equal width.
    expected_calibration_error : float
        Mean distance of a bin's mean score from its share of ALL, weighted by cells.
    """

    bins: tuple[ReliabilityBin, ...]
    expected_calibration_error: float


class RocCurve(NamedTuple):
    """The receiver operating characteristic; cells with a score at or above a threshold are called ALL.

    Attributes
    ----------
    false_positive_rate, true_positive_rate : (T,) float64 array
        Both rates for each threshold.
    thresholds : (T,) float64 array
        Falling from infinity.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The receiver operating characteristic, from (0, 0) to (1, 1), with a point for each distinct score.

    Parameters
    ----------
    labels : (N,) array of int
        0 hem, 1 all. Both must be there.
    scores : (N,) array of float
        Probabilities of ALL.

    Returns
    -------
    RocCurve

    Raises
    ------
    UsageError
        Labels and scores aren't as they must be.
    """
    truth, score = class_indices("labels", labels), all_probabilities(scores)
    check_lengths(truth, score)
    check_both_classes(truth)
    thresholds, place = np.unique(-score, return_inverse=True)
    hits = np.cumsum(np.bincount(place, weights=truth))
    alarms = np.cumsum(np.bincount(place, weights=1 - truth))
    return RocCurve(np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]], np.r_[np.inf, -thresholds])


def reliability(labels: ArrayLike, scores: ArrayLike) -> Reliability:
    """The reliability curve in ten bins of equal width.

    Parameters
    ----------
    labels : (N,) array of int
        0 hem, 1 all.
    scores : (N,) array of float
        Probabilities of ALL.

    Returns
    -------
    Reliability

    Raises
    ------
    UsageError
        Labels and scores aren't as they must be.
    """
    truth, score = class_indices("labels", labels), all_probabilities(scores)
    check_lengths(truth, score)
    edges = np.linspace(0, 1, BINS + 1)
    place = np.searchsorted(edges[1:-1], score)
    count = np.bincount(place, minlength=BINS)
    mean, share = (np.bincount(place, weights=of, minlength=BINS) / np.maximum(count, 1) for of in (score, truth))
    bins = tuple(
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            cells=int(count[i]),
            mean_score=float(mean[i]) if count[i] else None,
            share_all=float(share[i]) if count[i] else None,
        )
        for i in range(BINS)
    )
    return Reliability(bins=bins, expected_calibration_error=float(np.abs(mean - share) @ count / len(score)))
