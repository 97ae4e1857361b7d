"""An ONNX file taken apart into plain records, within fixed limits, before any library sees it.

A parser made for trusted files gives each field an object: a file of some megabytes can ask it for gigabytes. This one counts
what it reads, copies no weights, and refuses every field that blastscope's exporter doesn't write: what two libraries could
read in two ways, what lies in other files, and what runs a graph inside a graph.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FIELD_LIMIT = 1_000_000  # fields, and numbers packed in one, of the whole file
NODE_LIMIT = 20_000
RANK_LIMIT = 8
FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16, DOUBLE = 1, 2, 3, 6, 7, 9, 10, 11  # ONNX's numbers of the types
NUMPY_TYPES = {FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT32: "<i4", INT64: "<i8", BOOL: "?", FLOAT16: "<f2", DOUBLE: "<f8"}

Kind = Literal["number", "single", "bytes", "numbers", "singles", "doubles"]
Span = tuple[int, int]  # from, to: a place in the file
Dim = int | str | None  # a number, a name, or not told


class UnfitGraph(Exception):
    """Why a graph isn't given to a library. Doesn't leave this package."""


class GraphTensor(NamedTuple):
    """An initialiser, or a constant in an attribute. Its numbers stay in the file until they are asked for.

    Attributes
    ----------
    dims : tuple of int
        Its shape.
    type : int
        ONNX's number of the element type.
    content : bytes
        The whole file.
    raw : (int, int) or None
        From where to where in the file the elements lie; None: they stand in `numbers`.
    numbers : tuple of float
        The elements, where they aren't raw.
    """

    dims: tuple[int, ...]
    type: int
    content: bytes
    raw: Span | None
    numbers: tuple[float, ...]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.dims)

    def array(self) -> NDArray[Any]:
        """The elements."""
        kind = np.dtype(NUMPY_TYPES[self.type])
        if self.raw is not None:
            return np.frombuffer(self.content[slice(*self.raw)], kind).reshape(self.dims)
        if self.type == FLOAT16:  # its bits stand in whole numbers
            return np.array(self.numbers, "<u2").view("<f2").reshape(self.dims)
        return np.array(self.numbers).astype(kind).reshape(self.dims)


class Node(NamedTuple):
    """One operator.

    Attributes
    ----------
    name, operator : str
        Its own name, and the operator's type such as 'Conv'.
    inputs, outputs : tuple of str
        Names of values; '' for an input that was left out.
    attributes : dict of str
        An int, float, bytes, `GraphTensor`, or list of ints or floats for each name.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Value(NamedTuple):
    """An input or output of the graph, as it is declared.

    Attributes
    ----------
    name : str
        Its name.
    type : int
        ONNX's number of the element type.
    dims : tuple of int, str or None
        A number, a name, or None where nothing is declared.
    """

    name: str
    type: int
    dims: tuple[Dim, ...]


@dataclass(slots=True)
class Graph:
    """What a file holds.

    Attributes
    ----------
    opset : int
        Version of ONNX's operators that it asks for.
    nodes : list of Node
        In the file's order.
    tensors : dict of str to GraphTensor
        Initialisers by name.
    inputs, outputs : list of Value
        As they are declared.
    """

    opset: int
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, GraphTensor] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)


class _Rule(NamedTuple):
    """A field that a message may have.

    Attributes
    ----------
    name : str
        ONNX's name of it.
    kind : Kind
        How it is encoded.
    many : bool
        Whether it may be repeated.
    """

    name: str
    kind: Kind
    many: bool = False


# the fields of each message that may be there, by ONNX's numbers of them (onnx/onnx.proto)
_MODEL = {
    1: _Rule("ir_version", "number"), 2: _Rule("producer_name", "bytes"), 3: _Rule("producer_version", "bytes"),
    4: _Rule("domain", "bytes"), 5: _Rule("model_version", "number"), 6: _Rule("doc_string", "bytes"),
    7: _Rule("graph", "bytes"), 8: _Rule("opset_import", "bytes", many=True), 14: _Rule("metadata_props", "bytes", many=True),
}  # fmt: skip
_OPSET = {1: _Rule("domain", "bytes"), 2: _Rule("version", "number")}
_GRAPH = {
    1: _Rule("node", "bytes", many=True), 2: _Rule("name", "bytes"), 5: _Rule("initializer", "bytes", many=True),
    10: _Rule("doc_string", "bytes"), 11: _Rule("input", "bytes", many=True), 12: _Rule("output", "bytes", many=True),
    13: _Rule("value_info", "bytes", many=True), 16: _Rule("metadata_props", "bytes", many=True),
}  # fmt: skip
_NODE = {
    1: _Rule("input", "bytes", many=True), 2: _Rule("output", "bytes", many=True), 3: _Rule("name", "bytes"),
    4: _Rule("op_type", "bytes"), 5: _Rule("attribute", "bytes", many=True), 6: _Rule("doc_string", "bytes"),
    7: _Rule("domain", "bytes"), 9: _Rule("metadata_props", "bytes", many=True),
}  # fmt: skip
_ATTRIBUTE = {
    1: _Rule("name", "bytes"), 2: _Rule("f", "single"), 3: _Rule("i", "number"), 4: _Rule("s", "bytes"), 5: _Rule("t", "bytes"),
    7: _Rule("floats", "singles", many=True), 8: _Rule("ints", "numbers", many=True), 13: _Rule("doc_string", "bytes"),
    20: _Rule("type", "number"),
}  # fmt: skip
_ATTRIBUTE_TYPES = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
_TENSOR = {
    1: _Rule("dims", "numbers", many=True), 2: _Rule("data_type", "number"), 4: _Rule("float_data", "singles", many=True),
    5: _Rule("int32_data", "numbers", many=True), 7: _Rule("int64_data", "numbers", many=True), 8: _Rule("name", "bytes"),
    9: _Rule("raw_data", "bytes"), 10: _Rule("double_data", "doubles", many=True), 12: _Rule("doc_string", "bytes"),
    14: _Rule("data_location", "number"), 16: _Rule("metadata_props", "bytes", many=True),
}  # fmt: skip
_TYPED_DATA = {FLOAT: "float_data", DOUBLE: "double_data", INT64: "int64_data"}  # of the other types: int32_data
_VALUE = {
    1: _Rule("name", "bytes"), 2: _Rule("type", "bytes"), 3: _Rule("doc_string", "bytes"),
    4: _Rule("metadata_props", "bytes", many=True),
}  # fmt: skip
_TYPE = {1: _Rule("tensor_type", "bytes"), 6: _Rule("denotation", "bytes")}
_TENSOR_TYPE = {1: _Rule("elem_type", "number"), 2: _Rule("shape", "bytes")}
_SHAPE = {1: _Rule("dim", "bytes", many=True)}
_DIM = {1: _Rule("dim_value", "number"), 2: _Rule("dim_param", "bytes"), 3: _Rule("denotation", "bytes")}
_WIRES: dict[Kind, int] = {"number": 0, "single": 5, "bytes": 2, "numbers": 0, "singles": 5, "doubles": 1}
_LENGTH = 2  # the wire type of bytes, and of numbers that are packed
_TOLD_BY_NAME = {
    "model": {20: "training_info", 25: "functions", 26: "configuration"},
    "graph": {14: "quantization_annotation", 15: "sparse_initializer"},
    "node": {8: "overload", 10: "device_configurations"},
    "attribute": {6: "g", 9: "strings", 10: "tensors", 11: "graphs", 21: "ref_attr_name", 22: "sparse_tensor"},
    "tensor": {3: "segment", 6: "string_data", 11: "uint64_data", 13: "external_data"},
}


def parse_graph(content: bytes) -> Graph:
    """The graph in the bytes of an ONNX file. Raises `UnfitGraph`."""
    try:
        return _Parser(content).model()
    except UnicodeDecodeError as error:
        raise UnfitGraph(f"is damaged: a name is not UTF-8 ({error.reason})") from error


class _Parser:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = FIELD_LIMIT

    def model(self) -> Graph:
        model = self._message("model", _MODEL, (0, len(self._content)))
        if "graph" not in model:
            raise UnfitGraph("is not an ONNX file: it holds no graph")
        graph = Graph(self._opset(model["opset_import"]))
        parts = self._message("graph", _GRAPH, model["graph"])
        if len(parts["node"]) > NODE_LIMIT:
            raise UnfitGraph(f"has {len(parts['node'])} operators, at most {NODE_LIMIT} are read")
        for span in parts["initializer"]:
            name, tensor = self._tensor(span)
            if not name or name in graph.tensors:
                raise UnfitGraph(f"holds initialiser '{_shown(name)}' twice" if name else "holds an initialiser without a name")
            graph.tensors[name] = tensor
        graph.inputs = [self._value(span) for span in parts["input"]]
        graph.outputs = [self._value(span) for span in parts["output"]]
        for span in parts["value_info"]:
            self._value(span)
        graph.nodes = [self._node(span) for span in parts["node"]]
        return graph

    def _opset(self, imports: list[Span]) -> int:
        versions: list[int] = []
        for span in imports:
            found = self._message("opset", _OPSET, span)
            domain = self._text(found.get("domain"))
            if domain not in ("", "ai.onnx"):
                raise UnfitGraph(f"uses operators of the domain '{_shown(domain)}', only ONNX's own are run")
            versions.append(found.get("version", 0))
        if len(versions) != 1:
            raise UnfitGraph(f"names {len(versions)} versions of ONNX's operators, not one")
        return versions[0]

    def _node(self, span: Span) -> Node:
        found = self._message("node", _NODE, span)
        operator, domain = self._text(found.get("op_type")), self._text(found.get("domain"))
        if domain not in ("", "ai.onnx"):
            raise UnfitGraph(f"uses '{_shown(operator)}' of the domain '{_shown(domain)}', only ONNX's own operators are run")
        attributes: dict[str, Any] = {}
        for place in found["attribute"]:
            name, value = self._attribute(place)
            if name in attributes:
                raise UnfitGraph(f"gives '{_shown(operator)}' the attribute '{_shown(name)}' twice")
            attributes[name] = value
        inputs, outputs = (tuple(map(self._text, found[way])) for way in ("input", "output"))
        return Node(self._text(found.get("name")), operator, inputs, outputs, attributes)

    def _attribute(self, span: Span) -> tuple[str, Any]:
        found = self._message("attribute", _ATTRIBUTE, span)
        name, kind = self._text(found.get("name")), _ATTRIBUTE_TYPES.get(found.get("type", 0))
        given = {key for key in _ATTRIBUTE_TYPES.values() if key in found and found[key] != []}
        if kind is None or given - {kind}:
            raise UnfitGraph(f"holds an attribute '{_shown(name)}' that is not of one plain type")
        value = found.get(kind)
        if kind == "t" and value is not None:
            return name, self._tensor(value)[1]
        if kind == "s":
            return name, self._content[slice(*(value or (0, 0)))]
        return name, value if value is not None else 0

    def _tensor(self, span: Span) -> tuple[str, GraphTensor]:
        found = self._message("tensor", _TENSOR, span)
        name, kind, dims = self._text(found.get("name")), found.get("data_type", 0), tuple(found["dims"])
        if found.get("data_location", 0):
            raise UnfitGraph(f"keeps '{_shown(name)}' in another file: a graph must hold its weights")
        if kind not in NUMPY_TYPES:
            raise UnfitGraph(f"holds '{_shown(name)}' in ONNX's type {kind}, which no graph of ours has")
        if len(dims) > RANK_LIMIT or any(not 0 <= dim < 2**31 for dim in dims):
            raise UnfitGraph(f"gives '{_shown(name)}' dimensions that can't be")
        raw = found.get("raw_data")
        typed = {key: found[key] for key in ("float_data", "int32_data", "int64_data", "double_data") if found[key]}
        numbers = typed.pop(_TYPED_DATA.get(kind, "int32_data"), ())
        there = len(numbers) if raw is None else (raw[1] - raw[0]) / np.dtype(NUMPY_TYPES[kind]).itemsize
        if typed or (raw is not None and numbers) or there != math.prod(dims):
            raise UnfitGraph(f"says that '{_shown(name)}' has {math.prod(dims)} elements and holds another number of them")
        return name, GraphTensor(dims, kind, self._content, raw, tuple(numbers))

    def _value(self, span: Span) -> Value:
        found = self._message("value", _VALUE, span)
        name = self._text(found.get("name"))
        described = self._message("type", _TYPE, found["type"]) if "type" in found else {}
        if "tensor_type" not in described:
            raise UnfitGraph(f"declares '{_shown(name)}' without the type of a tensor")
        tensor = self._message("tensor type", _TENSOR_TYPE, described["tensor_type"])
        dims = self._message("shape", _SHAPE, tensor["shape"])["dim"] if "shape" in tensor else []
        if len(dims) > RANK_LIMIT:
            raise UnfitGraph(f"declares '{_shown(name)}' with {len(dims)} dimensions, at most {RANK_LIMIT} are read")
        return Value(name, tensor.get("elem_type", 0), tuple(self._dim(dim) for dim in dims))

    def _dim(self, span: Span) -> Dim:
        found = self._message("dimension", _DIM, span)
        if "dim_value" in found:
            number: int = found["dim_value"]
            return number
        return self._text(found["dim_param"]) if "dim_param" in found else None

    def _text(self, span: Span | None) -> str:
        return self._content[slice(*span)].decode("utf-8") if span else ""

    def _message(self, what: str, rules: dict[int, _Rule], span: Span) -> dict[str, Any]:
        """The fields of the message at `span` by name: numbers as they are, bytes as places."""
        found: dict[str, Any] = {rule.name: [] for rule in rules.values() if rule.many}
        for number, wire, value in self._fields(span):
            rule = rules.get(number)
            if rule is None:
                name = _TOLD_BY_NAME.get(what, {}).get(number, f"number {number}")
                raise UnfitGraph(f"has a field '{name}' in a {what}, which no graph of ours has")
            if wire == _LENGTH and rule.kind in ("numbers", "singles", "doubles"):
                found[rule.name].extend(self._packed(rule.kind, value))
                continue
            if wire != _WIRES[rule.kind] or (not rule.many and rule.name in found):
                raise UnfitGraph(f"is damaged: the field '{rule.name}' of a {what} can't be read")
            if wire in (1, 5):
                value = struct.unpack_from("<d" if wire == 1 else "<f", self._content, value[0])[0]
            if rule.many:
                found[rule.name].append(value)
            else:
                found[rule.name] = value
        return found

    def _fields(self, span: Span) -> Iterator[tuple[int, int, Any]]:
        at, end = span
        while at < end:
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = self._varint(at, end)
                yield number, wire, value - 2**64 if value >= 2**63 else value
                continue
            if wire == _LENGTH:
                size, at = self._varint(at, end)
            else:
                size = {1: 8, 5: 4}.get(wire, end)
            if size > end - at:
                raise UnfitGraph("is not an ONNX file, or is cut off")
            yield number, wire, (at, at + size)
            at += size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        self._left -= 1
        if self._left < 0:
            raise UnfitGraph(f"has more than {FIELD_LIMIT} fields")
        value = shift = 0
        while at < end and shift < 64:
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
            shift += 7
        raise UnfitGraph("is not an ONNX file, or is cut off")

    def _packed(self, kind: Kind, span: Span) -> Iterator[float]:
        at, end = span
        if kind != "numbers":
            size = 4 if kind == "singles" else 8
            self._left -= (end - at) // size
            if (end - at) % size or self._left < 0:
                raise UnfitGraph("is damaged, or holds too many numbers that are packed")
            yield from struct.unpack_from(f"<{(end - at) // size}{'f' if size == 4 else 'd'}", self._content, at)
            return
        while at < end:
            value, at = self._varint(at, end)
            yield value - 2**64 if value >= 2**63 else value


def _shown(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}…"
