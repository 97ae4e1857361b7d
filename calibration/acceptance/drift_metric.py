"""Drift of an int8 graph from its fp32 parent, on cells that take no part in the gate.

`vote_margins` says how clear a cell's vote is, from the three voters' probabilities: finer than the call itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.acceptance.evaluation import ReferenceRunner, labels_of
from blastscope.calibration.config import CalibrationConfig
from blastscope.runtime.errors import MissingLibrary
from blastscope.runtime.evaluation.metrics import f1_drop_points
from blastscope.runtime.inference.voting import TINY, vote
from blastscope.runtime.io.cnmc import DatasetEntry
from blastscope.runtime.io.strict_model import StrictModel

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

SAFETY = 0.5  # of the gate's limits: few cells show little


class Drift(StrictModel):
    """Of an int8 graph from its parent, on the search cells."""

    drift: float  # mean change of the vote margin's logistic, 0 to 1: fine enough to rank by where calls don't change
    flip_rate: float  # share of cells
    f1_drop_points: float  # points of 100


@dataclass(frozen=True)
class DriftMetric:
    """Measures drift on cells with their crops (N, S, S, 3), from the fp32 graph `parent`."""

    parent: onnx.ModelProto
    cells: tuple[DatasetEntry, ...]
    crops: NDArray[np.uint8]

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        """The parent's probabilities (N, 3, 2)."""
        return ReferenceRunner(self.parent.SerializeToString()).probabilities(self.crops)

    def measure(self, child: onnx.ModelProto, rows: Sequence[int] | slice = slice(None)) -> Drift:
        """The drift of `child` on the cells in `rows`."""
        answers = ReferenceRunner(child.SerializeToString()).probabilities(self.crops[rows])
        expected, places = self.expected[rows], np.arange(len(self.cells))[rows]
        before, after = vote(expected).label, vote(answers).label
        cells = [self.cells[place] for place in places]
        return Drift(
            drift=float(np.abs(vote_logistic(answers) - vote_logistic(expected)).mean()),
            flip_rate=float(np.mean(before != after)),
            f1_drop_points=f1_drop_points(labels_of(cells), before, after, [cell.patient for cell in cells], draws=1).value,
        )


def within_limits(distance: Drift, config: CalibrationConfig) -> bool:
    """Whether the gate's limits are kept with room to spare."""
    return distance.flip_rate <= SAFETY * config.max_flip_rate and distance.f1_drop_points <= SAFETY * config.max_f1_drop_points


def voter_margins(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 3) ln p(all) - ln p(hem) of each voter."""
    safe = np.log(np.maximum(probabilities, TINY).astype(np.float64))
    margin: NDArray[np.float64] = safe[..., 1] - safe[..., 0]
    return margin


def vote_margins(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) the strongest margin that says ALL less the strongest that says HEM: its sign is the call, its size how clear."""
    by_voter = voter_margins(probabilities)
    margin: NDArray[np.float64] = by_voter.max(axis=1) + by_voter.min(axis=1)
    return margin


def vote_logistic(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logistic of the vote margin, (N,) from 0 (HEM) to 1 (ALL), through a half where the call turns."""
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(vote_margins(probabilities), -60, 60)))
    return found
