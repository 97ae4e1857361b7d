"""Reference labels of synthetic cells, by another engine on the same graph; cached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.contenders import crop_images, vote_labels
from blastscope.benchmarks.interleaved_timing import Image
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.backends.registry import open_engine
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import PRECISIONS, VOTERS, ClassName, Precision

CANDIDATES_PER_CELL = 4  # synthetic cells for each that is used: those nearest to a tie are left out
MIN_MARGIN = 0.2  # a vote with a smaller margin may change with an engine's rounding, and isn't compared
Probabilities = NDArray[np.float32]  # (N, 3, 2): cells, voters, classes


class ReferencePredictions:
    """What reference engines predict for synthetic cells, by graph file; computed once.

    Parameters
    ----------
    spec
        How the cells are cropped.
    count
        Number of cells.
    cache
        Folder where predictions are kept from one process to the next; None: nowhere.
    """

    def __init__(self, spec: CropSpecification, count: int, cache: Path | None = None) -> None:
        self._spec, self._count, self._cache = spec, count, cache
        self._predictions: dict[str, Probabilities] = {}

    @property
    def images(self) -> list[Image]:
        """The cells, uint8 (H, W, 3) RGB."""
        return _synthetic_images(self._count)

    def predict(self, graph: Path, *, precision: Precision, backend: str = "onnxruntime") -> Probabilities:
        """The probabilities of all cells with the ONNX file `graph`.

        Parameters
        ----------
        graph
            ONNX file of a fused network.
        precision
            Of that file.
        backend
            The engine that runs it: one that the contender with this graph doesn't use.

        Returns
        -------
        Probabilities
            Float32 (N, 3, 2).
        """
        key = f"{file_sha256(graph)}-{backend}-{self._count}"
        if key not in self._predictions:
            self._predictions[key] = self._cached_or_computed(key, graph, precision, backend)
        return self._predictions[key]

    def _cached_or_computed(self, key: str, graph: Path, precision: Precision, backend: str) -> Probabilities:
        path = self._cache / "answers" / f"{key}.json" if self._cache else None
        if path and path.exists():
            return np.array(json.loads(path.read_text(encoding="utf-8")), np.float32)
        options = EngineOptions(workload="throughput", execution="int8" if precision == "int8" else "f32")
        engine = open_engine(graph, options, backend=backend)
        try:
            answers = [engine.lanes[0].infer(crop_images([image], self._spec))[:, : len(VOTERS)] for image in self.images]
            found = np.concatenate(answers)
        finally:
            engine.close()
        if path:
            write_content(path, json.dumps(found.tolist()))
        return found


@cache
def _synthetic_images(count: int) -> list[Image]:
    return [cell.image for cell in synthetic_cells(count, seed=0)]


def vote_margins(probabilities: Probabilities) -> NDArray[np.float32]:
    """How clearly each cell is decided: the largest probability of one class less that of the other.

    Parameters
    ----------
    probabilities
        Float32 (N, 3, 2), with NaN for voters that were not run.

    Returns
    -------
    numpy.ndarray
        Float32 (N,), 0 to 1.
    """
    largest = np.nanmax(probabilities, axis=1)
    return np.asarray(np.abs(largest[:, 1] - largest[:, 0]), np.float32)


def clearest_cells(predictions: Sequence[Probabilities], count: int) -> list[int]:
    """Indices of the `count` cells whose smallest margin over all predictions is largest, so that rounding changes no label."""
    margins = np.min([vote_margins(one) for one in predictions], axis=0)
    return [int(index) for index in np.argsort(-margins, kind="stable")[:count]]


def expected_labels(probabilities: Probabilities, cells: Sequence[int]) -> tuple[ClassName | None, ...]:
    """The labels of the cells with these indices; None where the margin is too small for a comparison."""
    chosen = probabilities[list(cells)]
    labels = zip(vote_labels(chosen, partial=True), vote_margins(chosen), strict=True)
    return tuple(label if margin >= MIN_MARGIN else None for label, margin in labels)


def predict_graphs(path: Path, reference: ReferencePredictions) -> dict[Precision, Probabilities]:
    """The reference's probabilities, float32 (N, 3, 2), with each fused graph of the bundle at `path`, by precision."""
    bundle = read_bundle(path)
    entries = {precision: bundle.graph(precision) for precision in PRECISIONS}
    return {one: reference.predict(bundle.file(entry), precision=one) for one, entry in entries.items() if entry}
