"""The graph files of one network in fp32 and fp16, each compared with PyTorch before it is listed.

The fp16 graph: the networks' weights and arithmetic in half precision, everything before and after them in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.acceptance.evaluation import GraphAnswers
from blastscope.calibration.quantisation.qdq_placement import drop_unused, find_regions
from blastscope.export.config import ExportConfig
from blastscope.export.onnx_export import describe, graph_of, trace
from blastscope.export.parity import (
    Tolerances,
    bf16_answers,
    check_fp32,
    distance,
    fp16_tolerances,
    fp32_tolerances,
    torch_answers,
)
from blastscope.runtime.bundle import describe_file
from blastscope.runtime.bundle.graphs import read_graph
from blastscope.runtime.bundle.manifest import GraphEntry, GraphModels
from blastscope.runtime.errors import EngineError, MissingLibrary
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.types import Precision
from blastscope.train.ensemble_checkpoint import AnyEnsemble
from blastscope.train.trunk import TrunkEnsemble


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A graph written to disk, with its entry for the manifest."""

    path: Path
    entry: GraphEntry


def export_graphs(
    ensemble: AnyEnsemble, models: GraphModels, crops: NDArray[np.uint8], folder: Path, config: ExportConfig
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


def passes_of(ensemble: AnyEnsemble, models: GraphModels) -> int:
    """Backbone passes that a cell costs in the graph of `models`."""
    if models == "fused" or isinstance(ensemble, TrunkEnsemble):
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
        read_graph(place, file.sha256, models=self.models)  # what the runtime would refuse is told here, not at the microscope
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


try:
    import onnx
    from onnx import numpy_helper
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

LARGEST = float(np.finfo(np.float16).max)
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def halve(model: onnx.ModelProto, models: GraphModels) -> onnx.ModelProto:
    """An fp16 copy of the fp32 graph `model`, of half its size; inputs and outputs keep their types.

    Raises `EngineError` where a weight doesn't fit into fp16: it would become infinite.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    inside = set(find_regions(half).networks)
    floats = _float_values(half)
    weights = {weight.name: weight for weight in graph.initializer}
    casts = _Casts(floats - set(weights))
    nodes: list[onnx.NodeProto] = []
    made_inside: set[str] = set()
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name not in floats:
                continue
            if node.name in inside and name in weights:
                node.input[place] = _half_weight(graph, weights, name)
            elif node.name in inside and name not in made_inside:
                node.input[place] = casts.to(nodes, name, HALF)
            elif node.name not in inside and name in made_inside:
                node.input[place] = casts.to(nodes, name, FLOAT)
        if node.name in inside:
            made_inside.update(name for name in node.output if name in floats)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    describe(half, models, "fp16")
    onnx.checker.check_model(half, full_check=True)
    return half


class _Casts:
    """Casts of values at the networks' borders, one each."""

    def __init__(self, values: set[str]) -> None:
        self._values = values
        self._made: dict[tuple[str, int], str] = {}

    def to(self, nodes: list[onnx.NodeProto], name: str, kind: int) -> str:
        """The name under which the value `name` is had as `kind`; the cast goes to the end of `nodes`."""
        fresh = f"{name}_{'fp16' if kind == HALF else 'fp32'}"
        if self._made.setdefault((name, kind), fresh) is fresh:
            nodes.append(onnx.helper.make_node("Cast", [name], [fresh], name=f"Cast_{fresh}", to=kind))
        return self._made[name, kind]


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Names of all values and weights of type fp32."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    named = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
    return named | {weight.name for weight in graph.initializer if weight.data_type == FLOAT}


def _half_weight(graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto], name: str) -> str:
    fresh = f"{name}_fp16"
    if fresh not in weights:
        weights[fresh] = numpy_helper.from_array(to_half(numpy_helper.to_array(weights[name]), name), fresh)
        graph.initializer.append(weights[fresh])
    return fresh


def to_half(values: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """`values` rounded to fp16. Raises `EngineError`, which names the weight, where one is too large."""
    largest = float(np.abs(values).max(initial=0))
    if not largest <= LARGEST:  # NaN too
        raise EngineError(f"weight '{name}' reaches {largest:g}, fp16 ends at {LARGEST:g}: export without fp16")
    return values.astype(np.float16)
