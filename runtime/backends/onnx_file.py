"""ONNX files as protobuf messages, without the `onnx` package, which the runtime doesn't install.

Only the fields that are used here are declared, with their numbers in onnx.proto. Protobuf keeps all others as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import EngineError

FLOAT, UINT8, INT8, INT64 = 1, 2, 3, 7  # TensorProto.DataType
_DTYPES: dict[int, Any] = {FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT64: "<i8"}
_EXTERNAL = 1  # TensorProto.DataLocation
_GRAPHS = (5, 10)  # AttributeProto.AttributeType: a graph, or several

# message -> field -> number and type; * is repeated
_SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph"), "opset_import": (8, "OperatorSet*")},
    "OperatorSet": {"domain": (1, "string"), "version": (2, "int64")},
    "Graph": {
        "node": (1, "Node*"),
        "initializer": (5, "Tensor*"),
        "output": (12, "ValueInfo*"),
        "value_info": (13, "ValueInfo*"),
    },
    "ValueInfo": {"name": (1, "string")},
    "Node": {
        "input": (1, "string*"),
        "output": (2, "string*"),
        "name": (3, "string"),
        "op_type": (4, "string"),
        "attribute": (5, "Attribute*"),
        "domain": (7, "string"),
    },
    "Attribute": {
        "name": (1, "string"),
        "f": (2, "float"),
        "i": (3, "int64"),
        "s": (4, "bytes"),
        "t": (5, "Tensor"),
        "ints": (8, "int64*"),
        "type": (20, "int32"),
    },
    "Tensor": {
        "dims": (1, "int64*"),
        "data_type": (2, "int32"),
        "float_data": (4, "float*"),
        "int32_data": (5, "int32*"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "data_location": (14, "int32"),
    },
}


@cache
def message_classes() -> dict[str, Any]:
    """The classes of the messages above, by name, in a pool of their own: the `onnx` package may be loaded as well."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="onnx_subset.proto", package="onnx_subset")
    for message, fields in _SCHEMA.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            kind = kind.removesuffix("*")
            field = declared.field.add(name=name, number=number, label=label)
            if kind in _SCHEMA:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".onnx_subset.{kind}"
            else:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"onnx_subset.{name}")) for name in _SCHEMA}


def parse_model(content: bytes, graph: Path) -> Any:
    """The model in the bytes `content` of the file `graph`. Raises `EngineError` where it is none."""
    from google.protobuf.message import DecodeError

    try:
        return message_classes()["Model"].FromString(content)
    except DecodeError as error:
        raise EngineError(f"'{graph}' is not an ONNX file: {error}") from error


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators in `model`."""
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)


class OnnxGraph:
    """The graph of a model, with the maker and the readers of each value as they were when it was read."""

    def __init__(self, model: Any) -> None:
        self.proto = model.graph
        self.nodes = list(self.proto.node)
        self.constants = {tensor.name: tensor for tensor in self.proto.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
            if node.op_type == "Constant" and (value := attribute_of(node, "value")) is not None:
                self.constants[node.output[0]] = value.t
        self.results = {value.name for value in self.proto.output}
        self._numbers = count()
        self._added: dict[tuple[float, int], str] = {}

    @property
    def self_contained(self) -> bool:
        """Whether all constants are in the file, and no graphs within read values unseen."""
        inside = any(attribute.type in _GRAPHS for node in self.nodes for attribute in node.attribute)
        return not inside and all(tensor.data_location != _EXTERNAL for tensor in self.constants.values())

    def scalar(self, name: str, data_type: int) -> float | None:
        """The number in the constant `name` of that type; None where there is none, or another one."""
        array = self.array(name, data_type)
        return float(array.item()) if array is not None and array.size == 1 else None

    def array(self, name: str, data_type: int) -> NDArray[Any] | None:
        """The constant `name`, where it is one of that type: `FLOAT`, `INT8` or `UINT8`."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != data_type:
            return None
        if tensor.raw_data:
            values = np.frombuffer(tensor.raw_data, _DTYPES[data_type])
        else:
            values = np.array(tensor.float_data if data_type == FLOAT else tensor.int32_data, _DTYPES[data_type])
        shape = tuple(tensor.dims)
        return values.reshape(shape) if values.size == math.prod(shape) else None

    def constant(self, value: float, data_type: int) -> str:
        """The name of a constant with that value, which is added where it was not yet."""
        if (value, data_type) not in self._added:
            self._added[value, data_type] = self.add_constant(value, data_type)
        return self._added[value, data_type]

    def add_constant(self, value: float | Sequence[int] | NDArray[Any], data_type: int) -> str:
        """Adds a constant, and gives its name."""
        name, array = self.fresh("constant"), np.array(value, _DTYPES[data_type])
        self.proto.initializer.add(name=name, data_type=data_type, dims=array.shape, raw_data=array.tobytes())
        return name

    def insert_before(self, reader: Any, kind: str, inputs: Sequence[str]) -> str:
        """Puts an operator of one output before `reader`, and gives the output's name."""
        name = self.fresh(kind)
        node = type(reader)(input=inputs, output=[name], name=name, op_type=kind)
        self.proto.node.insert(list(self.proto.node).index(reader), node)
        return name

    def drop(self, outputs: Iterable[str]) -> None:
        """Takes away the operators that give `outputs`."""
        gone = set(outputs)
        for place in reversed(range(len(self.proto.node))):
            if gone.intersection(self.proto.node[place].output):
                del self.proto.node[place]

    def fresh(self, what: str) -> str:
        """A name that the file doesn't have."""
        names = (f"blastscope/{what}_{number}" for number in self._numbers)
        return next(name for name in names if name not in self.maker and name not in self.constants)


def attribute_of(node: Any, name: str) -> Any | None:
    """The attribute `name` of `node`."""
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def whole_numbers(node: Any, name: str) -> list[int]:
    """The whole number or numbers in the attribute `name` of `node`; none where it is missing."""
    attribute = attribute_of(node, name)
    return [] if attribute is None else list(attribute.ints) or [attribute.i]
