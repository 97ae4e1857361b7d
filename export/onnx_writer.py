"""The graph files of one network in fp32 and fp16, each compared with PyTorch before it is listed.

`convert_fp16` puts the networks' weights and arithmetic into half precision; what comes before and after them stays in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blastscope.calibration.evaluation import ReferenceRunner
from blastscope.calibration.quantisation.qdq_placement import check_graph, drop_unused_weights, find_regions
from blastscope.export.onnx_export import make_graph, trace, write_metadata
from blastscope.export.parity import (
    Tolerances,
    bf16_probabilities,
    check_fp32,
    fp16_tolerances,
    fp32_tolerances,
    max_difference,
    torch_probabilities,
)
from blastscope.runtime.bundle import describe_file
from blastscope.runtime.bundle.graphs import read_graph
from blastscope.runtime.bundle.graphs.reading import bad_weight
from blastscope.runtime.bundle.manifest import GraphEntry, GraphModels
from blastscope.runtime.errors import EngineError, MissingLibrary
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Precision
from blastscope.train.ensemble_checkpoint import AnyEnsemble
from blastscope.train.trunk import TrunkEnsemble

try:
    import onnx
    from onnx import numpy_helper
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

FP16_MAX = float(np.finfo(np.float16).max)
FP16_TYPE = "tensor(float16)"
FP32, FP16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


class ExportConfig(StrictModel):
    """Which graphs are written, and what they are checked on.

    Attributes
    ----------
    name : str or None
        Name of the bundle; None: that of the run's folder.
    precisions : ({'fp32', 'fp16'}, ...)
        Number types of the graphs.
    fused_only : bool
        Leave the three single models out.
    drawn : bool
        Golden set and check on drawn cells, so that no patient's cell is given away with the bundle.
    golden_cells : int
        Crops of the golden set.
    parity_cells : int
        Crops on which each graph is compared with PyTorch.
    seed : int
        The same seed gives the same result.
    """

    name: str | None = Field(default=None, min_length=1, max_length=80)
    # int8 comes from `calibrate`, through its gate
    precisions: tuple[Literal["fp32", "fp16"], ...] = Field(default=("fp32", "fp16"), min_length=1)
    fused_only: bool = False
    drawn: bool = False
    golden_cells: int = Field(default=16, ge=2, le=16)
    parity_cells: int = Field(default=48, ge=8)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A graph written to disk, with its entry for the manifest.

    Attributes
    ----------
    path : Path
        The ONNX file.
    entry : GraphEntry
        The graph, as the manifest lists it.
    """

    path: Path
    entry: GraphEntry


def export_graphs(
    ensemble: AnyEnsemble, models: GraphModels, crops: NDArray[np.uint8], folder: Path, config: ExportConfig
) -> list[GraphFile]:
    """Writes an ensemble's graphs in every precision that is wanted, and compares them with PyTorch.

    Parameters
    ----------
    ensemble : Ensemble or TrunkEnsemble
        The trained networks.
    models : {'ensemble', 'a', 'b', 'combined'}
        All voters in one graph, or one alone.
    crops : (N, S, S, 3) uint8 array
        What they are compared on, RGB.
    folder : Path
        Where the graphs go.
    config : ExportConfig
        Precisions and tolerances.

    Returns
    -------
    list of GraphFile

    Raises
    ------
    EngineError
        A graph and PyTorch disagree, or a weight doesn't fit into fp16.
    """
    network = make_graph(ensemble, models)
    reference = torch_probabilities(network, crops)
    bf16 = max_difference(bf16_probabilities(network, crops), reference)
    model = trace(network, crops.shape[1], models)
    content = model.SerializeToString(deterministic=True)
    if (name := bad_weight(content)) is not None:
        raise EngineError(f"the ONNX graph of '{models}' has a weight '{name}' that is not a number: train anew")
    f32 = check_fp32(content, models, crops, reference)
    fp16 = convert_fp16(model, models).SerializeToString(deterministic=True) if "fp16" in config.precisions else None
    fp16_difference = max_difference(ReferenceRunner(fp16).probabilities(crops), reference) if fp16 else None
    writer = _Writer(folder, models, backbone_passes(ensemble, models))
    files = []
    if "fp32" in config.precisions:
        files.append(writer.write("fp32", content, fp32_tolerances(f32, bf16, fp16_difference)))
    if fp16 and fp16_difference is not None:
        parent = bytes_sha256(content) if files else None
        files.append(writer.write("fp16", fp16, fp16_tolerances(fp16_difference, bf16), parent=parent))
    return files


def backbone_passes(ensemble: AnyEnsemble, models: GraphModels) -> int:
    """Backbone passes that a cell costs in the graph of `models`."""
    if models == "ensemble" or isinstance(ensemble, TrunkEnsemble):
        return ensemble.passes
    return 2 * ensemble.views if models == "combined" else ensemble.views


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the graphs of one network into a folder, each with its entry for the manifest.

    Attributes
    ----------
    folder : Path
        Where the graphs go.
    models : GraphModels
        Which models they hold.
    passes : int
        Backbone passes that they need.
    """

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
    """The graph's path in a bundle."""
    return f"{precision}/{models}.onnx"


def convert_fp16(model: onnx.ModelProto, models: GraphModels) -> onnx.ModelProto:
    """An fp16 copy of the fp32 graph `model`, of half its size; inputs and outputs keep their types.

    Raises `EngineError` where a weight doesn't fit into fp16: it would become infinite; and for a branch or a loop.
    """
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    graph = converted.graph
    inside = set(find_regions(converted).networks)
    floats = _float_values(converted)
    weights = {weight.name: weight for weight in graph.initializer}
    casts = _Casts(floats - set(weights))
    opset = next(entry.version for entry in converted.opset_import if entry.domain in ("", "ai.onnx"))
    nodes: list[onnx.NodeProto] = []
    fp16_values: set[str] = set()  # values that are fp16 now
    for node in graph.node:
        if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
            raise EngineError(f"'{node.op_type}' holds a graph of its own, which can't be made fp16: export without fp16")
        types = _fp16_types(node, opset, floats, fp16_values) if node.name in inside else _Fp16Types()
        for place, name in enumerate(node.input):
            if name not in floats:
                continue
            if place in types.inputs and name in weights:
                node.input[place] = _fp16_weight(graph, weights, name)
            elif place in types.inputs and name not in fp16_values:
                node.input[place] = casts.to(nodes, name, FP16)
            elif place not in types.inputs and name in fp16_values and not (node.name in inside and types.any_input):
                node.input[place] = casts.to(nodes, name, FP32)
        fp16_values.update(node.output[place] for place in types.outputs)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_weights(graph)
    write_metadata(converted, models, "fp16")
    check_graph(converted, "fp16")
    return converted


@dataclass(frozen=True, slots=True)
class _Fp16Types:
    """Which inputs and outputs of an operator are fp16, by their place.

    Attributes
    ----------
    inputs, outputs : frozenset of int
        Those that are.
    any_input : bool
        Whether the other inputs are taken in either type, as `Cast` and `Shape` take theirs.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    any_input: bool = False


def _fp16_types(node: onnx.NodeProto, opset: int, floats: set[str], fp16_values: set[str]) -> _Fp16Types:
    """What of the operator `node`, one of the networks', is fp16 by ONNX's rules.

    An output follows an input of the same type variable. Some types stand fast: `Resize` takes its scales in fp32, `Cast` to
    FLOAT gives fp32. What is neither computed in fp16 nor compared with an fp16 value keeps its type.
    """
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    allowed = {one.type_param_str: FP16_TYPE in one.allowed_type_strs for one in schema.type_constraints}
    taken = {place: _parameter(schema.inputs, place) for place, name in enumerate(node.input) if name in floats}
    inputs = {place: kind for place, (kind, name) in taken.items() if allowed.get(kind) and name != "roi"}
    given = {place: _parameter(schema.outputs, place)[0] for place, name in enumerate(node.output) if name in floats}
    outputs = {place: kind for place, kind in given.items() if kind in inputs.values()}
    if outputs or (len(inputs) > 1 and fp16_values.intersection(node.input)):
        return _Fp16Types(frozenset(inputs), frozenset(outputs))
    return _Fp16Types(any_input=bool(inputs))


def _parameter(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], place: int) -> tuple[str, str]:
    """Type variable and name of the parameter at `place`; the last may stand for several."""
    found = parameters[min(place, len(parameters) - 1)]
    return found.type_str, found.name


class _Casts:
    """Casts of values at the networks' borders, one each."""

    def __init__(self, values: set[str]) -> None:
        self._values = values
        self._made: dict[tuple[str, int], str] = {}

    def to(self, nodes: list[onnx.NodeProto], name: str, kind: int) -> str:
        """The name under which the value `name` is had as `kind`; the cast goes to the end of `nodes`."""
        fresh = f"{name}_{'fp16' if kind == FP16 else 'fp32'}"
        if self._made.setdefault((name, kind), fresh) is fresh:
            nodes.append(onnx.helper.make_node("Cast", [name], [fresh], name=f"Cast_{fresh}", to=kind))
        return self._made[name, kind]


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Names of all values and weights of type fp32."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    named = {value.name for value in values if value.type.tensor_type.elem_type == FP32}
    return named | {weight.name for weight in graph.initializer if weight.data_type == FP32}


def _fp16_weight(graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto], name: str) -> str:
    fresh = f"{name}_fp16"
    if fresh not in weights:
        weights[fresh] = numpy_helper.from_array(cast_fp16(numpy_helper.to_array(weights[name]), name), fresh)
        graph.initializer.append(weights[fresh])
    return fresh


def cast_fp16(values: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """`values` rounded to fp16. Raises `EngineError`, which names the weight, where one is too large."""
    largest = float(np.abs(values).max(initial=0))
    if not largest <= FP16_MAX:  # NaN too
        raise EngineError(f"weight '{name}' reaches {largest:g}, fp16 ends at {FP16_MAX:g}: export without fp16")
    return values.astype(np.float16)
