"""The numbers that shapes depend on, followed through a graph: sizes of axes, put together and taken apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.graphs.call import FOLDED, Call, Shape, constant_value, sliced, told_shape
from blastscope.runtime.bundle.graphs.wire import NUMPY_TYPES, Tensor, UnfitGraph


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


def fold(call: Call, shape: Shape) -> NDArray[Any] | None:
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


def _computed(call: Call, arrays: list[Any], shape: Shape) -> Any:
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
        return np.full(shape, filled.array().reshape(-1)[0] if isinstance(filled, Tensor) else np.float32(0))
    return None
