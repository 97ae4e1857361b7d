"""Reference labels of synthetic cells, by another engine on the same graph; cached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.contenders import crop_all, labels_of
from blastscope.benchmarks.interleaved_timing import Image
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.backends.registry import open_engine
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import PRECISIONS, ClassName, Precision

SURPLUS = 4  # cells drawn for each that is kept: those nearest to a tie are left out
LEAD = 0.2  # a call that leads the other by less may change with an engine's rounding, and isn't compared
Probabilities = NDArray[np.float32]  # (n, 3, 2)


class References:
    """Answers to the first `count` drawn cells, by graph file."""

    def __init__(self, spec: CropSpecification, count: int, place: Path | None = None) -> None:
        self._spec, self._count, self._place = spec, count, place
        self._known: dict[str, Probabilities] = {}

    @property
    def images(self) -> list[Image]:
        """The cells."""
        return _drawn(self._count)

    def of(self, graph: Path, *, precision: Precision, engine: str = "onnxruntime") -> Probabilities:
        """What `engine` answers to them with `graph`; ONNX Runtime is the second opinion, and OpenVINO that on its own file."""
        key = f"{file_sha256(graph)}-{engine}-{self._count}"
        if key not in self._known:
            self._known[key] = self._kept(key, graph, precision, engine)
        return self._known[key]

    def _kept(self, key: str, graph: Path, precision: Precision, engine: str) -> Probabilities:
        path = self._place / "answers" / f"{key}.json" if self._place else None
        if path and path.exists():
            return np.array(json.loads(path.read_text(encoding="utf-8")), np.float32)
        options = EngineOptions(workload="throughput", execution="int8" if precision == "int8" else "f32")
        opened = open_engine(graph, options, backend=engine)
        try:
            found = np.concatenate([opened.lanes[0].infer(crop_all([image], self._spec)) for image in self.images])
        finally:
            opened.close()
        if path:
            write_content(path, json.dumps(found.tolist()))
        return found


@cache
def _drawn(count: int) -> list[Image]:
    return [cell.image for cell in synthetic_cells(count, seed=0)]


def leads(probabilities: Probabilities) -> NDArray[np.float32]:
    """By how much the surest opinion on each cell leads the surest one of the other class."""
    surest = np.nanmax(probabilities, axis=1)  # NaN: voters that were left out
    return np.asarray(np.abs(surest[:, 1] - surest[:, 0]), np.float32)


def clearest(answers: Sequence[Probabilities], count: int) -> list[int]:
    """Numbers of the `count` cells that all graphs call most clearly, so that rounding doesn't change a label."""
    certainty = np.min([leads(one) for one in answers], axis=0)
    return [int(place) for place in np.argsort(-certainty, kind="stable")[:count]]


def expected(probabilities: Probabilities, places: Sequence[int]) -> tuple[ClassName | None, ...]:
    """The labels of the cells at `places`; None where the call is too near to a tie to be compared."""
    chosen = probabilities[list(places)]
    return tuple(
        label if lead >= LEAD else None for label, lead in zip(labels_of(chosen, partial=True), leads(chosen), strict=True)
    )


def graph_answers(bundle: Path, references: References) -> dict[Precision, Probabilities]:
    """The reference for each fused graph of a bundle."""
    opened = read_bundle(bundle)
    entries = {precision: opened.graph(precision) for precision in PRECISIONS}
    return {one: references.of(opened.file(entry), precision=one) for one, entry in entries.items() if entry}
