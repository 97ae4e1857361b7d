"""The REST protocol: requests and answers as bytes, JSON with the binary tensor extension, and its description in OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from blastscope import __version__
from blastscope.serve.options import Limits
from blastscope.serve.service import InferAnswer, InferRequest
from blastscope.serve.tensors import (
    CONTENTS,
    MOST_DIMENSIONS,
    Tensor,
    TensorSpec,
    checked_shape,
    from_binary,
    from_json,
    invalid,
    to_binary,
    to_json,
)

HEADER_LENGTH = "inference-header-content-length"
REQUEST_KEYS = {"id", "parameters", "inputs", "outputs"}
INPUT_KEYS = {"name", "shape", "datatype", "parameters", "data"}
OUTPUT_KEYS = {"name", "parameters"}
MOST_TENSORS = 64
Schema = dict[str, Any]
ERRORS = {
    400: "The request breaks the protocol or the model's contract",
    401: "The token is missing or wrong",
    403: "The Host header names another machine",
    404: "There is no such model or version",
    408: "The request came in too slowly",
    413: "The request, or its images, are too large",
    415: "The body is compressed",
    429: "Too many requests or images wait",
    500: "The server failed",
    503: "The server is about to end, or a bundle does not answer",
    504: "No answer in time",
}
NAMES = ["cells", "crops", "frames"]


class Asked(NamedTuple):
    """A request that came over REST.

    Attributes
    ----------
    request : InferRequest
        The request.
    binary : frozenset of str or None
        Outputs that are to come in binary; None: all of them.
    """

    request: InferRequest
    binary: frozenset[str] | None


def read_raw(model: str, version: str, body: bytes, spec: TensorSpec) -> Asked:
    """A request whose body is one image file and nothing else: `Inference-Header-Content-Length: 0`."""
    if spec.datatype != "BYTES":
        raise invalid(f"model '{model}' takes no raw body: send its tensor '{spec.name}' with a JSON header")
    tensor = Tensor(spec.name, "BYTES", (1,), [body])
    return Asked(InferRequest(model, version, "", {spec.name: tensor}, {}, ()), frozenset())


def decode_rest_request(model: str, version: str, body: bytes, header_length: int | None) -> Asked:
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


def encode_rest_answer(answer: InferAnswer, binary: frozenset[str] | None) -> tuple[bytes, int | None]:
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


def openapi(limits: Limits) -> Schema:
    """The document of a server with these limits."""
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "examples": NAMES}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    paths: Schema = {
        "/v2/health/live": {"get": _operation("serverLive", "The process runs", _boolean_field("live"), ())},
        "/v2/health/ready": {
            "get": _operation(
                "serverReady", "Every bundle answers", _boolean_field("ready"), (), also={503: _boolean_field("ready")}
            )
        },
        "/v2": {"get": _operation("serverMetadata", "The server's metadata", _ref("ServerMetadata"))},
        "/v2/repository/index": {
            "post": _operation(
                "repositoryIndex",
                "The models and their states",
                {"type": "array", "items": _ref("ModelState")},
                (400, 408, 413, 415),
                body={"type": "object", "properties": {"ready": {"type": "boolean"}}},
            )
        },
        "/v2/repository/models/{model}/load": {
            "parameters": [model],
            "post": _operation(
                "repositoryModelLoad",
                "Opens a model's bundle as it now lies on the disk; the one before answers until then",
                {"type": "object"},
                (400, 404, 408, 413, 415),
                body={"type": "object", "properties": {"parameters": {"type": "object", "maxProperties": 0}}},
            ),
        },
    }
    for prefix, name, parameters in (("", "", [model]), ("/versions/{version}", "Version", [model, version])):
        path = f"/v2/models/{{model}}{prefix}"
        known = _ref("ModelMetadata")
        ready = {"type": "object", "required": ["name", "ready"]}
        infer = _operation(f"model{name}Infer", "An inference", _ref("InferResponse"), tuple(ERRORS), body=_ref("InferRequest"))
        infer["responses"]["200"]["content"]["application/octet-stream"] = {}
        paths[path] = {
            "parameters": parameters,
            "get": _operation(f"model{name}Metadata", "A model's metadata", known, (404, 503)),
        }
        paths[f"{path}/ready"] = {
            "parameters": parameters,
            "get": _operation(f"model{name}Ready", "A model answers", ready, (404,), also={503: ready}),
        }
        paths[f"{path}/infer"] = {"parameters": parameters, "post": infer}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "blastscope",
            "version": __version__,
            "description": "The Open Inference Protocol, version 2. Calls on cells, for research use: not a medical device.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(limits),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(
    name: str,
    summary: str,
    answer: Schema,
    errors: tuple[int, ...] = (),
    *,
    body: Schema | None = None,
    also: dict[int, Schema] | None = None,
) -> Schema:
    responses: Schema = {"200": {"description": summary, "content": {"application/json": {"schema": answer}}}}
    for status in (*errors, 401, 403):
        responses[str(status)] = _error(status)
    for status, schema in (also or {}).items():
        responses[str(status)] = {"description": ERRORS[status], "content": {"application/json": {"schema": schema}}}
    operation: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation


def _error(status: int) -> Schema:
    return {"description": ERRORS[status], "content": {"application/json": {"schema": _ref("Error")}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _boolean_field(name: str) -> Schema:
    return {"type": "object", "required": [name], "properties": {name: {"type": "boolean"}}}


def _row(required: list[str], properties: Schema, *, closed: bool = True) -> Schema:
    row: Schema = {"type": "object", "required": required, "properties": properties}
    return {**row, "additionalProperties": False} if closed else row


def _schemas(limits: Limits) -> Schema:
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    shape = {"type": "array", "items": number, "maxItems": MOST_DIMENSIONS}
    datatype = {"enum": list(CONTENTS)}
    values = {"type": "array"}
    words = {"type": "object"}
    tensor = {"name": {**text, "minLength": 1, "maxLength": 80}, "datatype": datatype, "shape": shape}
    spec_shape = {"type": "array", "items": {"type": "integer", "minimum": -1}}
    spec = _row(["name", "datatype", "shape"], {"name": text, "datatype": datatype, "shape": spec_shape})
    given = _row(["name", "datatype", "shape"], {**tensor, "data": values, "parameters": words})
    wanted = _row(["name"], {"name": text, "parameters": words})
    answered = _row(["name", "datatype", "shape"], {**tensor, "data": values, "parameters": words})
    return {
        "Error": _row(["error"], {"error": text}),
        "ServerMetadata": _row(
            ["name", "version", "extensions"], {"name": text, "version": text, "extensions": {"type": "array", "items": text}}
        ),
        "TensorSpec": spec,
        "ModelMetadata": _row(
            ["name", "versions", "platform", "inputs", "outputs"],
            {
                "name": text,
                "versions": {"type": "array", "items": text},
                "platform": text,
                "inputs": {"type": "array", "items": _ref("TensorSpec")},
                "outputs": {"type": "array", "items": _ref("TensorSpec")},
            },
        ),
        "ModelState": _row(["name"], {"name": text, "version": text, "state": text, "reason": text}),
        "InferRequest": {
            **_row(
                ["inputs"],
                {
                    "id": {**text, "maxLength": 256},
                    "parameters": words,
                    "inputs": {"type": "array", "items": given, "maxItems": MOST_TENSORS},
                    "outputs": {"type": "array", "items": wanted, "maxItems": MOST_TENSORS},
                },
            ),
            "description": (
                f"At most {limits.body_bytes} bytes, {limits.images} images, {limits.pixels} pixels. The parameter 'timeout' "
                "is in microseconds. A BYTES tensor's texts are base64 where its parameter 'content_type' is 'base64'. Binary "
                "tensors follow the JSON as the binary tensor extension says."
            ),
        },
        "InferResponse": _row(
            ["model_name", "model_version", "parameters", "outputs"],
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": {"type": "object", "additionalProperties": text},
                "outputs": {"type": "array", "items": answered},
            },
        ),
    }
