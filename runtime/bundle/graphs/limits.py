"""Walks a graph once with the shapes of a small batch, and refuses what would take a library too much time or memory.

A file of a kilobyte can ask for gigabytes, or compute for minutes when it is loaded. So memory and work are counted here first,
for a batch of two crops: elements that are held at one time, multiply-adds, and what libraries compute ahead at loading. The
numbers that shapes depend on are followed through the graph (`fold`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.graphs.call import FOLDED, Known, OperatorCall, Shape, constant_value, sliced, told_shape
from blastscope.runtime.bundle.graphs.shape_rules import einsum_sides, shapes_of
from blastscope.runtime.bundle.graphs.wire import BOOL, INT64, NUMPY_TYPES, Graph, GraphTensor, Node, UnfitGraph, Value

BATCH = 2  # with one crop a batch that is written into the graph would pass for a free one
OPSETS = range(13, 24)  # versions of ONNX's operators whose rules are known here
HELD_LIMIT = 2**25  # elements that are held at one time, and ...
HELD_PER_PIXEL = 64  # ... as many more for each number of the two crops
PICTURE = 64  # pixels, for the free sides of a detector's pictures: it is the least that each of its rules can be seen on
WORK_LIMIT = 2**42  # multiply-adds, and elements that are written
AHEAD_LIMIT = 2**22  # elements that are computed at loading, and as many more as ...
AHEAD_PER_WEIGHT = 4  # ... for each weight in the file
WORK_AHEAD = 2**30  # multiply-adds of these, and as many more for each weight
_SMALL = 4096  # elements of a weight whose numbers a shape may depend on
_COMPARING = frozenset(
    ["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"]
)
_COUNTING = frozenset(["Shape", "ArgMax", "ArgMin", "Size"])


def _divide(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    whole = left.dtype.kind in "iu"
    return np.trunc(left / right).astype(left.dtype) if whole else np.asarray(left / right)


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Mod": np.mod, "Neg": np.negative,
    "Not": np.logical_not, "Floor": np.floor, "Ceil": np.ceil, "Sqrt": np.sqrt, "Equal": np.equal, "Greater": np.greater,
    "Less": np.less, "Where": np.where, "Min": np.minimum, "Max": np.maximum, "Identity": np.asarray, "And": np.logical_and,
    "Or": np.logical_or,
}  # fmt: skip
_RESHAPING = frozenset(["Reshape", "Squeeze", "Unsqueeze", "Flatten"])


def fold(call: OperatorCall, shape: Shape) -> NDArray[Any] | None:
    """The numbers that the operator gives, of this shape; None where they aren't followed."""
    node, operator = call.node, call.node.operator
    if math.prod(shape) > FOLDED:
        return None
    if operator == "Shape":
        return np.array(told_shape(call), np.int64)
    if operator == "Constant":
        return constant_value(node)[1]
    values = [one.value for one in call.inputs if one is not None]
    if any(value is None for value in values) or len(values) != len(call.inputs):
        return None
    arrays: list[Any] = values
    try:
        with np.errstate(all="ignore"):
            found = _computed(call, arrays, shape)
            return None if found is None else np.asarray(found).reshape(shape)
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise UnfitGraph(f"can't be computed at '{node.name[:80]}': {error}") from error


def _computed(call: OperatorCall, arrays: list[Any], shape: Shape) -> Any:
    node, operator = call.node, call.node.operator
    if operator in _ARITHMETIC and len(arrays) <= 3:
        return _ARITHMETIC[operator](*arrays)
    if operator in _RESHAPING:
        return arrays[0]
    if operator == "Cast":
        kind = NUMPY_TYPES.get(call.integer("to", 0))
        return None if kind is None else arrays[0].astype(kind)
    if operator == "Concat":
        return np.concatenate(arrays, axis=call.integer("axis", 0))
    if operator == "Gather":
        return np.take(arrays[0], arrays[1].astype(np.int64), axis=call.integer("axis", 0))
    if operator == "Slice":
        return arrays[0][tuple(sliced(call))]
    if operator == "Transpose":
        return np.transpose(arrays[0], call.integers("perm", range(arrays[0].ndim)[::-1]))
    if operator == "ReduceProd":
        return np.prod(arrays[0]) if math.prod(shape) == 1 else None
    if operator == "Expand":
        return np.broadcast_to(arrays[0], shape)
    if operator == "Range":
        return np.arange(*(one.item() for one in arrays), dtype=arrays[0].dtype)
    if operator == "ConstantOfShape":
        filled = node.attributes.get("value")
        return np.full(shape, filled.array().reshape(-1)[0] if isinstance(filled, GraphTensor) else np.float32(0))
    return None


def check_limits(graph: Graph) -> dict[str, Known]:
    """What is known of every tensor of `graph` for `BATCH` crops. Raises `UnfitGraph`."""
    if graph.opset not in OPSETS:
        raise UnfitGraph(
            f"is of version {graph.opset} of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} are read: export it anew"
        )
    known: dict[str, Known] = {}
    for name, tensor in graph.tensors.items():
        known[name] = Known(tensor.dims, tensor.array() if tensor.size <= _SMALL else None, fixed=True, type=tensor.type)
    weights = sum(one.size for one in known.values())
    weights += sum(one.size for node in graph.nodes for one in node.attributes.values() if isinstance(one, GraphTensor))
    for value in graph.inputs:
        if value.name in known:
            raise UnfitGraph(f"gives '{value.name[:80]}' both as an input and as a weight")
        known[value.name] = Known(_sides(value), type=value.type)
    budget = _Budget(graph, weights, sum(known[value.name].size for value in graph.inputs))
    for node in graph.nodes:
        inputs = [_input(node, name, known) for name in node.inputs]
        call = OperatorCall(node, inputs, graph.opset)
        fixed = all(one is None or one.fixed for one in inputs)
        shapes = shapes_of(call)
        for name, shape in zip(filter(None, node.outputs), shapes, strict=True):
            if name in known:
                raise UnfitGraph(f"makes '{name[:80]}' twice")
            budget.take(node, shape, _work(call, shape), fixed=fixed)  # before numbers of that shape are made here
            numbers = fold(call, shape)
            known[name] = Known(shape, numbers, fixed or numbers is not None, _type(call))
        budget.release(node, known)
    return known


def _sides(value: Value) -> Shape:
    """The declared shape, with the batch in place of a free first side, and a small picture's in place of others."""
    free = (BATCH, *[PICTURE] * len(value.dims))
    sides = tuple(side if isinstance(side, int) else small for side, small in zip(value.dims, free, strict=False))
    if any(not 0 < side < 2**16 for side in sides):
        raise UnfitGraph(f"declares '{value.name[:80]}' as {value.dims}")
    return sides


def _input(node: Node, name: str, known: dict[str, Known]) -> Known | None:
    if not name:
        return None
    if name not in known:
        raise UnfitGraph(f"uses '{name[:80]}' in '{node.name[:80]}' before anything makes it")
    return known[name]


def _type(call: OperatorCall) -> int:
    """ONNX's number of the outputs' type."""
    operator, given = call.node.operator, [0 if one is None else one.type for one in call.inputs]
    if operator == "Cast":
        return call.integer("to", 0)
    if operator in _COMPARING:
        return BOOL
    if operator in _COUNTING:
        return INT64
    if operator in ("Where", "DequantizeLinear"):
        return given[1]
    if operator == "QuantizeLinear":
        return given[2] if len(given) > 2 else 0
    return given[0] if given else 0


def _work(call: OperatorCall, shape: Shape) -> int:
    """Multiply-adds that one output costs; of a layer that only moves or counts, its elements."""
    operator, made = call.node.operator, math.prod(shape)
    read = max((one.size for one in call.inputs if one is not None), default=0)
    if operator == "Conv":
        return made * math.prod(call.shape(1)[1:])
    if operator == "Gemm":
        return made * call.shape()[0 if call.integer("transA", 0) else 1]
    if operator == "MatMul":
        return made * call.shape()[-1]
    if operator == "Einsum":
        return math.prod(einsum_sides(call).values())
    if operator in ("MaxPool", "AveragePool"):
        return made * math.prod(call.integers("kernel_shape"))
    return 16 * made if operator == "Resize" else made + read


class _Budget:
    """What a graph may still take."""

    def __init__(self, graph: Graph, weights: int, pixels: int) -> None:
        self._uses: Counter[str] = Counter(name for node in graph.nodes for name in node.inputs)
        self._uses.update(value.name for value in graph.outputs)
        self._kept = set(graph.tensors)
        self._held, self._held_limit = pixels, HELD_LIMIT + HELD_PER_PIXEL * pixels
        self._work, self._ahead = WORK_LIMIT, AHEAD_LIMIT + AHEAD_PER_WEIGHT * weights
        self._work_ahead = WORK_AHEAD + AHEAD_PER_WEIGHT * weights

    def take(self, node: Node, shape: Shape, work: int, *, fixed: bool) -> None:
        """Counts an output of `node`."""
        where, size = f"at '{node.name[:80]}' ({node.operator})", math.prod(shape)
        self._work -= work
        if fixed:
            self._ahead -= size
            self._work_ahead -= work
        self._held += 0 if fixed else size
        if self._held > self._held_limit or self._ahead < 0:
            raise UnfitGraph(f"takes too much memory {where}, which makes {'x'.join(map(str, shape))} numbers")
        if self._work < 0 or self._work_ahead < 0:
            raise UnfitGraph(f"takes too long {where}, which makes {'x'.join(map(str, shape))} numbers")

    def release(self, node: Node, known: dict[str, Known]) -> None:
        """Counts what nobody needs after `node`."""
        for name in filter(None, node.outputs):
            if not self._uses[name] and not known[name].fixed:
                self._held -= known[name].size
        for name in node.inputs:
            self._uses[name] -= 1
            if name and not self._uses[name] and not known[name].fixed and name not in self._kept:
                self._held -= known[name].size
