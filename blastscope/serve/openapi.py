"""The REST interface in OpenAPI 3.1, as the server gives it under /openapi.json."""

from __future__ import annotations

from typing import Any

from blastscope import __version__
from blastscope.serve.options import Limits
from blastscope.serve.rest import MOST_TENSORS
from blastscope.serve.tensors import CONTENTS, MOST_DIMENSIONS

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


def openapi(limits: Limits) -> Schema:
    """The document of a server with these limits."""
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "examples": NAMES}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    paths: Schema = {
        "/v2/health/live": {"get": _operation("serverLive", "The process runs", _flag("live"), ())},
        "/v2/health/ready": {
            "get": _operation("serverReady", "Every bundle answers", _flag("ready"), (), also={503: _flag("ready")})
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


def _flag(name: str) -> Schema:
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
