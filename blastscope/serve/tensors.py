"""Tensors of the Open Inference Protocol: checked on the way in, from JSON, binary or protobuf, and written on the way out.

A tensor in JSON is an array of numbers or texts, flat or nested as its shape says. In binary its elements stand in row-major
order, little-endian; an element of BYTES has its length before it, in four bytes. What a client did wrong or met is a
`RequestError`, with the status that REST and gRPC give it.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "INT32": np.dtype("<i4"), "FP32": np.dtype("<f4")}
CONTENTS = {"UINT8": "uint_contents", "INT32": "int_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
MOST_DIMENSIONS = 8
MOST_ELEMENTS = 2**31 - 1
FREE = -1  # in the shape of a specification: any length


class Code(Enum):
    """Why a request got no answer: the HTTP status, and the name of gRPC's status."""

    INVALID = (400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = (401, "UNAUTHENTICATED")
    FORBIDDEN = (403, "PERMISSION_DENIED")
    NOT_FOUND = (404, "NOT_FOUND")
    TOO_SLOW = (408, "DEADLINE_EXCEEDED")  # the client, in sending
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    UNSUPPORTED = (415, "UNIMPLEMENTED")
    BUSY = (429, "RESOURCE_EXHAUSTED")
    INTERNAL = (500, "INTERNAL")
    UNAVAILABLE = (503, "UNAVAILABLE")
    DEADLINE = (504, "DEADLINE_EXCEEDED")

    @property
    def http(self) -> int:
        """The status over HTTP."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """The name of the status over gRPC."""
        return self.value[1]


class RequestError(Exception):
    """A request that gets no answer.

    Attributes
    ----------
    code : Code
        The reason for programs.
    detail : str
        The reason for people: what is wrong, and the remedy.
    """

    def __init__(self, code: Code, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(detail)


class ClientGone(Exception):
    """The client went away before it got its answer."""


def invalid(detail: str) -> RequestError:
    """The error of a request that breaks the protocol or the model's contract."""
    return RequestError(Code.INVALID, detail)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives under a name.

    Attributes
    ----------
    name : str
        The name.
    datatype : str
        UINT8, INT32, FP32 or BYTES.
    shape : tuple of int
        -1 where any length will do.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request or an answer.

    Attributes
    ----------
    name, datatype : str
        Its name, and its type as the protocol calls it: UINT8, INT32, FP32 or BYTES.
    shape : tuple of int
        Its shape.
    values : array of that shape, or list of bytes
        Its elements; those of BYTES in row-major order.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]


def checked_shape(name: str, shape: object) -> tuple[int, ...]:
    """The shape as a request gives it, once it is known to be one."""
    if not isinstance(shape, list | tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise invalid(f"tensor '{name}': its shape must be a list of whole numbers from 0 on, not {_short(shape)}")
    if len(shape) > MOST_DIMENSIONS:
        raise invalid(f"tensor '{name}': {len(shape)} dimensions, at most {MOST_DIMENSIONS} are taken")
    if math.prod(length for length in shape if length) > MOST_ELEMENTS:
        raise invalid(f"tensor '{name}': shape {list(shape)} has more than {MOST_ELEMENTS} elements")
    return tuple(shape)


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object, *, in_base64: bool = False) -> Tensor:
    """A tensor from JSON's values.

    Parameters
    ----------
    name, datatype, shape : str, str, tuple of int
        As the request gives them, the shape checked.
    data : object
        What stands under `data`: a flat list, or lists in lists.
    in_base64 : bool
        Whether the texts of a BYTES tensor are base64, which JSON needs for what is no text.

    Raises
    ------
    RequestError
        Another number of values than the shape has, a value of another kind, or a number out of the type's range.
    """
    if not isinstance(data, list):
        raise invalid(f"tensor '{name}': its data must be a list, not {_short(data)}")
    values = _flat(name, data, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, [_from_text(name, value, in_base64=in_base64) for value in values])
    kinds = set(map(type, values))
    if kinds - ({int} if datatype != "FP32" else {int, float}):
        raise invalid(f"tensor '{name}': {datatype} takes {'numbers' if datatype == 'FP32' else 'whole numbers'} only")
    kind = NUMBERS[datatype]
    if datatype == "FP32":
        low, high = -float(np.finfo(kind).max), float(np.finfo(kind).max)
    else:
        low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    if values and not (low <= min(values) and max(values) <= high):
        raise invalid(f"tensor '{name}': {datatype} holds {low:.9g} to {high:.9g}, and a value is outside")
    return Tensor(name, datatype, shape, np.array(values, kind).reshape(shape))


def _flat(name: str, data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The values row by row; lists in lists must be as the shape says."""
    for length in shape[:-1] if data and isinstance(data[0], list) else ():
        if len(data) % max(length, 1) or not all(isinstance(row, list) for row in data):
            break
        if {len(row) for row in data} - {shape[1]}:
            break
        data, shape = [value for row in data for value in row], (shape[0] * shape[1], *shape[2:])
    if len(data) != math.prod(shape) or any(isinstance(value, list) for value in data):
        raise invalid(f"tensor '{name}': its data must be {math.prod(shape)} values, flat or nested as its shape says")
    return data


def _from_text(name: str, value: object, *, in_base64: bool) -> bytes:
    if not isinstance(value, str):
        raise invalid(f"tensor '{name}': BYTES takes texts in JSON, not {_short(value)}")
    try:
        return base64.b64decode(value, validate=True) if in_base64 else value.encode()
    except (binascii.Error, ValueError) as error:
        raise invalid(f"tensor '{name}': a value is no {'base64' if in_base64 else 'text'}: {error}") from error


def from_binary(name: str, datatype: str, shape: tuple[int, ...], data: memoryview | bytes) -> Tensor:
    """A tensor from its binary form, of which the elements of BYTES are copied and numbers are not.

    Raises
    ------
    RequestError
        It is longer or shorter than the shape says.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _split(name, count, memoryview(data)))
    needed = count * NUMBERS[datatype].itemsize
    if len(data) != needed:
        raise invalid(f"tensor '{name}': {len(data)} bytes, and {datatype} of shape {list(shape)} takes {needed}")
    return Tensor(name, datatype, shape, np.frombuffer(data, NUMBERS[datatype]).reshape(shape))


def _split(name: str, count: int, data: memoryview) -> list[bytes]:
    elements: list[bytes] = []
    place = 0
    while place < len(data) and len(elements) < count:
        (length,) = struct.unpack_from("<I", data, place) if place + 4 <= len(data) else (len(data),)
        if length > len(data) - place - 4:
            raise invalid(f"tensor '{name}': element {len(elements)} of BYTES is longer than what is there")
        elements.append(bytes(data[place + 4 : place + 4 + length]))
        place += 4 + length
    if place != len(data) or len(elements) != count:
        raise invalid(f"tensor '{name}': its bytes must be {count} elements, each with its length before it")
    return elements


def from_contents(name: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Tensor:
    """A tensor from the typed values of a protobuf message (`InferTensorContents`)."""
    filled = [field.name for field, _ in contents.ListFields()]
    if set(filled) - {CONTENTS[datatype]}:
        raise invalid(f"tensor '{name}': {datatype} stands in {CONTENTS[datatype]}, not in {filled[0]}")
    values = getattr(contents, CONTENTS[datatype])
    if len(values) != math.prod(shape):
        raise invalid(f"tensor '{name}': {len(values)} values, and shape {list(shape)} has {math.prod(shape)}")
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, list(values))
    if datatype == "UINT8" and len(values) and max(values) > 255:
        raise invalid(f"tensor '{name}': UINT8 holds 0 to 255, and a value is outside")
    return Tensor(name, datatype, shape, np.array(values, NUMBERS[datatype]).reshape(shape))


def to_json(tensor: Tensor) -> list[Any]:
    """The values, flat, as JSON has them: texts for BYTES, and null for NaN and infinities, for which JSON has no word."""
    if isinstance(tensor.values, list):
        return [value.decode() for value in tensor.values]
    values: list[Any] = tensor.values.ravel().tolist()
    return [value if math.isfinite(value) else None for value in values]


def to_binary(tensor: Tensor) -> bytes:
    """The binary form."""
    if isinstance(tensor.values, list):
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.values)
    return np.ascontiguousarray(tensor.values, NUMBERS[tensor.datatype]).tobytes()


def texts(name: str, values: Sequence[str]) -> Tensor:
    """A BYTES tensor of shape (N,)."""
    return Tensor(name, "BYTES", (len(values),), [value.encode() for value in values])


def numbers(name: str, datatype: str, values: object, shape: tuple[int, ...]) -> Tensor:
    """A tensor of numbers, also where there are none."""
    return Tensor(name, datatype, shape, np.array(values, NUMBERS[datatype]).reshape(shape))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
