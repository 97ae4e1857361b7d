"""Evaluates networks on the same cells.

`ReferenceRunner` computes a graph file in ONNX Runtime on the CPU: the reference of parity, calibration and gate. `ProgressLog`
logs how far long work is, and the time left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.calibration_data import crop_cells
from blastscope.calibration.config import CalibrationConfig
from blastscope.runtime.backends.onnxruntime.cpu import load_onnxruntime
from blastscope.runtime.backends.protocol import require_finite
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.errors import EngineError, UsageError
from blastscope.runtime.evaluation.metrics import f1_drop_points
from blastscope.runtime.inference.voting import TINY, vote
from blastscope.runtime.io.cnmc import DatasetEntry
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.printable import format_duration
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, VOTERS

if TYPE_CHECKING:
    import onnx

LOG_INTERVAL_S = 10.0

logger = logging.getLogger(__name__)
CELLS_AT_ONCE = 64  # cells cropped at once: the crops of all of them may not fit into memory

Infer = Callable[
    [NDArray[np.uint8]], NDArray[np.float32]
]  # crops (N, S, S, 3) to probabilities (N, 3, 2), or to a lane's answers (N, R, 2)
BATCH = 16  # bounds memory: 16 crops of 299 px need about 1 GB in the fused Inception-ResNet-v2
SAFETY = 0.5  # of the gate's limits: few cells show little


class ProgressLog:
    """Counts what is done of `total` things that cost about the same each. Logged every ten seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._start = self._logged = time.monotonic()

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if self._done < self._total and now - self._logged >= LOG_INTERVAL_S:
            self._logged = now
            left = (now - self._start) * (self._total - self._done) / self._done
            logger.info("%d of %d %s, about %s left", self._done, self._total, self._what, format_duration(left))


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedCells:
    """Cells that networks have judged.

    Attributes
    ----------
    cells : tuple of DatasetEntry
        The N cells that were answered, in order.
    refused : tuple of (DatasetEntry, str)
        The others, each with the reason.
    """

    cells: tuple[DatasetEntry, ...]
    refused: tuple[tuple[DatasetEntry, str], ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each cell."""
        return labels_of(self.cells)

    @property
    def patients(self) -> list[str]:
        """Person of each cell: ids of one person are one patient."""
        return [cell.person for cell in self.cells]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPredictions(JudgedCells):
    """Cells with what each network answered.

    Attributes
    ----------
    probabilities : dict of str to (N, 3, 2) float32 array
        By the network's name: of each cell, voter (a, b, combined) and class (hem, all).
    """

    probabilities: dict[str, NDArray[np.float32]]


def memoize(infer: Infer) -> Infer:
    """`infer` with a cache: the same crops are answered from memory."""
    known: dict[str, NDArray[np.float32]] = {}

    def answer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        key = bytes_sha256(crops.tobytes())
        if key not in known:
            known[key] = np.array(infer(crops))
        return known[key]

    return answer


def labels_of(cells: Sequence[DatasetEntry]) -> NDArray[np.int64]:
    """Class index of each cell."""
    return np.array([CLASSES.index(cell.label) for cell in cells], np.int64)


def evaluate(networks: Mapping[str, Infer], cells: Sequence[DatasetEntry], spec: CropSpecification) -> CellPredictions:
    """The answers of networks to cells; the progress is logged.

    Parameters
    ----------
    networks : mapping of str to callable
        Each takes crops (n, S, S, 3) uint8, and gives probabilities (n, 3, 2) float32.
    cells : sequence of DatasetEntry
        The cells.
    spec : CropSpecification
        How a cell becomes a crop.

    Returns
    -------
    CellPredictions

    Raises
    ------
    UsageError
        The crop refuses all cells.
    """
    kept: list[DatasetEntry] = []
    refused: list[tuple[DatasetEntry, str]] = []
    probabilities: dict[str, list[NDArray[np.float32]]] = {name: [] for name in networks}
    progress = ProgressLog("cells", len(cells))
    for start in range(0, len(cells), CELLS_AT_ONCE):
        piece = crop_cells(cells[start : start + CELLS_AT_ONCE], spec)
        kept += piece.cells
        refused += piece.refused
        if len(piece.crops):
            for name, infer in networks.items():
                probabilities[name].append(np.array(infer(piece.crops)[:, : len(VOTERS)]))
        progress.step(len(cells[start : start + CELLS_AT_ONCE]))
    if not kept:
        raise UsageError(f"the crop refuses all of the {len(cells)} validation cells that are to judge")
    joined = {name: np.concatenate(parts) for name, parts in probabilities.items()}
    return CellPredictions(cells=tuple(kept), refused=tuple(refused), probabilities=joined)


class ReferenceRunner:
    """A loaded graph. `plain` turns every graph optimisation off, so that each operator is computed as the file says."""

    def __init__(self, graph: Path | str | bytes, *, plain: bool = False) -> None:
        onnxruntime = load_onnxruntime("export")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if plain:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            content = graph if isinstance(graph, bytes) else str(graph)
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"onnxruntime can't load the graph: {error}") from error
        self._input = str(self._session.get_inputs()[0].name)
        self.outputs = tuple(str(output.name) for output in self._session.get_outputs())

    def all(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Every output for `crops` (N, S, S, 3), by name, computed in batches."""
        parts = [self._session.run(None, {self._input: batch}) for batch in batches(crops)]
        return {name: np.concatenate(values) for name, values in zip(self.outputs, zip(*parts, strict=True), strict=True)}

    def probabilities(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 3, 2) of a fused graph, (N, 2) of a single one. Raises `EngineError` where an answer is not a number."""
        return self.output("probabilities", crops)

    def output(self, name: str, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output `name` for `crops` (N, S, S, 3), computed in batches. Raises `EngineError` where one is not a number."""
        parts = [self._session.run([name], {self._input: batch})[0] for batch in batches(crops)]
        probabilities: NDArray[np.float32] = np.concatenate(parts)
        require_finite(probabilities)
        return probabilities

    def values(self, names: list[str], crops: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The outputs `names` for one batch of `crops`, each under its name."""
        yield from zip(names, self._session.run(names, {self._input: crops}), strict=True)


def batches(crops: NDArray[np.uint8], size: int = BATCH) -> Iterator[NDArray[np.uint8]]:
    """`crops` in pieces of `size`, each contiguous."""
    for start in range(0, len(crops), size):
        yield np.ascontiguousarray(crops[start : start + size])


class QuantisationDrift(StrictModel):
    """How far an int8 graph's calls lie from its parent's, on the search cells.

    Attributes
    ----------
    drift : float
        Mean change of the vote margin's logistic, 0 to 1: fine enough to rank by where no call changes.
    flip_rate : float
        Share of cells whose call changes.
    f1_drop_points : float
        Weighted F1 that is lost, in points of 100.
    """

    drift: float
    flip_rate: float
    f1_drop_points: float


@dataclass(frozen=True)
class DriftMetric:
    """Measures how far a graph's calls lie from its parent's.

    Attributes
    ----------
    parent : onnx.ModelProto
        The fp32 graph.
    cells : tuple of DatasetEntry
        The N search cells.
    crops : (N, S, S, 3) uint8 array
        RGB.
    """

    parent: onnx.ModelProto
    cells: tuple[DatasetEntry, ...]
    crops: NDArray[np.uint8]

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        """The parent's probabilities (N, 3, 2)."""
        return ReferenceRunner(self.parent.SerializeToString()).probabilities(self.crops)

    def measure(self, child: onnx.ModelProto, rows: Sequence[int] | slice = slice(None)) -> QuantisationDrift:
        """The drift of `child` on the cells in `rows`."""
        answers = ReferenceRunner(child.SerializeToString()).probabilities(self.crops[rows])
        expected, places = self.expected[rows], np.arange(len(self.cells))[rows]
        before, after = vote(expected).label, vote(answers).label
        cells = [self.cells[place] for place in places]
        return QuantisationDrift(
            drift=float(np.abs(vote_logistic(answers) - vote_logistic(expected)).mean()),
            flip_rate=float(np.mean(before != after)),
            f1_drop_points=f1_drop_points(labels_of(cells), before, after, [cell.patient for cell in cells], draws=1).value,
        )


def within_limits(distance: QuantisationDrift, config: CalibrationConfig) -> bool:
    """Whether the gate's limits are kept with room to spare."""
    return distance.flip_rate <= SAFETY * config.max_flip_rate and distance.f1_drop_points <= SAFETY * config.max_f1_drop_points


def voter_margins(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 3) ln p(all) - ln p(hem) of each voter."""
    safe = np.log(np.maximum(probabilities, TINY).astype(np.float64))
    margin: NDArray[np.float64] = safe[..., 1] - safe[..., 0]
    return margin


def signed_vote_margins(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) the strongest margin that says ALL less the strongest that says HEM: its sign is the call, its size how clear."""
    by_voter = voter_margins(probabilities)
    margin: NDArray[np.float64] = by_voter.max(axis=1) + by_voter.min(axis=1)
    return margin


def vote_logistic(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logistic of the vote margin, (N,) from 0 (HEM) to 1 (ALL), through a half where the call turns."""
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(signed_vote_margins(probabilities), -60, 60)))
    return found
