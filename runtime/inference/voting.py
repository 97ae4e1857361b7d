"""The vote of section 2.6: the voter with the largest probability names the label.

Compared is the ratio of a voter's larger probability to its smaller one, the exponential of its margin. It has the order of the
probabilities and doesn't saturate: an fp32 softmax keeps the smaller of its two probabilities down to 1e-38, a margin of 87,
while the larger is exactly 1.0 from 17 on. Ratios of two float32 that differ do so by 3e-15 of their size at least, and float64
division rounds to 1e-16: so the order is exact and equal ratios are found equal, which logarithms don't give.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import require_finite
from blastscope.runtime.errors import EngineError
from blastscope.runtime.types import VOTERS

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
