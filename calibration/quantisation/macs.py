"""Multiply-accumulate operations of each layer, for one cell."""

from __future__ import annotations

import math

import numpy as np

from blastscope.runtime.errors import EngineError, MissingLibrary
from blastscope.runtime.types import VOTERS, Voter

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

MAC_OPERATORS = ("Conv", "MatMul", "Gemm")


def count_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds for one cell, by the name of the layer's node. Raises `EngineError` where a shape can't be inferred."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]  # of other batches
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*inferred.value_info, *inferred.output, *inferred.input)}
    shapes.update({weight.name: tuple(weight.dims) for weight in inferred.initializer})
    return {node.name: _of_layer(node, shapes) for node in inferred.node if node.op_type in MAC_OPERATORS}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def _of_layer(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    made, taken = shapes.get(node.output[0], ()), shapes.get(node.input[1], ())
    if not made or not taken or 0 in made:
        raise EngineError(f"{node.name}: its shape can't be inferred, so its work can't be counted")
    outputs = math.prod(made)
    if node.op_type == "Conv":  # weights are (outputs, inputs of a group, rows, columns)
        return outputs * math.prod(taken[1:])
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return outputs * (taken[-1] if turned else taken[-2])


def voter_mac_share(model: onnx.ModelProto, voter: Voter) -> float:
    """The share of the graph's multiply-adds that `voter` alone needs, 0 to 1.

    Raises `EngineError` where the graph doesn't concatenate the outputs of three voters.
    """
    work = count_macs(model)
    needed = _ancestors(model, _voter_outputs(model)[VOTERS.index(voter)])
    return float(np.sum([count for name, count in work.items() if name in needed]) / np.sum(list(work.values())))


def _voter_outputs(model: onnx.ModelProto) -> list[str]:
    """The three values that are concatenated before softmax and vote, in the order of the voters."""
    made = {name: node for node in model.graph.node for name in node.output}
    value = "probabilities"
    while value in made:
        node = made[value]
        if node.op_type == "Concat" and len(node.input) == len(VOTERS):
            return list(node.input)
        value = node.input[0]
    raise EngineError("the graph doesn't put the opinions of three voters side by side: no voter of it can be run alone")


def _ancestors(model: onnx.ModelProto, value: str) -> set[str]:
    """Names of the nodes that `value` comes from."""
    made = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    waiting = [value]
    while waiting:
        node = made.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found
