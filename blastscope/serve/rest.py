"""Requests and answers of the REST protocol as bytes: JSON, with the binary tensor extension."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from blastscope.serve.service import InferAnswer, InferRequest
from blastscope.serve.status import invalid
from blastscope.serve.tensors import CONTENTS, Tensor, TensorSpec, checked_shape, from_binary, from_json, to_binary, to_json

HEADER_LENGTH = "inference-header-content-length"
REQUEST_KEYS = {"id", "parameters", "inputs", "outputs"}
INPUT_KEYS = {"name", "shape", "datatype", "parameters", "data"}
OUTPUT_KEYS = {"name", "parameters"}
MOST_TENSORS = 64


class Asked(NamedTuple):
    """A request, and which of its outputs are to come in binary."""

    request: InferRequest
    binary: frozenset[str] | None  # None: all of them


def read_raw(model: str, version: str, body: bytes, spec: TensorSpec) -> Asked:
    """A request whose body is one image file and nothing else: `Inference-Header-Content-Length: 0`."""
    if spec.datatype != "BYTES":
        raise invalid(f"model '{model}' takes no raw body: send its tensor '{spec.name}' with a JSON header")
    tensor = Tensor(spec.name, "BYTES", (1,), [body])
    return Asked(InferRequest(model, version, "", {spec.name: tensor}, {}, ()), frozenset())


def read_request(model: str, version: str, body: bytes, header_length: int | None) -> Asked:
    """A request from its body, of which the first `header_length` bytes are JSON, or all of it. Raises `RequestError`."""
    if header_length is not None and header_length > len(body):
        raise invalid(f"{HEADER_LENGTH} is {header_length}, and the body has {len(body)} bytes")
    head = body if header_length is None else body[:header_length]
    binary = memoryview(body)[len(head) :]
    asked = parse_object(head, REQUEST_KEYS)
    name = asked.get("id", "")
    if not isinstance(name, str):
        raise invalid("a request's id must be a text")
    parameters = _object("parameters", asked.get("parameters", {}), None)
    tensors: dict[str, Tensor] = {}
    for given in _objects("inputs", asked.get("inputs"), INPUT_KEYS):
        tensor, binary = _input(given, binary)
        if tensor.name in tensors:
            raise invalid(f"tensor '{tensor.name}' is there twice")
        tensors[tensor.name] = tensor
    if binary:
        raise invalid(f"{len(binary)} bytes stand behind the last binary tensor")
    wanted, in_binary = _outputs(asked, parameters)
    return Asked(InferRequest(model, version, name, tensors, parameters, wanted), in_binary)


def parse_object(head: bytes, known: set[str] | None = None) -> dict[str, Any]:
    """The JSON object of a request. Raises `RequestError`."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no JSON")

    try:
        value = json.loads(head.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the request is no JSON: {error}") from error
    return _object("the request", value, known)


def _object(what: str, value: object, known: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"{what} must be a JSON object")
    if known and (unknown := set(value) - known):
        raise invalid(f"{what}: unknown key '{min(unknown)[:80]}', known are {', '.join(sorted(known))}")
    return value


def _objects(what: str, value: object, known: set[str]) -> list[dict[str, Any]]:
    if not isinstance(value, list) or len(value) > MOST_TENSORS:
        raise invalid(f"{what} must be a list of at most {MOST_TENSORS} tensors")
    return [_object(f"a tensor of {what}", one, known) for one in value]


def _input(given: dict[str, Any], binary: memoryview) -> tuple[Tensor, memoryview]:
    """An input tensor, and what is left of the bytes behind the JSON."""
    name, datatype = given.get("name"), given.get("datatype")
    if not isinstance(name, str) or not 0 < len(name) <= 80:
        raise invalid("a tensor's name must be a text of 1 to 80 letters")
    if datatype not in CONTENTS:
        raise invalid(f"tensor '{name}': datatype {str(datatype)[:20]!r} is not taken, {', '.join(CONTENTS)} are")
    shape = checked_shape(name, given.get("shape"))
    parameters = _object(f"parameters of tensor '{name}'", given.get("parameters", {}), None)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in given:
            raise invalid(f"tensor '{name}' has neither data nor the parameter 'binary_data_size'")
        in_base64 = parameters.get("content_type") == "base64"
        return from_json(name, datatype, shape, given["data"], in_base64=in_base64), binary
    if "data" in given:
        raise invalid(f"tensor '{name}' has both data and the parameter 'binary_data_size'")
    if type(size) is not int or not 0 <= size <= len(binary):
        raise invalid(f"tensor '{name}': binary_data_size is {str(size)[:20]}, and {len(binary)} bytes are left")
    return from_binary(name, datatype, shape, binary[:size]), binary[size:]


def _outputs(asked: dict[str, Any], parameters: Mapping[str, Any]) -> tuple[tuple[str, ...], frozenset[str] | None]:
    all_binary = _flag(parameters, "binary_data_output", default=False)
    if "outputs" not in asked:
        return (), None if all_binary else frozenset()
    wanted: list[str] = []
    binary: list[str] = []
    for given in _objects("outputs", asked["outputs"], OUTPUT_KEYS):
        name = given.get("name")
        if not isinstance(name, str):
            raise invalid("an output's name must be a text")
        words = _object(f"parameters of output '{name[:80]}'", given.get("parameters", {}), None)
        wanted.append(name)
        if _flag(words, "binary_data", default=all_binary):
            binary.append(name)
    return tuple(dict.fromkeys(wanted)), frozenset(binary)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"parameter '{name}' must be true or false")
    return value


def write_answer(answer: InferAnswer, binary: frozenset[str] | None) -> tuple[bytes, int | None]:
    """The body of an answer, and how much of it is JSON where binary tensors follow."""
    outputs: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for tensor in answer.outputs:
        row: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary is None or tensor.name in binary:
            behind.append(to_binary(tensor))
            row["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            row["data"] = to_json(tensor)
        outputs.append(row)
    head = json_bytes(
        {
            "model_name": answer.model,
            "model_version": answer.version,
            **({"id": answer.id} if answer.id else {}),
            "parameters": dict(answer.parameters),
            "outputs": outputs,
        }
    )
    return head + b"".join(behind), len(head) if behind else None


def json_bytes(value: object) -> bytes:
    """A value in JSON, which never holds a NaN."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
