"""The vote of section 2.6: the voter with the largest probability names the label.

Compared is the ratio of a voter's larger probability to its smaller one, the exponential of its margin. It has the order of the
probabilities and doesn't saturate: an fp32 softmax keeps the smaller of its two probabilities down to 1e-38, a margin of 87,
while the larger is exactly 1.0 from 17 on. Ratios of two float32 that differ do so by 3e-15 of their size at least, and float64
division rounds to 1e-16: so the order is exact and equal ratios are found equal, which logarithms don't give.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import require_finite
from blastscope.runtime.bundle.reader import Bundle
from blastscope.runtime.bundle.uncertainty import SmearModel
from blastscope.runtime.errors import EngineError, UsageError
from blastscope.runtime.types import CLASSES, VOTERS, Audit, ClassName, Prediction, RefusalCode

TINY = np.float32(1e-38)  # an engine that flushes subnormals to zero and one that doesn't give one order


class Votes(NamedTuple):
    """The votes on N cells, one entry for each.

    Attributes
    ----------
    label : (N,) int32 array
        Index into `CLASSES`: 0 hem, 1 all.
    voter : (N,) int32 array
        Index into `VOTERS` of the voter that decided: 0 a, 1 b, 2 combined.
    score : (N,) float32 array
        That voter's probability of ALL.
    """

    label: NDArray[np.int32]  # (N,) index into CLASSES
    voter: NDArray[np.int32]  # (N,) index into VOTERS
    score: NDArray[np.float32]  # (N,)


def vote(probabilities: NDArray[np.float32], threshold: float | None = None, *, partial: bool = False) -> Votes:
    """The label of each cell: that of the voter with the largest probability.

    Of equal voters one for ALL goes before one for HEM, since a missed blast costs more than a second look; then the order is
    a, b, combined.

    Parameters
    ----------
    probabilities : (N, 3, 2) float32 array
        Of each cell, voter (a, b, combined) and class (hem, all).
    threshold : float, optional
        The deciding voter stays the same, but the label is ALL where its probability of ALL, as float32, is at least this.
    partial : bool
        True: a voter whose two probabilities are NaN was not run, and the others vote.

    Returns
    -------
    Votes

    Raises
    ------
    EngineError
        A probability is not a finite number, or no voter of a cell was run.
    """
    absent = np.isnan(probabilities[..., 0]) & np.isnan(probabilities[..., 1]) & partial  # (N, 3)
    require_finite(probabilities[~absent])
    if absent.all(axis=1).any():
        raise EngineError("no voter of a cell was run")
    safe = np.maximum(probabilities, TINY).astype(np.float64)
    hem, all_ = safe[..., 0], safe[..., 1]  # (N, 3)
    strength = np.where(absent, 0.0, np.maximum(hem, all_) / np.minimum(hem, all_))
    strongest = strength == strength.max(axis=1, keepdims=True)
    malignant = strongest & (all_ >= hem)
    # argmax takes the first of equals, which is a before b before combined
    candidates = np.where(malignant.any(axis=1, keepdims=True), malignant, strongest)
    voter = candidates.argmax(axis=1).astype(np.int32)
    rows = np.arange(len(voter))
    score = probabilities[rows, voter, 1].astype(np.float32)
    label = all_[rows, voter] >= hem[rows, voter] if threshold is None else score >= np.float32(threshold)
    return Votes(label.astype(np.int32), voter, score)


class GraphOutputs(NamedTuple):
    """The outputs of a fused graph on N crops, named as in runtime/FORMAT.md.

    Attributes
    ----------
    probabilities : (N, 3, 2) float32 array
        Of each crop, voter (a, b, combined) and class (hem, all). NaN for a voter that was not run.
    label, voter : (N,) int32 array
        Index into `CLASSES`, and into `VOTERS`.
    probability : (N,) float32 array
        The deciding voter's probability of the label.
    novelty : (N,) float32 array or None
        Distance from the cells of the training; None for a bundle that doesn't measure it.
    """

    probabilities: NDArray[np.float32]
    label: NDArray[np.int32]
    probability: NDArray[np.float32]
    voter: NDArray[np.int32]
    novelty: NDArray[np.float32] | None


def graph_outputs(answers: NDArray[np.float32], *, partial: bool = False) -> GraphOutputs:
    """The outputs of a fused graph from the answers (N, R, 2) of an engine; the paper's vote decides. Raises `EngineError`."""
    probabilities = answers[:, : len(VOTERS)]
    novelty = answers[:, -1, 0] if answers.shape[1] > len(VOTERS) else None
    votes = vote(probabilities, partial=partial)
    probability = probabilities[np.arange(len(answers)), votes.voter, votes.label]
    return GraphOutputs(probabilities, votes.label, probability, votes.voter, novelty)


class SmearRow(TypedDict):
    """A `SmearCall` as plain values, as the command line prints it.

    Attributes
    ----------
    label : ClassName or None
        The call on the person; None where too few cells were called.
    probability : float or None
        Probability of ALL, 0 to 1, where half of the people have it.
    low, high : float or None
        Ends of its 95 % interval.
    cells : int
        Cells that were called.
    called_all : int
        Of these, called ALL.
    refused : mapping of str to int
        Cells without a call, by the refusal's code.
    detail : str or None
        Why there is no call, in words.
    """

    label: ClassName | None
    probability: float | None
    low: float | None
    high: float | None
    cells: int
    called_all: int
    refused: dict[str, int]
    detail: str | None


@dataclass(frozen=True, slots=True)
class SmearCall:
    """The call on one person, from the calls on their cells.

    Attributes
    ----------
    label : {'hem', 'all'} or None
        'all' where `probability` is at least 0.5. None with fewer called cells than the bundle asks for.
    probability : float or None
        Probability of ALL, 0 to 1, where half of the people have it, as held-out people showed (`SmearModel`).
    low, high : float or None
        Ends of the 95 % interval: where `probability` would lie for as many other cells of the same person.
    cells : int
        Cells that got a call.
    called_all : int
        Of these, the ones that were called ALL.
    refused : dict of str to int
        Cells without a call, counted by the refusal's code.
    detail : str or None
        Why there is no call; None where there is one.
    audit : Audit or None
        What answered; None where there were no cells at all.

    Examples
    --------
    >>> from blastscope import open_bundle, synthetic_cell
    >>> cells = [synthetic_cell(seed) for seed in range(12)]  # all cells of one smear
    >>> with open_bundle(unlike_training="call") as scope:  # drawn cells are unlike those of the training
    ...     smear = scope.classify_smear(cells)
    >>> smear.cells, smear.label in ("hem", "all"), smear.low <= smear.probability <= smear.high
    (12, True, True)
    """

    label: ClassName | None
    probability: float | None
    low: float | None
    high: float | None
    cells: int  # with a call
    called_all: int  # of them
    refused: dict[RefusalCode, int]  # cells without a call, by reason
    detail: str | None
    audit: Audit | None  # of the cells' predictions; None without cells

    def row(self) -> SmearRow:
        """The call as plain values, which `json.dumps` takes.

        Returns
        -------
        SmearRow
            A dict with the names of the attributes but `audit`.
        """
        return SmearRow(
            label=self.label,
            probability=self.probability,
            low=self.low,
            high=self.high,
            cells=self.cells,
            called_all=self.called_all,
            refused={str(code): count for code, count in self.refused.items()},
            detail=self.detail,
        )


def smear_model(bundle: Bundle) -> SmearModel:
    """The bundle's model of how the cells of a person become a call on the person.

    Parameters
    ----------
    bundle : Bundle
        As `read_bundle` gives it.

    Returns
    -------
    SmearModel

    Raises
    ------
    UsageError
        The bundle has no such model.
    """
    uncertainty = bundle.manifest.uncertainty
    if uncertainty is None or uncertainty.smear is None:
        raise UsageError(
            f"bundle '{bundle.path}' doesn't say how cells become a call on a person: train it with held-out people, or with "
            "the uncertainty.json of a cross validation"
        )
    return uncertainty.smear


def call_smear(predictions: Sequence[Prediction], model: SmearModel) -> SmearCall:
    """The call on the person whose cells got `predictions`.

    Parameters
    ----------
    predictions : sequence of Prediction
        All cells of one person. Those with a refusal are counted and have no part in the call.
    model : SmearModel
        How cells become a call; `smear_model` gives that of a bundle.

    Returns
    -------
    SmearCall
        Without a label where fewer than `model.least_cells` cells have a call.
    """
    called = [prediction for prediction in predictions if prediction.label is not None]
    refused = Counter(prediction.refusal.code for prediction in predictions if prediction.refusal)
    none = SmearCall(
        label=None,
        probability=None,
        low=None,
        high=None,
        cells=len(called),
        called_all=sum(prediction.label == CLASSES[1] for prediction in called),
        refused=dict(refused),
        detail=f"a call on a person needs {model.least_cells} called cells at least, here are {len(called)}",
        audit=predictions[0].audit if predictions else None,
    )
    if len(called) < model.least_cells:
        return none
    mean = math.fsum(map(_margin, called)) / len(called)
    probability = model.probability(mean, len(called))
    low, high = model.interval(mean, len(called))
    label = CLASSES[int(probability >= 0.5)]
    return replace(none, label=label, probability=probability, low=low, high=high, detail=None)


def _margin(prediction: Prediction) -> float:
    """The log of the deciding voter's odds of ALL."""
    assert prediction.probabilities is not None
    assert prediction.voter is not None
    hem, all_ = (max(value, float(TINY)) for value in prediction.probabilities[VOTERS.index(prediction.voter)])
    return math.log(all_ / hem)
