"""Reads a graph once: the bytes whose digest was taken are the ones that are examined and given to a library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from blastscope.runtime.bundle.graphs.call import Known, Shape
from blastscope.runtime.bundle.graphs.limits import BATCH, PICTURE, check_limits
from blastscope.runtime.bundle.graphs.wire import FLOAT, INT8, INT32, UINT8, Graph, UnfitGraph, Value, parse_graph
from blastscope.runtime.bundle.manifest import GraphModels
from blastscope.runtime.bundle.reader import FILE_LIMIT
from blastscope.runtime.bundle.weights import weights_problem
from blastscope.runtime.errors import BundleError, DigestMismatch, EngineError
from blastscope.runtime.io.own_files import open_plain
from blastscope.runtime.types import CLASSES, VOTERS

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
        """The same, of a file of a bundle."""
        return DigestMismatch(bundle, file, self.problem) if self.changed else BundleError(bundle, f"{file} {self.problem}")


def read_graph(
    path: Path, sha256: str, *, models: GraphModels | Literal["detector"] | None = None, side_px: int | None = None
) -> bytes:
    """The bytes of the ONNX file at `path`, whose digest is `sha256`.

    With `models`, also the inputs and outputs that a bundle's graph of these models has, for crops of `side_px`, are checked.
    Raises `RefusedGraph`.
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
