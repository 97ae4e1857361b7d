"""Classification metrics with 95 % bootstrap intervals over patients: of one set of calls, and of two that are compared.

Labels and calls are indices into CLASSES (0 hem, 1 all); ALL is the positive class; a score is a probability of ALL. All in
numpy, so that a plain install can score a bundle; the tests hold every figure against scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blastscope.runtime.bundle.manifest import Interval, OperatingPoint, Scores
from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.bootstrap import Grouping, bootstrap_interval, bootstrap_samples, group_rows
from blastscope.runtime.evaluation.rates import (
    Reliability,
    accuracy,
    all_probabilities,
    auroc,
    check_both_classes,
    check_lengths,
    class_indices,
    confusion_counts,
    outscored_pairs,
    ratio,
    recall,
    reliability,
    weighted_f1,
)
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, ClassName, Precision


class ClassScores(StrictModel):
    """One row of Table 1.

    Attributes
    ----------
    precision : float
        0 where no cell is called so, as in scikit-learn.
    recall, f1 : float
        0 to 1.
    support : int
        Cells with this label.
    """

    precision: float
    recall: float
    f1: float
    support: int


class Table1(StrictModel):
    """The paper's Table 1.

    Attributes
    ----------
    hem, all : ClassScores
        A row for each class.
    weighted : ClassScores
        Their mean, weighted by support.
    """

    hem: ClassScores
    all: ClassScores
    weighted: ClassScores


class PatientScores(StrictModel):
    """One patient's cells taken together.

    Attributes
    ----------
    patient : str
        The patient's id.
    label : {'hem', 'all'}
        Of all the patient's cells.
    cells : int
        How many there are.
    accuracy : float
        Share of them that is called right.
    score : float
        Mean probability of ALL.
    call : {'hem', 'all'}
        What most cells are called, ALL where the halves are equal: a missed blast costs more than a second look.
    call_by_score : {'hem', 'all'}
        ALL where the mean score is at least 0.5.
    """

    patient: str
    label: ClassName
    cells: int
    accuracy: float
    score: float
    call: ClassName
    call_by_score: ClassName


class CallScores(StrictModel):
    """All figures of one set of calls, 0 to 1, with 95 % intervals over patients. ALL is the positive class.

    Attributes
    ----------
    cells : int
        How many were scored.
    table1 : Table1
        Precision, recall and F1 of either class.
    confusion : 2 x 2 tuple of int
        A row for each label, a column for each call, both in the order hem, all.
    accuracy, sensitivity, specificity, auroc, weighted_f1 : Interval
        Of all cells.
    patients : tuple of PatientScores
        One for each patient.
    reliability : Reliability
        Of the scores.
    """

    cells: int
    table1: Table1
    confusion: tuple[tuple[int, int], tuple[int, int]]
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
    truth, called = class_indices("labels", labels), class_indices("calls", calls)
    score = all_probabilities(scores)
    check_lengths(truth, called, score, patients)
    check_both_classes(truth)
    cells = group_rows(patients)
    weights = bootstrap_samples(cells.classes(truth), draws=draws, seed=seed, people=cells.people(people))
    counts = confusion_counts(truth, called, cells)  # (P, 2, 2)
    whole, drawn = counts.sum(axis=0), np.tensordot(weights, counts, axes=1)  # (2, 2), (draws, 2, 2)
    everyone = np.ones((1, len(cells.names)))
    wins = outscored_pairs(truth, score, cells)
    return CallScores(
        cells=len(truth),
        table1=_table1(whole),
        confusion=((int(whole[0, 0]), int(whole[0, 1])), (int(whole[1, 0]), int(whole[1, 1]))),
        accuracy=bootstrap_interval(accuracy(whole), accuracy(drawn)),
        sensitivity=bootstrap_interval(recall(whole, 1), recall(drawn, 1)),
        specificity=bootstrap_interval(recall(whole, 0), recall(drawn, 0)),
        auroc=bootstrap_interval(auroc(wins, counts, everyone)[0], auroc(wins, counts, weights)),
        weighted_f1=bootstrap_interval(weighted_f1(whole), weighted_f1(drawn)),
        patients=_by_patient(counts, cells.total(score), cells),
        reliability=reliability(truth, score),
    )


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
    truth, score = class_indices("labels", labels), all_probabilities(scores)
    check_lengths(truth, score)
    check_both_classes(truth)
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


def _table1(counts: NDArray[np.float64]) -> Table1:
    right, support, called = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    columns = np.stack([ratio(right, called), ratio(right, support), ratio(2 * right, support + called)])  # (3, 2)
    mean = columns @ support / support.sum()

    def row(values: NDArray[np.float64], cells: float) -> ClassScores:
        precision, recall, f1 = map(float, values)
        return ClassScores(precision=precision, recall=recall, f1=f1, support=int(cells))

    return Table1(hem=row(columns[:, 0], support[0]), all=row(columns[:, 1], support[1]), weighted=row(mean, support.sum()))


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


def flip_rate(calls_a: ArrayLike, calls_b: ArrayLike, patients: Sequence[str], *, draws: int = 1000, seed: int = 0) -> Interval:
    """The share of cells whose two calls differ, with its 95 % interval. Patients are drawn as one stratum.

    Parameters
    ----------
    calls_a, calls_b : (N,) array of int
        0 hem, 1 all.
    patients : sequence of N str
        The patient of each cell.
    draws, seed : int
        How many bootstrap draws, and what they start from.

    Returns
    -------
    Interval
        0 to 1.

    Raises
    ------
    UsageError
        There are no cells, lengths differ, or a call is none.
    """
    first, second = class_indices("calls_a", calls_a), class_indices("calls_b", calls_b)
    check_lengths(first, second, patients)
    cells = group_rows(patients)
    changed, count = cells.total((first != second).astype(np.float64)), cells.total(np.ones(len(first)))
    weights = bootstrap_samples(np.zeros(len(cells.names), dtype=np.int64), draws=draws, seed=seed)
    return bootstrap_interval(changed.sum() / count.sum(), weights @ changed / (weights @ count))


def patient_flip_rate(
    calls_a: ArrayLike, calls_b: ArrayLike, patients: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> Interval:
    """The share of patients whose call by the majority of their cells differs; equal halves count as ALL.

    Parameters
    ----------
    calls_a, calls_b : (N,) array of int
        0 hem, 1 all.
    patients : sequence of N str
        The patient of each cell.
    draws, seed : int
        How many bootstrap draws, and what they start from.

    Returns
    -------
    Interval
        0 to 1.

    Raises
    ------
    UsageError
        There are no cells, lengths differ, or a call is none.
    """
    first, second = class_indices("calls_a", calls_a), class_indices("calls_b", calls_b)
    check_lengths(first, second, patients)
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
    """How much weighted F1 is lost between two sets of calls on the same cells.

    Each draw takes the same patients for both, so what the two have in common falls out of the interval.

    Parameters
    ----------
    labels, calls_parent, calls_child : (N,) array of int
        0 hem, 1 all.
    patients : sequence of N str
        The patient of each cell.
    draws, seed : int
        How many bootstrap draws, and what they start from.

    Returns
    -------
    Interval
        F1 of the parent less that of the child, in points of 100: negative where the child is better.

    Raises
    ------
    UsageError
        There are no cells, lengths differ, or a label or call is none.
    """
    truth = class_indices("labels", labels)
    parent, child = class_indices("calls_parent", calls_parent), class_indices("calls_child", calls_child)
    check_lengths(truth, parent, child, patients)
    cells = group_rows(patients)
    weights = bootstrap_samples(cells.classes(truth), draws=draws, seed=seed)
    counts = [confusion_counts(truth, calls, cells) for calls in (parent, child)]
    whole = [weighted_f1(one.sum(axis=0)) for one in counts]
    drawn = [weighted_f1(np.tensordot(weights, one, axes=1)) for one in counts]
    return bootstrap_interval(100 * float(whole[0] - whole[1]), 100 * (drawn[0] - drawn[1]))
