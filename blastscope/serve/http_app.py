"""The Open Inference Protocol over REST: `make_app`, an ASGI application."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from blastscope.serve.options import ServeOptions
from blastscope.serve.rest import (
    HEADER_LENGTH,
    Asked,
    decode_rest_request,
    encode_rest_answer,
    json_bytes,
    openapi,
    parse_object,
    read_raw,
)
from blastscope.serve.service import Caller, InferenceService
from blastscope.serve.tensors import ClientGone, Code, RequestError, invalid

SMALL_BODY = 1 << 16  # which is parsed at once; a larger one in a thread
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # calls on patients' cells
RETRY_S = "1"
Handler = Callable[[Request, Caller], Awaitable[Response]]


def make_app(service: InferenceService, options: ServeOptions) -> Starlette:
    """The application. Whoever runs it starts and ends the service."""
    rest = RestMethods(service, options)

    def route(path: str, method: str, handler: Handler, *, open_to_all: bool = False) -> Route:
        return Route(path, functools.partial(rest.answer, handler, open_to_all), methods=[method])

    named = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return Starlette(
        routes=[
            *(route(f"{path}/infer", "POST", rest.infer) for path in named),  # first: routes are tried in this order
            route("/v2/health/live", "GET", rest.live, open_to_all=True),
            route("/v2/health/ready", "GET", rest.ready, open_to_all=True),
            route("/v2", "GET", rest.metadata),
            *(route(path, "GET", rest.model_metadata) for path in named),
            *(route(f"{path}/ready", "GET", rest.model_ready) for path in named),
            route("/v2/repository/index", "POST", rest.index),
            route("/v2/repository/models/{model}/load", "POST", rest.load),
            route("/metrics", "GET", rest.metrics),
            route("/openapi.json", "GET", rest.openapi),
        ],
        exception_handlers={HTTPException: _http_error},
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """What starlette itself refuses: an address or a method that is not there."""
    assert isinstance(error, HTTPException)
    return _json({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, {**HEADERS, **(headers or {})}, "application/json")


class RestMethods:
    """The protocol's methods."""

    def __init__(self, service: InferenceService, options: ServeOptions) -> None:
        self._service, self._options, self._limits = service, options, options.limits

    async def answer(self, handler: Handler, open_to_all: bool, request: Request) -> Response:
        """What `handler` answers to whoever may ask; an error in JSON with its status."""
        try:
            return await handler(request, self._caller(request, open_to_all=open_to_all))
        except ClientGone:
            return Response(status_code=400)  # nobody is there to read it
        except RequestError as error:
            headers = {"Retry-After": RETRY_S} if error.code in (Code.BUSY, Code.UNAVAILABLE) else {}
            if error.code is Code.UNAUTHENTICATED:
                headers["WWW-Authenticate"] = "Bearer"
            if error.code in (Code.TOO_LARGE, Code.TOO_SLOW):
                headers["Connection"] = "close"  # the rest of the body isn't read
            return _json({"error": error.detail}, error.code.http, headers)

    def _caller(self, request: Request, *, open_to_all: bool) -> Caller:
        """Who asks. Raises `RequestError` for a stranger, and for a page of another site that a browser shows here."""
        if self._options.loopback and not _is_this_machine(tuple(request.headers.getlist("host"))):
            raise RequestError(Code.FORBIDDEN, "this server answers under this machine's own names: ask 127.0.0.1 or localhost")
        client = None
        if self._options.tokens and not open_to_all:
            client = self._options.tokens.client(request.headers.get("authorization", ""))
            if client is None:
                raise RequestError(Code.UNAUTHENTICATED, "the header 'Authorization: Bearer TOKEN' is missing or wrong")
        address = f"{request.client.host}:{request.client.port}" if request.client else ""
        carrier = {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}
        return Caller("http", client, address, carrier)

    async def live(self, request: Request, caller: Caller) -> Response:
        """The process runs."""
        return _json({"live": True})

    async def ready(self, request: Request, caller: Caller) -> Response:
        """Every bundle answers."""
        return _json({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def metadata(self, request: Request, caller: Caller) -> Response:
        """The server's metadata."""
        return _json(self._service.metadata())

    async def model_metadata(self, request: Request, caller: Caller) -> Response:
        """A model's metadata."""
        return _json(self._service.model_metadata(*_named(request)))

    async def model_ready(self, request: Request, caller: Caller) -> Response:
        """A model answers."""
        model, version = _named(request)
        ready = self._service.model_ready(model, version)
        return _json({"name": model, "ready": ready}, 200 if ready else 503)

    async def index(self, request: Request, caller: Caller) -> Response:
        """The models and their states."""
        body = await self._body(request) or b"{}"
        asked = parse_object(body)
        return _json(self._service.index(ready_only=asked.get("ready") is True))

    async def load(self, request: Request, caller: Caller) -> Response:
        """Loads a bundle anew."""
        asked = parse_object(await self._body(request) or b"{}")
        if asked.get("parameters"):
            raise invalid("a model is loaded from its bundle alone: parameters are not taken")
        await self._service.load(request.path_params["model"])
        return _json({})

    async def metrics(self, request: Request, caller: Caller) -> Response:
        """For Prometheus."""
        text = await asyncio.to_thread(self._service.metrics.text)
        return Response(text, headers={**HEADERS, "Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request, caller: Caller) -> Response:
        """The interface in OpenAPI 3.1."""
        return _json(openapi(self._limits))

    async def infer(self, request: Request, caller: Caller) -> Response:
        """An inference, which ends when the client goes away."""
        model, version = _named(request)
        begun = time.monotonic()
        with self._service.observed(caller, model), self._service.admitted():
            body = await self._body(request)
            work = asyncio.ensure_future(self._infer(request, caller, (model, version, body), begun))
            gone = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise ClientGone
                return work.result()
            finally:
                work.cancel()
                gone.cancel()

    async def _infer(self, request: Request, caller: Caller, sent: tuple[str, str, bytes], begun: float) -> Response:
        model, version, body = sent
        parsed = functools.partial(self._parsed, model, version, body, request.headers.get(HEADER_LENGTH))
        asked = parsed() if len(body) <= SMALL_BODY else await asyncio.to_thread(parsed)
        left_s = self._limits.timeout_s - (time.monotonic() - begun)
        answer = await self._service.infer(asked.request, caller, left_s)
        content, header_length = encode_rest_answer(answer, asked.binary)
        if header_length is None:
            return Response(content, 200, HEADERS, "application/json")
        return Response(content, 200, {**HEADERS, HEADER_LENGTH: str(header_length)}, "application/octet-stream")

    def _parsed(self, model: str, version: str, body: bytes, stated: str | None) -> Asked:
        if stated is not None and not (stated.isascii() and stated.isdigit() and len(stated) < 12):
            raise invalid(f"{HEADER_LENGTH} must be a number of bytes")
        _, lane = self._service.repository.find(model, version)  # what is not there is told before what is wrong
        header_length = None if stated is None else int(stated)
        if header_length == 0:
            return read_raw(model, version, body, lane.model.inputs[0])
        return decode_rest_request(model, version, body, header_length)

    async def _body(self, request: Request) -> bytes:
        """The body. Raises `RequestError` for one that is too large, that comes too slowly, or that is compressed."""
        most = self._limits.body_bytes
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(Code.UNSUPPORTED, "compressed requests are not taken: images are compressed already")
        stated = request.headers.get("content-length", "0")
        if stated.isdigit() and int(stated) > most:
            raise RequestError(Code.TOO_LARGE, f"the request has {stated} bytes, at most {most} are taken")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.receive_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise RequestError(Code.TOO_LARGE, f"the request has more than {most} bytes")
        except ClientDisconnect as error:
            raise ClientGone from error
        except TimeoutError as error:
            raise RequestError(Code.TOO_SLOW, f"the request didn't come in whole in {self._limits.receive_s:.3g} s") from error
        return bytes(body)


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


async def _gone(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@functools.lru_cache(64)
def _is_this_machine(hosts: tuple[str, ...]) -> bool:
    """Whether the Host header names this machine: a page of another site may send its own name to this address."""
    try:
        name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
