"""Classification metrics: the paper's Table 1, ROC, reliability, with 95 % bootstrap intervals over patients.

Labels and calls are indices into CLASSES (0 hem, 1 all); ALL is the positive class; a score is a probability of ALL. All in
numpy, so that a plain install can score a bundle; the tests hold every figure against scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastscope.runtime.bundle.manifest import Interval, OperatingPoint, Scores
from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.bootstrap import Grouping, bootstrap_interval, bootstrap_samples, group_rows
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, ClassName, Precision

BINS = 10
ROUNDING = 1e-5  # an engine's softmax may round past one


class ClassScores(StrictModel):
    """One row of Table 1. Precision is 0 where no cell is called so, as in scikit-learn."""

    precision: float
    recall: float
    f1: float
    support: int


class Table1(StrictModel):
    """The paper's Table 1; `weighted` is the mean of the classes' rows by support."""

    hem: ClassScores
    all: ClassScores
    weighted: ClassScores


class PatientScores(StrictModel):
    """One patient's cells taken together.

    `call` is what most of the cells are called, ALL where the halves are equal (a missed blast costs more than a second
    look); `call_by_score` is ALL where the mean score is at least 0.5.
    """

    patient: str
    label: ClassName
    cells: int
    accuracy: float
    score: float  # mean probability of ALL
    call: ClassName
    call_by_score: ClassName


class ReliabilityBin(StrictModel):
    """The cells with a score in (low, high]; the first bin holds 0, too. A bin without cells has no means."""

    low: float
    high: float
    cells: int
    mean_score: float | None
    share_all: float | None  # of its cells, those whose label is ALL


class Reliability(StrictModel):
    """How far scores can be taken for probabilities: whether of cells with a score of 0.8, for example, 8 in 10 are ALL.

    The expected calibration error is the mean distance of a bin's mean score from its share of ALL, weighted by cells.
    """

    bins: tuple[ReliabilityBin, ...]
    expected_calibration_error: float


class CallScores(StrictModel):
    """All figures of one set of calls, 0 to 1, with 95 % intervals over patients. ALL is the positive class."""

    cells: int
    table1: Table1
    confusion: tuple[tuple[int, int], tuple[int, int]]  # a row a label, a column a call, both in the order hem, all
    accuracy: Interval
    sensitivity: Interval
    specificity: Interval
    auroc: Interval
    weighted_f1: Interval
    patients: tuple[PatientScores, ...]
    reliability: Reliability

    def summary(self, precision: Precision) -> Scores:
        """The figures that a bundle's manifest keeps, as those of the graph in `precision`."""
        return Scores(
            precision=precision,
            cells=self.cells,
            patients=len(self.patients),
            weighted_f1=self.weighted_f1,
            auroc=self.auroc,
            sensitivity=self.sensitivity,
            specificity=self.specificity,
        )


class RocCurve(NamedTuple):
    """Both rates for each threshold, falling from infinity; cells with a score at or above it are called ALL."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def score_calls(
    labels: ArrayLike,
    calls: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[str],
    *,
    people: Mapping[str, str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> CallScores:
    """All figures of a set of calls against the labels.

    Parameters
    ----------
    labels, calls : (N,) array of int
        0 hem, 1 all.
    scores : (N,) array of float
        Probabilities of ALL.
    patients : sequence of N str
        The patient of each cell.
    people : mapping of str to str, optional
        The person of patient ids that share one. Intervals draw people; `CallScores.patients` has a row for each id.
    draws, seed : int
        How many bootstrap draws, and what they start from.

    Returns
    -------
    CallScores

    Raises
    ------
    UsageError
        There are no cells, only one class, a patient of two classes, lengths that differ, or a score that is no probability.
    """
    truth, called = _classes("labels", labels), _classes("calls", calls)
    score = _probabilities(scores)
    _same_length(truth, called, score, patients)
    _both_classes(truth)
    cells = group_rows(patients)
    weights = bootstrap_samples(cells.classes(truth), draws=draws, seed=seed, people=cells.people(people))
    counts = _confusion(truth, called, cells)  # (P, 2, 2)
    whole, drawn = counts.sum(axis=0), np.tensordot(weights, counts, axes=1)  # (2, 2), (draws, 2, 2)
    everyone = np.ones((1, len(cells.names)))
    wins = _wins(truth, score, cells)
    return CallScores(
        cells=len(truth),
        table1=_table1(whole),
        confusion=((int(whole[0, 0]), int(whole[0, 1])), (int(whole[1, 0]), int(whole[1, 1]))),
        accuracy=bootstrap_interval(_accuracy(whole), _accuracy(drawn)),
        sensitivity=bootstrap_interval(_recall(whole, 1), _recall(drawn, 1)),
        specificity=bootstrap_interval(_recall(whole, 0), _recall(drawn, 0)),
        auroc=bootstrap_interval(_auroc(wins, counts, everyone)[0], _auroc(wins, counts, weights)),
        weighted_f1=bootstrap_interval(_weighted_f1(whole), _weighted_f1(drawn)),
        patients=_by_patient(counts, cells.total(score), cells),
        reliability=reliability(truth, score),
    )


def flip_rate(calls_a: ArrayLike, calls_b: ArrayLike, patients: Sequence[str], *, draws: int = 1000, seed: int = 0) -> Interval:
    """The share of cells, 0 to 1, whose two calls (N,) differ, with its 95 % interval. Patients are drawn as one stratum."""
    first, second = _classes("calls_a", calls_a), _classes("calls_b", calls_b)
    _same_length(first, second, patients)
    cells = group_rows(patients)
    changed, count = cells.total((first != second).astype(np.float64)), cells.total(np.ones(len(first)))
    weights = bootstrap_samples(np.zeros(len(cells.names), dtype=np.int64), draws=draws, seed=seed)
    return bootstrap_interval(changed.sum() / count.sum(), weights @ changed / (weights @ count))


def patient_flip_rate(
    calls_a: ArrayLike, calls_b: ArrayLike, patients: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> Interval:
    """The share of patients (0 to 1) whose call by most of their cells differs, ALL where the halves are equal."""
    first, second = _classes("calls_a", calls_a), _classes("calls_b", calls_b)
    _same_length(first, second, patients)
    cells = group_rows(patients)
    count = cells.total(np.ones(len(first)))
    by_most = [2 * cells.total(calls.astype(np.float64)) >= count for calls in (first, second)]
    changed = (by_most[0] != by_most[1]).astype(np.float64)
    weights = bootstrap_samples(np.zeros(len(cells.names), dtype=np.int64), draws=draws, seed=seed)
    return bootstrap_interval(changed.mean(), weights @ changed / len(cells.names))


def f1_drop_points(
    labels: ArrayLike,
    calls_parent: ArrayLike,
    calls_child: ArrayLike,
    patients: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Weighted F1 of the parent's calls less that of the child's, in points of 100: negative where the child is better.

    Each draw takes the same patients for both, so what the two have in common falls out of the interval.
    """
    truth = _classes("labels", labels)
    parent, child = _classes("calls_parent", calls_parent), _classes("calls_child", calls_child)
    _same_length(truth, parent, child, patients)
    cells = group_rows(patients)
    weights = bootstrap_samples(cells.classes(truth), draws=draws, seed=seed)
    counts = [_confusion(truth, calls, cells) for calls in (parent, child)]
    whole = [_weighted_f1(one.sum(axis=0)) for one in counts]
    drawn = [_weighted_f1(np.tensordot(weights, one, axes=1)) for one in counts]
    return bootstrap_interval(100 * float(whole[0] - whole[1]), 100 * (drawn[0] - drawn[1]))


def find_operating_point(labels: ArrayLike, scores: ArrayLike, sensitivity: float) -> OperatingPoint:
    """The largest threshold that reaches a sensitivity on these cells, with both rates there.

    It is one of the scores, so that float32 scores compare with it exactly as they did here.

    Parameters
    ----------
    labels : (N,) array of int
        0 hem, 1 all. Both must be there.
    scores : (N,) array of float
        Probabilities of ALL.
    sensitivity : float
        The least share of the ALL cells at or above the threshold, more than 0 and at most 1.

    Returns
    -------
    OperatingPoint

    Raises
    ------
    UsageError
        The sensitivity can't be had, or labels and scores aren't as they must be.
    """
    truth, score = _classes("labels", labels), _probabilities(scores)
    _same_length(truth, score)
    _both_classes(truth)
    if not 0 < sensitivity <= 1:
        raise UsageError(f"a sensitivity of {sensitivity} can't be had: ask for more than 0 and at most 1")
    malignant = np.sort(score[truth == 1])[::-1]
    reached = np.arange(1, len(malignant) + 1) / len(malignant)
    threshold = malignant[np.searchsorted(reached, sensitivity)]
    return OperatingPoint(
        threshold=float(threshold),
        sensitivity_wanted=sensitivity,
        sensitivity=float(np.mean(malignant >= threshold)),
        specificity=float(np.mean(score[truth == 0] < threshold)),
        cells=len(truth),
    )


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The receiver operating characteristic of `scores` (N,), from (0, 0) to (1, 1), with a point for each distinct score."""
    truth, score = _classes("labels", labels), _probabilities(scores)
    _same_length(truth, score)
    _both_classes(truth)
    thresholds, place = np.unique(-score, return_inverse=True)
    hits = np.cumsum(np.bincount(place, weights=truth))
    alarms = np.cumsum(np.bincount(place, weights=1 - truth))
    return RocCurve(np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]], np.r_[np.inf, -thresholds])


def reliability(labels: ArrayLike, scores: ArrayLike) -> Reliability:
    """The reliability curve of `scores` (N,) in ten bins of equal width."""
    truth, score = _classes("labels", labels), _probabilities(scores)
    _same_length(truth, score)
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


def _classes(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iub" or np.any((array != 0) & (array != 1)):
        raise UsageError(f"{name} must be (N,) indices into {CLASSES}, 0 or 1, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.all((array >= 0) & (array <= 1 + ROUNDING)):
        raise UsageError(f"scores must be (N,) probabilities of all, from 0 to 1; got shape {array.shape}, or values outside")
    return np.minimum(array, 1.0)


def _same_length(first: NDArray[np.int64], *others: NDArray[np.int64] | NDArray[np.float64] | Sequence[str]) -> None:
    lengths = [len(first), *map(len, others)]
    if len(set(lengths)) != 1:
        raise UsageError(f"there must be one entry a cell in each, not {lengths}")
    if not len(first):
        raise UsageError("there are no cells to score")


def _both_classes(truth: NDArray[np.int64]) -> None:
    present = np.unique(truth)
    if len(present) == 1:
        raise UsageError(f"there are only {CLASSES[present[0]]} cells: sensitivity, specificity and AUROC need both classes")


def _confusion(truth: NDArray[np.int64], called: NDArray[np.int64], cells: Grouping) -> NDArray[np.float64]:
    """Cells counted by patient, label and call: (P, 2, 2)."""
    places = cells.of_cell * 4 + truth * 2 + called
    return np.bincount(places, minlength=4 * len(cells.names)).reshape(-1, 2, 2).astype(np.float64)


# The next four take confusion counts (..., 2, 2) and give (...): one matrix and all draws go the same way.


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _accuracy(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return _share(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def _recall(counts: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    return _share(counts[..., label, label], counts[..., label, :].sum(axis=-1))


def _weighted_f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    right, support, called = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)
    f1 = _share(2 * right, support + called)
    return _share((f1 * support).sum(axis=-1), support.sum(axis=-1))


def _table1(counts: NDArray[np.float64]) -> Table1:
    right, support, called = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    columns = np.stack([_share(right, called), _share(right, support), _share(2 * right, support + called)])  # (3, 2)
    mean = columns @ support / support.sum()

    def row(values: NDArray[np.float64], cells: float) -> ClassScores:
        precision, recall, f1 = map(float, values)
        return ClassScores(precision=precision, recall=recall, f1=f1, support=int(cells))

    return Table1(hem=row(columns[:, 0], support[0]), all=row(columns[:, 1], support[1]), weighted=row(mean, support.sum()))


def _wins(truth: NDArray[np.int64], score: NDArray[np.float64], cells: Grouping) -> NDArray[np.float64]:
    """Mann-Whitney counts (P, P): how often a cell of ALL patient i outscores one of HEM patient j, ties counting half.

    Sums of these by patient give the AUROC of any draw, so that a thousand draws need no sorting.
    """
    wins = np.zeros((len(cells.names), len(cells.names)))
    malignant = truth == 1
    for normal in np.unique(cells.of_cell[~malignant]):
        below = np.sort(score[~malignant & (cells.of_cell == normal)])
        beaten = (np.searchsorted(below, score, "left") + np.searchsorted(below, score, "right")) / 2
        wins[:, normal] = cells.total(np.where(malignant, beaten, 0.0))
    return wins


def _auroc(wins: NDArray[np.float64], counts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The AUROC of each row of `weights` (draws, P) over patients, (draws,)."""
    pairs: NDArray[np.float64] = (weights @ counts.sum(axis=2)).prod(axis=1)  # HEM cells times ALL cells
    outscored: NDArray[np.float64] = ((weights @ wins) * weights).sum(axis=1)
    return outscored / pairs


def _by_patient(counts: NDArray[np.float64], total: NDArray[np.float64], cells: Grouping) -> tuple[PatientScores, ...]:
    """One record a patient, ALL first, then by name in natural order (H2 before H10)."""
    rows = []
    for name, count, score_sum in zip(cells.names, counts, total, strict=True):
        number, score = count.sum(), float(score_sum / count.sum())
        rows.append(
            PatientScores(
                patient=name,
                label=CLASSES[int(count[1].sum() > 0)],
                cells=int(number),
                accuracy=float(np.trace(count) / number),
                score=min(score, 1.0),  # a mean of ones may round past one
                call=CLASSES[int(count[:, 1].sum() * 2 >= number)],
                call_by_score=CLASSES[int(score >= 0.5)],
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.label, len(row.patient), row.patient)))
