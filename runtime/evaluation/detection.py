"""Detection and call metrics of a validation, with 95 % bootstrap intervals over patients or frames.

`runtime/evaluation/metrics.py` draws patients of which each is either ALL or HEM. A site's frame may hold cells of
both, and so may its patient: here the units are drawn as one stratum, and draws without both classes are passed over.

Which found cell is which labelled one: each at most once, the best overlap first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.evaluation.bootstrap import bootstrap_interval, bootstrap_samples, group_rows
from blastscope.runtime.frames.mask_geometry import iou
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Box, RefusalCode

DRAWS, AT_ONCE = 1000, 50
LEAST_IOU = 0.5  # of boxes that are the same cell's


class DetectionMetrics(StrictModel):
    """How many of the labelled cells were found, at an overlap (IoU) of 0.5. A refused cell counts as found.

    Attributes
    ----------
    labelled : int
        Cells with a label.
    found : int
        Of these, the ones that were found.
    false : int
        Cells that were found where none is labelled.
    recall : Interval
        Share of the labelled cells that were found, 0 to 1.
    precision : Interval
        Share of the found cells that are labelled, 0 to 1.
    """

    labelled: int
    found: int
    false: int  # found where no cell is labelled
    recall: Interval
    precision: Interval


class ConfusionCounts(StrictModel):
    """What became of the labelled cells of one class: how many were called HEM, called ALL, refused, or not found.

    Attributes
    ----------
    called_hem : int
        Called HEM.
    called_all : int
        Called ALL.
    refused : int
        Found, and not called.
    missed : int
        Not found.
    """

    called_hem: int
    called_all: int
    refused: int
    missed: int


class CallFigures(StrictModel):
    """How good the vote is on the cells that were found and called. ALL is the positive class.

    Attributes
    ----------
    cells : int
        How many cells these are.
    sensitivity, specificity, accuracy, weighted_f1, auroc : Interval
        0 to 1, with 95 % intervals.
    """

    cells: int
    sensitivity: Interval
    specificity: Interval
    accuracy: Interval
    weighted_f1: Interval
    auroc: Interval


class Outcome(NamedTuple):
    """What became of one cell, labelled, found, or both.

    Attributes
    ----------
    unit : str
        The patient, or the frame, that is drawn for intervals.
    truth : int or None
        The label's index into `CLASSES`; None where no cell is labelled.
    found : bool
        Whether it was found.
    call : int or None
        The call's index into `CLASSES`; None where it wasn't found or was refused.
    score : float or None
        Probability of ALL, where it was called.
    refusal : str or None
        The refusal's code.
    """

    unit: str  # its patient, or its frame
    truth: int | None  # index into CLASSES; None where no cell is labelled
    found: bool
    call: int | None  # None where it was missed or refused
    score: float | None
    refusal: RefusalCode | None


def detection_metrics(outcomes: Sequence[Outcome]) -> DetectionMetrics | None:
    """How well cells are found, with 95 % intervals.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Every labelled and every found cell.

    Returns
    -------
    DetectionMetrics or None
        None where no cell is labelled, or none was found.
    """
    labelled = np.array([one.truth is not None for one in outcomes], np.float64)
    found = np.array([one.found for one in outcomes], np.float64)
    both = labelled * found
    if not labelled.sum() or not found.sum():
        return None
    units = group_rows([one.unit for one in outcomes])
    weights = bootstrap_samples(np.zeros(len(units.names), np.int64), draws=DRAWS, seed=0)
    sums = {name: units.total(values) for name, values in (("labelled", labelled), ("found", found), ("both", both))}
    drawn = {name: weights @ values for name, values in sums.items()}
    return DetectionMetrics(
        labelled=int(labelled.sum()),
        found=int(both.sum()),
        false=int((found - both).sum()),
        recall=_ratio(sums["both"], sums["labelled"], drawn["both"], drawn["labelled"]),
        precision=_ratio(sums["both"], sums["found"], drawn["both"], drawn["found"]),
    )


def counts_by_class(outcomes: Sequence[Outcome]) -> tuple[ConfusionCounts, ConfusionCounts]:
    """What became of the labelled cells of each class.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Those without a label have no part.

    Returns
    -------
    (ConfusionCounts, ConfusionCounts)
        Of the HEM cells, and of the ALL cells.
    """
    hem, malignant = (_fate([one for one in outcomes if one.truth == truth]) for truth in (0, 1))
    return hem, malignant


def call_metrics(outcomes: Sequence[Outcome]) -> CallFigures | None:
    """How good the vote is on the labelled cells that were found and called, with 95 % intervals.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Others have no part.

    Returns
    -------
    CallFigures or None
        None unless cells of both classes were called.
    """
    called = [one for one in outcomes if one.truth is not None and one.call is not None]
    truth = np.array([one.truth for one in called], np.int64)
    if len(set(truth.tolist())) < 2:
        return None
    call, score = np.array([one.call for one in called], np.int64), np.array([one.score for one in called], np.float64)
    units = group_rows([one.unit for one in called])
    counts = np.bincount(units.of_cell * 4 + truth * 2 + call, minlength=4 * len(units.names)).reshape(-1, 2, 2)
    weights = bootstrap_samples(np.zeros(len(units.names), np.int64), draws=DRAWS, seed=0)
    drawn = np.tensordot(weights, counts.astype(np.float64), axes=1)  # (draws, 2, 2)
    whole = drawn.sum(axis=2).min(axis=1) > 0  # draws with both classes
    weights, drawn = weights[whole], drawn[whole]
    one = counts.sum(axis=0, keepdims=True).astype(np.float64)
    everyone = np.ones((1, len(units.names)))

    def figure(kind: Literal["sensitivity", "specificity", "accuracy", "weighted_f1"]) -> Interval:
        return bootstrap_interval(_figures(one)[kind][0], _figures(drawn)[kind])

    return CallFigures(
        cells=len(called),
        sensitivity=figure("sensitivity"),
        specificity=figure("specificity"),
        accuracy=figure("accuracy"),
        weighted_f1=figure("weighted_f1"),
        auroc=bootstrap_interval(
            _auroc(truth, score, everyone[:, units.of_cell])[0],
            np.concatenate(
                [
                    _auroc(truth, score, weights[start : start + AT_ONCE][:, units.of_cell])
                    for start in range(0, len(weights), AT_ONCE)
                ]
            ),
        ),
    )


def _ratio(
    part: NDArray[np.float64], whole: NDArray[np.float64], drawn_part: NDArray[np.float64], drawn_whole: NDArray[np.float64]
) -> Interval:
    some = drawn_whole > 0
    return bootstrap_interval(part.sum() / whole.sum(), drawn_part[some] / drawn_whole[some])


def _fate(outcomes: Sequence[Outcome]) -> ConfusionCounts:
    found = [one for one in outcomes if one.found]
    return ConfusionCounts(
        called_hem=sum(one.call == 0 for one in found),
        called_all=sum(one.call == 1 for one in found),
        refused=sum(one.call is None for one in found),
        missed=len(outcomes) - len(found),
    )


def _figures(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The figures of confusion counts (D, 2, 2), each (D,)."""
    right, support, called = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2), counts.sum(axis=1)
    recall = right / support
    f1 = 2 * right / (support + called)
    return {
        "specificity": recall[:, 0],
        "sensitivity": recall[:, 1],
        "accuracy": right.sum(axis=1) / support.sum(axis=1),
        "weighted_f1": (f1 * support).sum(axis=1) / support.sum(axis=1),
    }


def _auroc(truth: NDArray[np.int64], score: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The AUROC of the cells under each row of `weights` (D, N): the share of pairs in order, ties counting half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    hem, malignant = (np.add.reduceat((weights * (truth == one))[:, order], starts, axis=1) for one in (0, 1))
    below = np.cumsum(hem, axis=1) - hem / 2
    return np.asarray((malignant * below).sum(axis=1) / (malignant.sum(axis=1) * hem.sum(axis=1)), np.float64)


def match_boxes(labelled: Sequence[Box], found: Sequence[Box], *, least_iou: float = LEAST_IOU) -> dict[int, int]:
    """Which found box is which labelled one. Each box is in one pair at most; the pairs that overlap most come first.

    Parameters
    ----------
    labelled, found : sequence of (x0, y0, x1, y1)
        Boxes in pixels of the same frame, half-open.
    least_iou : float
        The least intersection over union of a pair.

    Returns
    -------
    dict of int to int
        For each labelled box that was found, by its position, the position of the found one.
    """
    overlaps = iou(labelled, found)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    order = np.argsort(-overlaps, axis=None, kind="stable")
    for place in order.tolist():
        one, other = divmod(place, max(len(found), 1))
        if overlaps[one, other] < least_iou:
            break
        if one not in pairs and other not in taken:
            pairs[one] = other
            taken.add(other)
    return dict(sorted(pairs.items()))
