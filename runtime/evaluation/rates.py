"""Rates and curves of calls and scores against labels: accuracy, recall, weighted F1, AUROC, ROC, and reliability.

Cells are counted by patient, and a bootstrap weighs patients, so a rate of a thousand draws takes one matrix product. Functions
here check and count; `metrics` makes records of what they give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.bootstrap import Grouping
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES

ROUNDING = 1e-5  # an engine's softmax may round past one
BINS = 10  # of a reliability curve


def class_indices(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """Labels or calls (N,), 0 hem and 1 all, as int64. Raises `UsageError` for others; `name` is what it calls them."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iub" or np.any((array != 0) & (array != 1)):
        raise UsageError(f"{name} must be (N,) indices into {CLASSES}, 0 or 1, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def all_probabilities(values: ArrayLike) -> NDArray[np.float64]:
    """Probabilities of ALL (N,), none above 1. Raises `UsageError` for what is none."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.all((array >= 0) & (array <= 1 + ROUNDING)):
        raise UsageError(f"scores must be (N,) probabilities of all, from 0 to 1; got shape {array.shape}, or values outside")
    return np.minimum(array, 1.0)


def check_lengths(first: NDArray[np.int64], *others: NDArray[np.int64] | NDArray[np.float64] | Sequence[str]) -> None:
    """Raises `UsageError` without cells, and where the arguments differ in length."""
    lengths = [len(first), *map(len, others)]
    if len(set(lengths)) != 1:
        raise UsageError(f"there must be one entry a cell in each, not {lengths}")
    if not len(first):
        raise UsageError("there are no cells to score")


def check_both_classes(truth: NDArray[np.int64]) -> None:
    """Raises `UsageError` where the labels (N,) are of one class alone."""
    present = np.unique(truth)
    if len(present) == 1:
        raise UsageError(f"there are only {CLASSES[present[0]]} cells: sensitivity, specificity and AUROC need both classes")


def confusion_counts(truth: NDArray[np.int64], called: NDArray[np.int64], cells: Grouping) -> NDArray[np.float64]:
    """Cells counted by patient, label and call.

    Parameters
    ----------
    truth, called : (N,) int64 array
        0 hem, 1 all.
    cells : Grouping
        The patient of each cell, of P patients.

    Returns
    -------
    (P, 2, 2) float64 array
    """
    places = cells.of_cell * 4 + truth * 2 + called
    return np.bincount(places, minlength=4 * len(cells.names)).reshape(-1, 2, 2).astype(np.float64)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """`part` by `whole`, element by element; 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def accuracy(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of right calls (...) from confusion counts (..., 2, 2): one matrix, or those of all draws."""
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def recall(counts: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """The share of a class's cells that are called so (...), from confusion counts (..., 2, 2)."""
    return ratio(counts[..., label, label], counts[..., label, :].sum(axis=-1))


def weighted_f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of both classes' F1 by their cells (...), from confusion counts (..., 2, 2)."""
    right, support, called = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)
    f1 = ratio(2 * right, support + called)
    return ratio((f1 * support).sum(axis=-1), support.sum(axis=-1))


def outscored_pairs(truth: NDArray[np.int64], score: NDArray[np.float64], cells: Grouping) -> NDArray[np.float64]:
    """Mann-Whitney counts: how often a cell of one ALL patient outscores one of a HEM patient, ties counting half.

    Sums of these by patient give the AUROC of any draw, so that a thousand draws need no sorting.

    Parameters
    ----------
    truth : (N,) int64 array
        0 hem, 1 all.
    score : (N,) float64 array
        Probabilities of ALL.
    cells : Grouping
        The patient of each cell, of P patients.

    Returns
    -------
    (P, P) float64 array
        A row for each ALL patient, a column for each HEM patient.
    """
    wins = np.zeros((len(cells.names), len(cells.names)))
    malignant = truth == 1
    for normal in np.unique(cells.of_cell[~malignant]):
        below = np.sort(score[~malignant & (cells.of_cell == normal)])
        beaten = (np.searchsorted(below, score, "left") + np.searchsorted(below, score, "right")) / 2
        wins[:, normal] = cells.total(np.where(malignant, beaten, 0.0))
    return wins


def auroc(wins: NDArray[np.float64], counts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The AUROC of each draw of patients.

    Parameters
    ----------
    wins : (P, P) float64 array
        As `outscored_pairs` gives them.
    counts : (P, 2, 2) float64 array
        As `confusion_counts` gives them.
    weights : (D, P) float64 array
        How often each draw has each patient.

    Returns
    -------
    (D,) float64 array
    """
    pairs: NDArray[np.float64] = (weights @ counts.sum(axis=2)).prod(axis=1)  # HEM cells times ALL cells
    outscored: NDArray[np.float64] = ((weights @ wins) * weights).sum(axis=1)
    return outscored / pairs


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
