"""Two sets of calls on the same cells compared: votes and patients that change, weighted F1 that is lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.evaluation.bootstrap import bootstrap_interval, bootstrap_samples, group_rows
from blastscope.runtime.evaluation.confusion import (
    check_lengths,
    class_indices,
    confusion_counts,
    weighted_f1,
)


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
    """The share of patients whose call by most of their cells differs, ALL where the halves are equal.

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
