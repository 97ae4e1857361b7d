"""Evaluates an int8 graph in every engine on this CPU: gate, golden set, tolerance.

One engine may answer wrongly where another doesn't, so each is judged. The graph is also computed with the codes as they
stand in the file, for engines that run elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import Infer, JudgedCells, ReferenceRunner, evaluate, memoize
from blastscope.runtime.backends.protocol import (
    BACKENDS,
    NOVELTY_OUTPUT,
    PLAIN_OUTPUT,
    Backend,
    EngineOptions,
    load_backend,
    open_engine,
)
from blastscope.runtime.bundle import Bundle, read_golden
from blastscope.runtime.bundle.manifest import GateResult, OperatingPoint, Scores
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.errors import BundleError, UnavailableError
from blastscope.runtime.evaluation.metrics import (
    f1_drop_points,
    find_operating_point,
    flip_rate,
    patient_flip_rate,
    score_calls,
)
from blastscope.runtime.inference.validation import NOVELTY_SHARE, GoldenCheck, check_golden
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.cnmc import DatasetEntry
from blastscope.runtime.types import Execution, Precision

_PARENT = "parent"  # no backend's name
MARGIN = 2.0  # times the largest difference that was seen: the tolerance of an execution
LEAST_TOLERANCE = 0.05  # however small the difference was
DEVICE = "CPU"


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedPredictions(JudgedCells):
    """Cells with what parent and child answered, the child in one engine.

    Attributes
    ----------
    parent, child : (N, 3, 2) float32 array
        Probabilities of each cell, voter (a, b, combined) and class (hem, all).
    engine : str
        Name of the backend that ran the child.
    """

    parent: NDArray[np.float32]
    child: NDArray[np.float32]
    engine: str


def evaluate_pairs(
    parent: Infer,
    child: Mapping[str, Backend],
    cells: Sequence[DatasetEntry],
    spec: CropSpecification,
) -> tuple[PairedPredictions, ...]:
    """The answers of a graph and of what was made of it, in each engine.

    Parameters
    ----------
    parent : callable
        Takes crops (n, S, S, 3) uint8, and gives probabilities (n, 3, 2) float32.
    child : mapping of str to Backend
        Engines of the child, by name.
    cells : sequence of DatasetEntry
        Are cropped in batches.
    spec : CropSpecification
        How a cell becomes a crop.

    Returns
    -------
    tuple of PairedPredictions
        One for each engine.
    """
    predictions = evaluate({_PARENT: parent, **{name: engine.infer for name, engine in child.items()}}, cells, spec)
    expected = predictions.probabilities[_PARENT]
    return tuple(
        PairedPredictions(
            cells=predictions.cells,
            refused=predictions.refused,
            parent=expected,
            child=predictions.probabilities[name],
            engine=name,
        )
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


@dataclass(frozen=True)
class EngineResult:
    """The evaluation of an int8 graph in one engine.

    Attributes
    ----------
    judged : PairedPredictions
        The answers of parent and child.
    gate : GateResult
        How these compare.
    golden : GoldenCheck
        How the child answers the golden set.
    """

    judged: PairedPredictions
    gate: GateResult
    golden: GoldenCheck

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each reason to refuse the graph."""
        flips = self.golden.flips
        changed = f"in {self.gate.engine} {flips} calls of the golden set change, and engines may change none"
        moves = f"novelty moves by {self.golden.novelty:.0%} on the golden set, and may by {NOVELTY_SHARE:.0%}"
        novelty = f"in {self.gate.engine} {moves}"
        moved = self.golden.novelty > NOVELTY_SHARE
        return (*failures(self.gate), *((changed,) if flips else ()), *((novelty,) if moved else ()))


@dataclass(frozen=True)
class Trial:
    """The evaluation of an int8 graph in every available engine, before it enters a bundle.

    Attributes
    ----------
    results : tuple of EngineResult
        One for each engine.
    draws : int
        Of each bootstrap.
    """

    results: tuple[EngineResult, ...]
    draws: int

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each reason to refuse the graph: what fails in one engine fails."""
        return tuple(failure for result in self.results for failure in result.failures)

    @property
    def target_drift_ratio(self) -> float:
        """The share of its drift that the graph must come down to, with a fifth to spare, to keep the gate's limits."""
        gates = [result.gate for result in self.results]
        broken = [
            *(one.max_flip_rate / one.flip_rate.value for one in gates if one.flip_rate.value > one.max_flip_rate),
            *(
                one.max_f1_drop_points / one.f1_drop_points.value
                for one in gates
                if one.f1_drop_points.value > one.max_f1_drop_points
            ),
        ]
        return 0.8 * min(broken, default=1.0)

    @property
    def worst(self) -> EngineResult:
        """The comparison in the engine in which most votes flip."""
        return max(self.results, key=lambda result: result.gate.flip_rate.value)

    @property
    def golden_difference(self) -> float:
        """Largest difference of a probability from the trained networks', on the golden set, of all engines."""
        return max(result.golden.difference for result in self.results)

    @property
    def golden_flips(self) -> int:
        """Calls of the golden set that change in the engine that changes most."""
        return max(result.golden.flips for result in self.results)

    @property
    def tolerance(self) -> float:
        """By how much another engine's answers to this graph may differ from the trained networks'.

        Twice the largest difference on the golden set, or the 99th percentile of those on the gate's cells if that is more, at
        least 0.05: engines round int8 sums differently. The largest of all on the gate's cells would be near 1 (a probability
        near a tie goes far), and a golden set with that tolerance says nothing.
        """
        moved = max(float(np.quantile(np.abs(one.judged.child - one.judged.parent), 0.99)) for one in self.results)
        return min(max(MARGIN * self.golden_difference, moved, LEAST_TOLERANCE), 1.0)

    @property
    def scores(self) -> tuple[Scores, ...]:
        """The vote of parent and child on the gate's cells; nothing where a class has no cells there."""
        return tuple(self._scores(precision) for precision in ("fp32", "int8") if len(set(self.worst.judged.labels)) > 1)

    def operating_point(self, sensitivity: float) -> OperatingPoint:
        """The threshold that reaches `sensitivity` on the gate's cells, by the parent's scores."""
        judged = self.worst.judged
        return find_operating_point(judged.labels, vote(judged.parent).score, sensitivity)

    def _scores(self, precision: Precision) -> Scores:
        judged = self.worst.judged
        votes = vote(judged.child if precision == "int8" else judged.parent)
        found = score_calls(judged.labels, votes.label, votes.score, judged.patients, draws=self.draws)
        return found.summary(precision)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates int8 graphs against a bundle's fp32 fused graph and its golden set.

    Attributes
    ----------
    bundle : Bundle
        Whose graphs they are to be.
    cells : tuple of DatasetEntry
        The gate's cells.
    config : CalibrationConfig
        With the gate's limits.
    """

    bundle: Bundle
    cells: tuple[DatasetEntry, ...]
    config: CalibrationConfig

    def evaluate(self, child: Path) -> Trial:
        """The evaluation of the int8 graph `child`."""
        golden = read_golden(self.bundle)
        with open_engines(child, "int8") as found:
            judges: dict[str, Backend] = {**found, SignedCodes.name: SignedCodes(child)}
            judged = evaluate_pairs(self._parent, judges, self.cells, self.bundle.manifest.crop)
            checks = [check_golden(engine, golden, tolerance=1.0) for engine in judges.values()]
        results = [EngineResult(one, gate(one, self.config), check) for one, check in zip(judged, checks, strict=True)]
        return Trial(tuple(results), self.config.draws)

    @cached_property
    def _parent(self) -> Infer:
        """Cached: a graph that is mended is evaluated on the same cells again."""
        parent = self.bundle.graph("fp32")
        if parent is None:
            raise BundleError(self.bundle.path, "no fp32 fused graph to compare with")
        return memoize(ReferenceRunner(self.bundle.read(parent)).probabilities)


class SignedCodes:
    """An int8 graph as its file says, for engines that can't be had here.

    TensorRT computes with the file's signed activations. CPU engines take them as uint8, some of them with finer steps
    (runtime/backends/uint8_activations.py), so that they alone would let in what drifts farther there.
    """

    name = "signed codes"

    def __init__(self, graph: Path) -> None:
        self._answers = ReferenceRunner(graph)
        self._output = NOVELTY_OUTPUT if NOVELTY_OUTPUT in self._answers.outputs else PLAIN_OUTPUT

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answers (N, R, 2) on `crops` (N, S, S, 3)."""
        found: NDArray[np.float32] = self._answers.output(self._output, crops)
        return found

    def close(self) -> None:
        """Does nothing: what is held goes with this object."""


def available_backends() -> tuple[dict[str, tuple[Execution, ...]], dict[str, str]]:
    """Backends with what each computes in on the CPU, and those that can't be had, with the reason."""
    available: dict[str, tuple[Execution, ...]] = {}
    missing: dict[str, str] = {}
    for name in BACKENDS:
        try:
            backend = load_backend(name)
            backend.fingerprint(DEVICE)  # a missing library is told here, `executions` may know its answer without it
            available[name] = backend.executions(DEVICE)
        except UnavailableError as error:
            missing[name] = str(error)
    return available, missing


@contextmanager
def open_engines(graph: Path, execution: Execution) -> Iterator[dict[str, InferencePool]]:
    """The fused `graph` in every engine that computes in `execution`, by the backend's name; closed afterwards."""
    options = EngineOptions(workload="throughput", execution=execution, device=DEVICE)
    with ExitStack() as stack:
        found = {}
        for name, executions in available_backends()[0].items():
            if execution in executions:
                found[name] = InferencePool(open_engine(graph, options, backend=name))
                stack.callback(found[name].close)
        yield found
