"""Finds weights of an ONNX graph that are no numbers, without the ONNX library: what a training that diverged leaves behind.

Engines don't agree on what follows from them: ReLU makes 0 of NaN in some, int8 any number, and the call looks sure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import GraphEntry
from blastscope.runtime.bundle.reader import Bundle
from blastscope.runtime.errors import BundleError

# onnx.proto: numbers of the fields, and of the types
_GRAPH, _INITIALISER, _TYPE, _FLOATS, _NAME, _RAW = 7, 5, 2, 4, 8, 9
_KINDS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
_EXPONENT = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0000000000000}  # all ones: infinite or no number
_PIECE = 1 << 20  # values looked at in one go


class _Field(NamedTuple):
    number: int
    value: int  # of a number; of bytes, where they begin
    end: int  # of bytes, where they end; 0: a number


def check_weights(bundle: Bundle, entry: GraphEntry) -> None:
    """Raises `BundleError` where a weight of the graph `entry` is NaN or infinite."""
    if problem := weights_problem(bundle.read(entry)):
        raise BundleError(bundle.path, f"{entry.file} {problem}")


def weights_problem(graph: bytes) -> str | None:
    """What is wrong with the weights of `graph`; None where nothing is."""
    if (name := bad_weight(graph)) is None:
        return None
    return f"has a weight '{name}' that holds what is not a number: the training diverged, train it anew"


def bad_weight(graph: bytes) -> str | None:
    """The name of the first weight in the ONNX model `graph` that holds NaN, or an infinite number beside others.

    Infinite numbers among zeros, or alone, are no weights but masks and limits. What is no ONNX model holds none.
    """
    try:
        return next(_bad(graph), None)
    except (IndexError, ValueError):
        return None  # the engine that is to load it says what is wrong


def _bad(graph: bytes) -> Iterator[str]:
    for model in _fields(graph, 0, len(graph)):
        if model.number == _GRAPH and model.end:
            for part in _fields(graph, model.value, model.end):
                if part.number == _INITIALISER and part.end:
                    parts = {field.number: field for field in _fields(graph, part.value, part.end)}
                    if _is_bad(graph, parts):
                        name = parts.get(_NAME)
                        yield bytes(graph[name.value : name.end]).decode(errors="replace") if name else ""


def _is_bad(graph: bytes, parts: dict[int, _Field]) -> bool:
    kind, data = _KINDS.get(parts[_TYPE].value if _TYPE in parts else 0), parts.get(_RAW) or parts.get(_FLOATS)
    if kind is None or data is None or (data.end - data.value) % kind.itemsize:
        return False
    values: NDArray[Any] = np.frombuffer(graph, kind, (data.end - data.value) // kind.itemsize, data.value)
    whole, ones = values.view(f"<u{kind.itemsize}"), np.array(_EXPONENT[kind.itemsize], f"<u{kind.itemsize}")
    if not any(((whole[start : start + _PIECE] & ones) == ones).any() for start in range(0, len(whole), _PIECE)):
        return False
    return bool(np.isnan(values).any() or values[np.isfinite(values)].any())


def _fields(graph: bytes, start: int, end: int) -> Iterator[_Field]:
    """The fields of one message of protocol buffers."""
    while start < end:
        key, start = _varint(graph, start)
        wire = key & 7
        if wire == 0:
            value, start = _varint(graph, start)
            yield _Field(key >> 3, value, 0)
        elif wire == 2:
            size, start = _varint(graph, start)
            if size > end - start:
                raise ValueError("a field reaches beyond its message")
            yield _Field(key >> 3, start, start + size)
            start += size
        elif wire in (1, 5):
            start += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(graph: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = graph[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
