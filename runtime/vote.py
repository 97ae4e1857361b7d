"""The vote of section 2.6: of the three voters the one with the largest probability names the label.

Margins, ln p(all) - ln p(hem), have the order of the probabilities and don't saturate: an fp32 softmax keeps the smaller of its
two probabilities down to 1e-38, a margin of 87, while the larger is exactly 1.0 from 17 on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TINY = np.float32(1e-38)


class Votes(NamedTuple):
    """One entry a cell: class index, index of the deciding voter, and that voter's probability of ALL."""

    label: NDArray[np.int32]  # (N,) index into CLASSES
    voter: NDArray[np.int32]  # (N,) index into VOTERS
    score: NDArray[np.float32]  # (N,)


def vote(probabilities: NDArray[np.float32], threshold: float | None = None) -> Votes:
    """Decides each cell of `probabilities` (N, 3, 2).

    Equal margins go to ALL before HEM (a missed blast costs more than a second look), then to a, b, combined. With a
    `threshold` the deciding voter stays, and the label is ALL where its probability of ALL reaches the threshold.
    """
    safe = np.maximum(probabilities, TINY)
    margin = np.log(safe[..., 1]) - np.log(safe[..., 0])  # (N, 3), positive: ALL
    # a pair (|margin|, is ALL) in order; argmax takes the first of equals, which is a before b before combined
    size = np.abs(margin)
    strongest = size == size.max(axis=1, keepdims=True)
    malignant = strongest & (margin >= 0)
    candidates = np.where(malignant.any(axis=1, keepdims=True), malignant, strongest)
    voter = candidates.argmax(axis=1).astype(np.int32)
    rows = np.arange(len(voter))
    score = probabilities[rows, voter, 1]
    by_margin = margin[rows, voter] >= 0
    label = by_margin if threshold is None else score >= threshold
    return Votes(label.astype(np.int32), voter, score.astype(np.float32))
