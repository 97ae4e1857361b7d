"""The three parts of a graph: what comes before the networks, the networks, and what comes after.

Only the networks are computed in fp16 or int8. Cast, normalisation and a cell's own statistics come before them; pooling, the
layers on vectors (Gemm), averages over views, softmax and vote after: they stay in fp32 in every precision. Layers on vectors
cost a thousandth of the work, one int8 scale can't serve features of different kinds, and the vote compares what comes of them.
The parts are found by the graph's shape, not by names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blastscope.runtime.errors import EngineError, MissingLibrary

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

META = "blastscope."  # before the keys of what a graph file says of itself
LAYERS = ("Conv", "MatMul")  # the layers on maps and sequences


@dataclass(frozen=True, slots=True)
class Regions:
    """Names of nodes, in the graph's order."""

    before: tuple[str, ...]  # no layer stands before them
    networks: tuple[str, ...]
    after: tuple[str, ...]  # no layer stands after them


def find_regions(model: onnx.ModelProto) -> Regions:
    """The parts of `model`, whose nodes must have names and stand in topological order."""
    nodes = list(model.graph.node)
    if not any(node.op_type in LAYERS for node in nodes):
        raise EngineError("the graph holds no layer: not one of blastscope's")
    fed = _reached(nodes)  # by a layer, going down
    feeding = _reached([_turned(node) for node in reversed(nodes)])  # a layer, going up
    parts: dict[str, list[str]] = {"before": [], "networks": [], "after": []}
    for node in nodes:
        is_layer = node.op_type in LAYERS
        inside = is_layer or (node.name in fed and node.name in feeding)
        parts["networks" if inside else "after" if node.name in fed else "before"].append(node.name)
    return Regions(tuple(parts["before"]), tuple(parts["networks"]), tuple(parts["after"]))


def _reached(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Nodes with a layer among those that they take from, at any distance."""
    behind: set[str] = set()  # values that a layer stands behind
    reached: set[str] = set()
    for node in nodes:
        if behind.intersection(node.input):
            reached.add(node.name)
        if node.name in reached or node.op_type in LAYERS:
            behind.update(name for name in node.output if name)
    return reached


def _turned(node: onnx.NodeProto) -> onnx.NodeProto:
    turned: onnx.NodeProto = onnx.helper.make_node(node.op_type, list(node.output), list(node.input), name=node.name)
    return turned


def users_of(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that take each value."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.input):
            users.setdefault(name, []).append(node)
    return users


def drop_unused(graph: onnx.GraphProto) -> None:
    """Takes away the weights that no node takes."""
    used = {name for node in graph.node for name in node.input}
    # copied: what is deleted from a list of protobuf's may not be put back
    kept = [onnx.TensorProto.FromString(weight.SerializeToString()) for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
