"""The graph files of one network in fp32 and fp16, each compared with PyTorch before it is listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.answers import GraphAnswers
from blastscope.export.config import ExportConfig
from blastscope.export.graph import graph_of
from blastscope.export.halve import halve
from blastscope.export.parity import (
    Tolerances,
    bf16_answers,
    check_fp32,
    distance,
    fp16_tolerances,
    fp32_tolerances,
    torch_answers,
)
from blastscope.export.trace import trace
from blastscope.runtime.bundle import describe_file
from blastscope.runtime.bundle.digest import bytes_sha256
from blastscope.runtime.bundle.manifest import GraphEntry, GraphModels
from blastscope.runtime.classes import Precision
from blastscope.train.network import Ensemble


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A graph written to disk, with its entry for the manifest."""

    path: Path
    entry: GraphEntry


def export_graphs(
    ensemble: Ensemble, models: GraphModels, crops: NDArray[np.uint8], folder: Path, config: ExportConfig
) -> list[GraphFile]:
    """The graphs of `models` in every precision wanted, written below `folder` and compared with PyTorch on `crops`.

    Raises `EngineError` where a graph and PyTorch disagree, or a weight doesn't fit into fp16.
    """
    network = graph_of(ensemble, models)
    reference = torch_answers(network, crops)
    bf16 = distance(bf16_answers(network, crops), reference)
    model = trace(network, crops.shape[1], models)
    content = model.SerializeToString(deterministic=True)
    f32 = check_fp32(content, models, crops, reference)
    half = halve(model, models).SerializeToString(deterministic=True) if "fp16" in config.precisions else None
    moved = distance(GraphAnswers(half).probabilities(crops), reference) if half else None
    maker = _Writer(folder, models, passes_of(ensemble, models))
    files = []
    if "fp32" in config.precisions:
        files.append(maker.write("fp32", content, fp32_tolerances(f32, bf16, moved)))
    if half and moved is not None:
        parent = bytes_sha256(content) if files else None
        files.append(maker.write("fp16", half, fp16_tolerances(moved, bf16), parent=parent))
    return files


def passes_of(ensemble: Ensemble, models: GraphModels) -> int:
    """Backbone passes that a cell costs in the graph of `models`."""
    if models == "fused":
        return ensemble.passes
    return 2 * ensemble.views if models == "combined" else ensemble.views


@dataclass(frozen=True, slots=True)
class _Writer:
    folder: Path
    models: GraphModels
    passes: int

    def write(self, precision: Precision, content: bytes, tolerances: Tolerances, *, parent: str | None = None) -> GraphFile:
        file = describe_file(content, graph_path(self.models, precision))
        place = self.folder / file.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        entry = GraphEntry(
            **file.model_dump(),
            models=self.models,
            precision=precision,
            parent=parent,
            tolerances=tolerances,
            passes=self.passes,
        )
        return GraphFile(place, entry)


def graph_path(models: GraphModels, precision: Precision) -> str:
    """Where the graph lies in a bundle."""
    return f"{precision}/{models}.onnx"
