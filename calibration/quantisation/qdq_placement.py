"""Q/DQ placement: which values of a graph become int8, and which share a scale.

A value is quantised when an operator of the networks takes it, so that no float32 operator is left between two convolutions.
Two kinds of values share a scale, at no cost in precision and with work saved in every engine:

    before and after ReLU or Clip   cutting to int8's range commutes with cutting at the activation's bounds, so with one scale
                                    the value before loses nothing that the activation keeps
    around Concat, MaxPool, ...     the output holds the inputs' values, so one scale makes them copies without arithmetic

What comes before and after the networks stays float32 (`find_regions`), and so do layers that are left out by name:
what feeds no other layer then stays float32 with them.

The three parts of a graph: what comes before the networks, the networks, and what comes after.

Only the networks are computed in fp16 or int8. Cast, normalisation and a cell's own statistics come before them; pooling, the
layers on vectors (Gemm), averages over views, softmax and vote after: they stay in fp32 in every precision. Layers on vectors
cost a thousandth of the work, one int8 scale can't serve features of different kinds, and the vote compares what comes of them.
The parts are found by the graph's shape, not by names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from blastscope.runtime.errors import EngineError, MissingLibrary
from blastscope.runtime.types import VOTERS, Precision, Voter

try:
    import onnx
except ImportError as error:
    raise MissingLibrary("onnx", "export") from error

META = "blastscope."  # before the keys of what a graph file says of itself
LAYERS = ("Conv", "MatMul")  # the layers on maps and sequences
COUNTING = ("Shape", "Size")  # what comes of them knows a value's shape alone: the scale of attention, sizes to reshape to
CLIPPING = ("Relu", "Clip")
MOVING = ("Concat", "MaxPool", "Flatten", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Pad")
COMPUTING = ("Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean", "Sigmoid", "HardSigmoid", "HardSwish")
QUANTISED = (*LAYERS, *COMPUTING, *CLIPPING, *MOVING)
MAC_OPERATORS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True, slots=True)
class Regions:
    """The nodes of each region of a graph: their names, in the graph's order.

    Attributes
    ----------
    before : tuple of str
        No layer stands before these.
    networks : tuple of str
        The rest.
    after : tuple of str
        No layer stands after these.
    """

    before: tuple[str, ...]
    networks: tuple[str, ...]
    after: tuple[str, ...]


def find_regions(model: onnx.ModelProto) -> Regions:
    """The parts of `model`, whose nodes must have names and stand in topological order."""
    nodes = list(model.graph.node)
    if not any(node.op_type in LAYERS for node in nodes):
        raise EngineError("the graph holds no layer: not one of blastscope's")
    fed = _reached(nodes)  # by a layer, going down
    feeding = _reached([_reversed(node) for node in reversed(nodes)])  # a layer, going up
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
        if (node.name in reached and node.op_type not in COUNTING) or node.op_type in LAYERS:
            behind.update(name for name in node.output if name)
    return reached


def _reversed(node: onnx.NodeProto) -> onnx.NodeProto:
    turned: onnx.NodeProto = onnx.helper.make_node(node.op_type, list(node.output), list(node.input), name=node.name)
    return turned


def crop_dependent_values(model: onnx.ModelProto) -> set[str]:
    """The values that hold something of the crops, and not of their number and size alone."""
    seen = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in COUNTING and seen.intersection(node.input):
            seen.update(node.output)
    return seen


def check_graph(model: onnx.ModelProto, precision: Precision) -> None:
    """Raises `EngineError` where ONNX's checker finds that types or shapes of the graph `model` don't fit each other."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EngineError(f"this network has no valid {precision} graph: {reason}") from error


def consumers_of(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that take each value."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.input):
            consumers.setdefault(name, []).append(node)
    return consumers


def drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Takes away the weights that no node takes."""
    used = {name for node in graph.node for name in node.input}
    # copied: what is deleted from a list of protobuf's may not be put back
    kept = [onnx.TensorProto.FromString(weight.SerializeToString()) for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


@dataclass(frozen=True)
class QdqPlan:
    """Which values and weights are quantised.

    Attributes
    ----------
    values : dict of str to str
        For each value the name of its group.
    members : dict of str to tuple of str
        For each group the values whose largest range it takes.
    weights : dict of str to int
        For each layer's weight the axis of its output channels.
    fp32_layers : frozenset of str
        Names of the layers that stay float32.
    """

    values: dict[str, str]
    members: dict[str, tuple[str, ...]]
    weights: dict[str, int] = field(default_factory=dict)
    fp32_layers: frozenset[str] = frozenset()


def make_plan(model: onnx.ModelProto, fp32_layers: Collection[str] = ()) -> QdqPlan:
    """The plan for the fp32 graph `model`, in which the layers named in `fp32_layers` stay float32."""
    inside = set(find_regions(model).networks).difference(fp32_layers)
    nodes = [node for node in model.graph.node if node.name in inside and node.op_type in QUANTISED]
    wanted = _values_to_quantise(model, nodes)
    groups = _ScaleGroups(wanted)
    for node in nodes:
        inputs = [name for name in node.input if name in wanted]
        if node.op_type in CLIPPING and node.output[0] in wanted and _only_user(model, inputs):
            groups.join(inputs[0], node.output[0], drop=inputs[0])
        elif node.op_type in MOVING and node.output[0] in wanted:
            for name in inputs:
                groups.join(name, node.output[0])
    return QdqPlan(groups.named(), groups.members(), _weights(model, nodes), frozenset(fp32_layers))


def _values_to_quantise(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> list[str]:
    """Float values that a quantised operator takes, in the graph's order.

    Not those that hold nothing of the crops, such as the scale of attention, nor vectors that never meet a layer again.
    """
    seen = crop_dependent_values(model)
    computing = {node.name for node in nodes}
    consumers = consumers_of(model.graph.node)
    feeds: set[str] = set()  # nodes from which a quantised layer is reached through quantised operators
    for node in reversed(model.graph.node):
        if node.name not in computing:
            continue
        if node.op_type in LAYERS or any(user.name in feeds for name in node.output for user in consumers.get(name, ())):
            feeds.add(node.name)
    wanted: dict[str, None] = {}
    for node in nodes:
        if node.name not in feeds:
            continue
        data = node.input if node.op_type in ("Add", "Mul", "Concat", "MatMul") else node.input[:1]
        wanted.update(dict.fromkeys(name for name in data if name in seen))
    return list(wanted)


def _only_user(model: onnx.ModelProto, inputs: list[str]) -> bool:
    return len(inputs) == 1 and sum(inputs[0] in node.input for node in model.graph.node) == 1


def _weights(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, int]:
    constants = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    found = {}
    for node in nodes:
        if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in constants:
            found[node.input[1]] = 0 if node.op_type == "Conv" else constants[node.input[1]] - 1
    return found


class _ScaleGroups:
    """Sets of values that share a scale."""

    def __init__(self, values: list[str]) -> None:
        self._head = {value: value for value in values}
        self._dropped: set[str] = set()

    def join(self, one: str, other: str, *, drop: str | None = None) -> None:
        """Puts both into one group; the range of `drop` doesn't count in it."""
        first, second = self._find(one), self._find(other)
        self._head[first] = second
        if drop is not None:
            self._dropped.add(drop)

    def named(self) -> dict[str, str]:
        return {value: self._find(value) for value in self._head}

    def members(self) -> dict[str, tuple[str, ...]]:
        members: dict[str, list[str]] = {}
        for value in self._head:
            members.setdefault(self._find(value), [])
            if value not in self._dropped:
                members[self._find(value)].append(value)
        return {group: tuple(values) for group, values in members.items()}

    def _find(self, value: str) -> str:
        while self._head[value] != value:
            value = self._head[value]
        return value


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
