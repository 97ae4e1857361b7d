"""An operator, and what is known of its inputs before the graph runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.graphs.wire import GraphTensor, Node

FOLDED = 4096  # elements of the largest array that is followed by its numbers
Shape = tuple[int, ...]


class Known(NamedTuple):
    """What is known of a tensor before the graph runs.

    Attributes
    ----------
    shape : tuple
        Its dimensions.
    value : array or None
        Its numbers, where it is small and depends on no crop.
    fixed : bool
        Whether it depends on no crop: libraries compute it when they load the graph.
    type : int
        ONNX's number of its element type; 0 where it isn't known.
    """

    shape: Shape
    value: NDArray[Any] | None = None
    fixed: bool = False
    type: int = 0

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """An operator with what is known of its inputs.

    Attributes
    ----------
    node : Node
        The operator.
    inputs : sequence of Known or None
        One for each of its inputs; None for one that was left out, or that nothing is known of.
    opset : int
        Version of ONNX's operators that the graph asks for.
    """

    node: Node
    inputs: Sequence[Known | None]
    opset: int

    def shape(self, number: int = 0) -> Shape:
        """The shape of an input that must be there."""
        return self.given(number).shape

    def given(self, number: int) -> Known:
        """An input that must be there."""
        found = self.inputs[number] if number < len(self.inputs) else None
        if found is None:
            raise ValueError(f"its input {number} is missing")
        return found

    def has(self, number: int) -> bool:
        """Whether there is such an input."""
        return number < len(self.inputs) and self.inputs[number] is not None

    def reals(self, number: int) -> list[float]:
        """The numbers in an input that a shape depends on."""
        value = self.given(number).value
        if value is None:
            raise ValueError("a shape depends on what the network computes")
        return [float(one) for one in value.reshape(-1).tolist()]

    def numbers(self, number: int) -> list[int]:
        """The same, whole."""
        return [int(one) for one in self.reals(number)]

    def integer(self, name: str, default: int) -> int:
        """An attribute that is one whole number."""
        found = self.node.attributes.get(name, default)
        if not isinstance(found, int):
            raise ValueError(f"its {name} is no whole number")
        return found

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """An attribute that is a row of whole numbers."""
        found = self.node.attributes.get(name, list(default))
        if not isinstance(found, list) or not all(isinstance(one, int) for one in found):
            raise ValueError(f"its {name} are no whole numbers")
        return found

    def word(self, name: str, default: str = "") -> str:
        """An attribute that is text."""
        found = self.node.attributes.get(name, default.encode())
        if not isinstance(found, bytes):
            raise ValueError(f"its {name} is no text")
        return found.decode()

    def axes(self, number: int) -> list[int] | None:
        """Axes from an input, or, in older operators, from the attribute; None where they aren't told."""
        if self.has(number):
            return self.numbers(number)
        return self.integers("axes") if "axes" in self.node.attributes else None


def axis_of(axis: int, rank: int) -> int:
    """The axis, counted from the front."""
    if not -rank <= axis < rank:
        raise ValueError(f"it has no axis {axis}")
    return axis % rank


def told_shape(call: OperatorCall) -> Shape:
    """The sides that `Shape` tells."""
    return call.shape()[slice(call.integer("start", 0), call.integer("end", len(call.shape())))]


def constant_value(node: Node) -> tuple[Shape, NDArray[Any] | None]:
    """What `Constant` holds: its shape, and its numbers where it is small."""
    ((name, value),) = node.attributes.items()
    if isinstance(value, GraphTensor):
        return value.dims, value.array() if value.size <= FOLDED else None
    if name not in ("value_int", "value_ints", "value_float", "value_floats"):
        raise ValueError(f"its {name} isn't read")
    made = np.array(value, np.int64 if name.startswith("value_int") else np.float32)
    return made.shape, made


def sliced(call: OperatorCall) -> list[slice]:
    """Which part of each axis `Slice` takes."""
    data = call.shape()
    starts, ends = call.numbers(1), call.numbers(2)
    axes = call.numbers(3) if call.has(3) else list(range(len(starts)))
    steps = call.numbers(4) if call.has(4) else [1] * len(starts)
    found = [slice(None) for _ in data]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        low = end < -data[axis_of(axis, len(data))]  # a backward slice up to the first element; Python has None for that
        found[axis_of(axis, len(data))] = slice(start, None if step < 0 and low else end, step)
    return found
