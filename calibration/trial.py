"""An int8 fused graph on trial: the gate, the golden set, and the tolerance that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blastscope.calibration.answers import GraphAnswers
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.gate import JudgedCells, failures, gate, judge
from blastscope.runtime.bundle import Bundle, read_golden
from blastscope.runtime.bundle.manifest import GateResult, OperatingPoint, Scores
from blastscope.runtime.cells import Cell
from blastscope.runtime.classes import Precision
from blastscope.runtime.errors import BundleError
from blastscope.runtime.scores import find_operating_point, score_calls
from blastscope.runtime.vote import vote

MARGIN = 2.0
LEAST_TOLERANCE = 0.05


@dataclass(frozen=True)
class Trial:
    """What is known of an int8 graph before it is let into a bundle."""

    judged: JudgedCells
    gate: GateResult
    golden_difference: float  # largest difference of a probability from the trained networks', on the golden set
    golden_flips: int
    draws: int

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each reason to refuse the graph."""
        changed = f"{self.golden_flips} calls of the golden set change, and engines may change none"
        return (*failures(self.gate), *((changed,) if self.golden_flips else ()))

    @property
    def tolerance(self) -> float:
        """By how much another engine's answers to this graph may differ from the trained networks'.

        Twice the largest difference on the golden set, or the 99th percentile of those on the gate's cells if that is more, at
        least 0.05: engines round int8 sums differently. The largest of all on the gate's cells would be near 1 (a probability
        near a tie goes far), and a golden set with that tolerance says nothing.
        """
        moved = np.abs(self.judged.child - self.judged.parent)
        return min(max(MARGIN * self.golden_difference, float(np.quantile(moved, 0.99)), LEAST_TOLERANCE), 1.0)

    @property
    def scores(self) -> tuple[Scores, ...]:
        """The vote of parent and child on the gate's cells; nothing where a class has no cells there."""
        return tuple(self._scores(precision) for precision in ("fp32", "int8") if len(set(self.judged.labels)) > 1)

    def operating_point(self, sensitivity: float) -> OperatingPoint:
        """The threshold that reaches `sensitivity` on the gate's cells, by the parent's scores."""
        return find_operating_point(self.judged.labels, vote(self.judged.parent).score, sensitivity)

    def _scores(self, precision: Precision) -> Scores:
        votes = vote(self.judged.child if precision == "int8" else self.judged.parent)
        found = score_calls(self.judged.labels, votes.label, votes.score, self.judged.patients, draws=self.draws)
        return found.summary(precision)


def try_out(bundle: Bundle, child: Path, cells: Sequence[Cell], config: CalibrationConfig) -> Trial:
    """Holds the int8 graph `child` against the bundle's fp32 fused graph on `cells`, and against its golden set."""
    parent = bundle.graph("fp32")
    if parent is None:
        raise BundleError(bundle.path, "no fp32 fused graph to compare with")
    judged = judge(bundle.file(parent), child, cells, bundle.manifest.crop)
    golden = read_golden(bundle)
    answers = GraphAnswers(child).probabilities(golden.crops)
    return Trial(
        judged=judged,
        gate=gate(judged, config),
        golden_difference=float(np.abs(answers.astype(np.float64) - golden.probabilities).max()),
        golden_flips=int((vote(answers).label != vote(golden.probabilities).label).sum()),
        draws=config.draws,
    )
