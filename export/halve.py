"""The fp16 graph: the networks' weights and arithmetic in half precision, everything before and after them in fp32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.regions import drop_unused, find_regions
from blastscope.export.trace import describe
from blastscope.runtime.bundle.manifest import GraphModels
from blastscope.runtime.errors import EngineError, MissingLibrary

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
