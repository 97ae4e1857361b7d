"""Reads a graph once: the bytes whose digest was taken are the ones that are examined and given to a library.

Weights that are no numbers, which a training that diverged leaves behind, are refused. Engines don't agree on what follows from
them: ReLU makes 0 of NaN in some, int8 any number, and the call looks sure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.graphs.call import Known, Shape
from blastscope.runtime.bundle.graphs.limits import BATCH, PICTURE, check_limits
from blastscope.runtime.bundle.graphs.wire import FLOAT, INT8, INT32, UINT8, Graph, UnfitGraph, Value, parse_graph
from blastscope.runtime.bundle.manifest import GraphEntry, GraphModels
from blastscope.runtime.bundle.reader import FILE_LIMIT, Bundle
from blastscope.runtime.errors import BundleError, DigestMismatch, EngineError
from blastscope.runtime.io.own_files import open_plain
from blastscope.runtime.types import CLASSES, VOTERS

# onnx.proto: numbers of the fields, and of the types
_GRAPH, _INITIALISER, _TYPE, _FLOATS, _NAME, _RAW = 7, 5, 2, 4, 8, 9
_KINDS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
_EXPONENT = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0000000000000}  # all ones: infinite or no number
_PIECE = 1 << 20  # values looked at in one go
_INPUT = "crops"
_ANSWER = "probabilities"
_FUSED: dict[str, tuple[int, Shape]] = {
    _ANSWER: (FLOAT, (len(VOTERS), len(CLASSES))),
    "label": (INT32, ()),
    "probability": (FLOAT, ()),
    "voter": (INT32, ()),
}
_NOVELTY: dict[str, tuple[int, Shape]] = {"novelty": (FLOAT, ()), "answers": (FLOAT, (len(VOTERS) + 1, len(CLASSES)))}
_SINGLE: dict[str, tuple[int, Shape]] = {_ANSWER: (FLOAT, (len(CLASSES),))}
_TYPES = {FLOAT: "float32", INT32: "int32", UINT8: "uint8"}


class _Field(NamedTuple):
    """A field of a protobuf message, in the bytes of the file.

    Attributes
    ----------
    number : int
        By which the message knows it.
    value : int
        Of a number itself; of bytes the place where they begin.
    end : int
        Of bytes the place where they end; 0 of a number.
    """

    number: int
    value: int
    end: int


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


def check_outputs(graph: Graph, known: Mapping[str, Known], models: GraphModels) -> None:
    """Raises `UnfitGraph` where `graph` doesn't give what one of `models` gives, in the number types that it must."""
    wanted = _FUSED if models == "ensemble" else _SINGLE
    names = [value.name for value in graph.outputs]
    if models == "ensemble" and set(_NOVELTY) & set(names):
        wanted = {**_FUSED, **_NOVELTY}
    if sorted(names) != sorted(wanted):
        raise UnfitGraph(f"has the outputs {', '.join(map(_short, names)) or 'none'}, not {', '.join(wanted)}")
    for value in graph.outputs:
        _check_output(value, known.get(value.name), *wanted[value.name])
    _check_softmax(graph, known)
    _check_int8(graph, known)


def check_input(inputs: list[Value], side_px: int | None) -> None:
    """Raises `UnfitGraph` unless the inputs are crops of `side_px` (None: any side) and no more."""
    side = side_px or "S"
    told = f"not '{_INPUT}' of uint8 (N, {side}, {side}, 3) with N free"
    if [value.name for value in inputs] != [_INPUT]:
        raise UnfitGraph(f"has the inputs {', '.join(_short(value.name) for value in inputs) or 'none'}, {told}")
    (value,) = inputs
    if value.type != UINT8 or len(value.dims) != 4:
        raise UnfitGraph(f"takes type {value.type} in {len(value.dims)} dimensions, {told}")
    batch, rows, columns, channels = value.dims
    if isinstance(batch, int) or not isinstance(rows, int) or rows != columns or channels != 3 or side_px not in (None, rows):
        raise UnfitGraph(f"takes {_dims(value)}, {told}")


def check_detector(graph: Graph, known: Mapping[str, Known]) -> None:
    """Raises `UnfitGraph` unless `graph` takes pictures of any size and gives the maps of a detector."""
    told = "not a detector: 'pictures' of uint8 (N, H, W, 3), all but the 3 free, to 'maps' of float32 (N, 10, H / 8, W / 8)"
    names = [value.name for value in graph.inputs], [value.name for value in graph.outputs]
    if names != (["pictures"], ["maps"]):
        raise UnfitGraph(f"takes {', '.join(map(_short, names[0])) or 'nothing'}: {told}")
    (taken,), (given,) = graph.inputs, graph.outputs
    free = len(taken.dims) == 4 and not any(isinstance(side, int) for side in taken.dims[:3]) and taken.dims[3] == 3
    if taken.type != UINT8 or not free:
        raise UnfitGraph(f"takes type {taken.type} as {_dims(taken)}: {told}")
    made = known.get(given.name)
    if (
        made is None
        or given.type != FLOAT
        or made.type not in (0, FLOAT)
        or made.shape != (BATCH, 10, PICTURE // 8, PICTURE // 8)
    ):
        raise UnfitGraph(f"gives {made.shape if made else 'nothing'} of a picture of {PICTURE} pixels: {told}")


def _check_output(value: Value, known: Known | None, kind: int, shape: Shape) -> None:
    told = f"not {_TYPES[kind]} ({', '.join(map(str, ('N', *shape)))}) with N free"
    if known is None:
        raise UnfitGraph(f"makes no '{value.name}'")
    if value.type != kind or known.type not in (0, kind):
        raise UnfitGraph(f"declares '{value.name}' as ONNX's type {value.type}, {told}")
    fits = len(value.dims) == len(shape) + 1 and not isinstance(value.dims[0], int)
    fits = fits and all(not isinstance(found, int) or found == side for found, side in zip(value.dims[1:], shape, strict=True))
    if not fits or known.shape != (BATCH, *shape):
        found = known.shape if fits else _dims(value)
        raise UnfitGraph(f"gives '{value.name}' as {found}, {told}")


def _check_softmax(graph: Graph, known: Mapping[str, Known]) -> None:
    """The softmax that makes the answers must be in float32, whatever the network is in."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    maker = makers.get(_ANSWER)
    if maker is not None and maker.operator == "Softmax" and known[maker.inputs[0]].type not in (0, FLOAT):
        raise UnfitGraph(f"computes the softmax of '{_ANSWER}' in ONNX's type {known[maker.inputs[0]].type}, not in float32")


def _check_int8(graph: Graph, known: Mapping[str, Known]) -> None:
    for node in graph.nodes:
        if node.operator not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        where = f"'{_short(node.name)}' ({node.operator})"
        if node.operator == "DequantizeLinear" and known[node.inputs[0]].type not in (0, INT8):
            raise UnfitGraph(f"holds numbers of ONNX's type {known[node.inputs[0]].type} at {where}, only int8 is quantised")
        zero = graph.tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if zero is None:
            if len(node.inputs) > 2 or node.operator == "QuantizeLinear":  # without one it is uint8
                raise UnfitGraph(f"has no zero point in the file at {where}")
        elif zero.type != INT8 or zero.array().any():
            raise UnfitGraph(f"quantises asymmetrically at {where}: zero points must be int8 zeros")


def _dims(value: Value) -> str:
    return f"({', '.join('?' if side is None else _short(str(side)) for side in value.dims)})"


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}…"


class RefusedGraph(EngineError):
    """A graph that is not the one that was verified, or breaks a rule of runtime/FORMAT.md."""

    def __init__(self, path: Path, problem: str, *, changed: bool = False) -> None:
        self.path = path
        self.problem = problem
        self.changed = changed
        super().__init__(f"'{path}' {problem}")

    def in_bundle(self, bundle: Path, file: str) -> BundleError:
        """The error, of a file in a bundle."""
        return DigestMismatch(bundle, file, self.problem) if self.changed else BundleError(bundle, f"{file} {self.problem}")


def read_graph(
    path: Path, sha256: str, *, models: GraphModels | Literal["detector"] | None = None, side_px: int | None = None
) -> bytes:
    """The bytes of an ONNX file, once they are examined.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str
        Its digest in hex.
    models : {'ensemble', 'a', 'b', 'combined', 'detector'}, optional
        What the graph must be: its inputs and outputs are checked, too.
    side_px : int, optional
        Side of the crops that it must take.

    Returns
    -------
    bytes

    Raises
    ------
    RefusedGraph
        The file can't be read, has another digest, breaks a limit, or isn't what it must be.
    """
    try:
        stream, found = open_plain(path)
        with stream:
            content = stream.read(min(found.st_size, FILE_LIMIT) + 1)
    except OSError as error:
        raise RefusedGraph(path, f"can't be read any more: {error.strerror or error}", changed=True) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RefusedGraph(path, "was changed since it was verified", changed=True)
    try:
        examine_graph(content, models=models, side_px=side_px)
    except UnfitGraph as error:
        raise RefusedGraph(path, str(error)) from error
    return content


def examine_graph(
    content: bytes, *, models: GraphModels | Literal["detector"] | None = None, side_px: int | None = None
) -> None:
    """Raises `UnfitGraph` where the graph breaks a limit, or isn't one of `models` for crops of `side_px`, or a detector."""
    if len(content) > FILE_LIMIT:
        raise UnfitGraph(f"is larger than {FILE_LIMIT} bytes")
    graph = parse_graph(content)
    if models is not None and models != "detector":
        check_input(graph.inputs, side_px)
    known = check_limits(graph)
    if problem := weights_problem(content):
        raise UnfitGraph(problem)
    if models == "detector":
        check_detector(graph, known)
    elif models is not None:
        check_outputs(graph, known, models)
