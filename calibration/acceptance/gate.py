"""The gate: an int8 graph ships only if it calls cells as its parent does, in every engine at hand.

Judged on validation cells outside the calibration sample, which neither trained the networks nor set the ranges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.acceptance.evaluation import Infer, evaluate, labels_of
from blastscope.calibration.config import CalibrationConfig
from blastscope.runtime.backends.protocol import Backend
from blastscope.runtime.bundle.manifest import GateResult
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.evaluation.metrics import f1_drop_points, flip_rate, patient_flip_rate
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.cnmc import DatasetEntry

_PARENT = "parent"  # no backend's name


@dataclass(frozen=True, slots=True)
class PairedPredictions:
    """Cells with the probabilities that parent and child gave them, the child in one engine."""

    cells: tuple[DatasetEntry, ...]
    parent: NDArray[np.float32]  # (N, 3, 2)
    child: NDArray[np.float32]  # (N, 3, 2)
    refused: tuple[tuple[DatasetEntry, str], ...]
    engine: str  # the backend's name

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each cell."""
        return labels_of(self.cells)

    @property
    def patients(self) -> list[str]:
        """Person of each cell: ids of one person are one patient."""
        return [cell.person for cell in self.cells]


def evaluate_pairs(
    parent: Infer,
    child: Mapping[str, Backend],
    cells: Sequence[DatasetEntry],
    spec: CropSpecification,
) -> tuple[PairedPredictions, ...]:
    """The probabilities of `parent` and of each engine of its child for `cells`, which are cropped in batches."""
    predictions = evaluate({_PARENT: parent, **{name: engine.infer for name, engine in child.items()}}, cells, spec)
    expected = predictions.probabilities[_PARENT]
    return tuple(
        PairedPredictions(predictions.cells, expected, predictions.probabilities[name], predictions.refused, name)
        for name in child
    )


def gate(judged: PairedPredictions, config: CalibrationConfig) -> GateResult:
    """Whether the child may stand in for the parent. The figures have 95 % intervals by bootstrap over patients.

    The limits hold for the figures themselves, as the project's rule says; the intervals tell how sure they are.
    """
    parent, child = vote(judged.parent).label, vote(judged.child).label
    draws = {"draws": config.draws, "seed": config.seed}
    flipped = flip_rate(parent, child, judged.patients, **draws)
    lost = f1_drop_points(judged.labels, parent, child, judged.patients, **draws)
    return GateResult(
        engine=judged.engine,
        cells=len(judged.cells),
        patients=len(set(judged.patients)),
        flip_rate=flipped,
        max_flip_rate=config.max_flip_rate,
        f1_drop_points=lost,
        max_f1_drop_points=config.max_f1_drop_points,
        patient_flip_rate=patient_flip_rate(parent, child, judged.patients, **draws),
        passed=flipped.value <= config.max_flip_rate and lost.value <= config.max_f1_drop_points,
    )


def failures(result: GateResult) -> tuple[str, ...]:
    """A sentence for each limit that `result` breaks."""
    found, within = [], f"in {result.engine} "
    if result.flip_rate.value > result.max_flip_rate:
        low, high = 100 * result.flip_rate.low, 100 * result.flip_rate.high
        found.append(
            f"{within}{100 * result.flip_rate.value:.2f} % of the votes flip ({low:.2f} to {high:.2f}), "
            f"at most {100 * result.max_flip_rate:g} % may"
        )
    if result.f1_drop_points.value > result.max_f1_drop_points:
        low, high = result.f1_drop_points.low, result.f1_drop_points.high
        found.append(
            f"{within}weighted F1 loses {result.f1_drop_points.value:.2f} points ({low:.2f} to {high:.2f}), "
            f"at most {result.max_f1_drop_points:g} may go"
        )
    return tuple(found)
