"""`InferenceService`: what REST and gRPC have in common, from a request's tensors to the answer's."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from blastscope import __version__
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.types import Audit
from blastscope.serve.audit_log import AuditLog
from blastscope.serve.metrics import Metrics, Tracing
from blastscope.serve.models import check_pixels
from blastscope.serve.options import Limits
from blastscope.serve.repository import Lane, Repository, ServedBundle
from blastscope.serve.tensors import ClientGone, Code, RequestError, Tensor, invalid

NAME, PLATFORM = "blastscope", "blastscope"
EXTENSIONS = ("binary_tensor_data", "model_repository")
AUDIT = tuple(one.name for one in fields(Audit))
MOST_ID = 256  # letters of a request's id
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, over which protocol.

    Attributes
    ----------
    protocol : str
        'http' or 'grpc'.
    client : str or None
        Who it is by the token.
    address : str
        Where the request came from.
    carrier : mapping of str to str
        Headers, for a trace's parent.
    """

    protocol: str
    client: str | None
    address: str
    carrier: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request as both protocols have it.

    Attributes
    ----------
    model, version, id : str
        The model, its version or '', and what the client calls the request, or ''.
    tensors : mapping of str to Tensor
        The inputs.
    parameters : mapping
        Plain values. `timeout` is in microseconds, as Triton has it.
    wanted : tuple of str
        The outputs that are asked for; all of them where it is empty.
    """

    model: str
    version: str
    id: str
    tensors: Mapping[str, Tensor]
    parameters: Mapping[str, Any]
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """An answer as both protocols have it.

    Attributes
    ----------
    model, version, id : str
        As the request has them.
    outputs : tuple of Tensor
        Those that were asked for.
    parameters : mapping of str to str
        The audit's fields.
    """

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str]


class InferenceService:
    """Answers requests. All methods belong to one event loop."""

    def __init__(
        self, repository: Repository, limits: Limits, metrics: Metrics, audit: AuditLog | None, tracing: Tracing
    ) -> None:
        self.repository, self.limits, self.metrics = repository, limits, metrics
        self._audit, self._tracing = audit, tracing
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        metrics.in_flight.set_function(lambda: self._in_flight)
        if audit:
            metrics.audit_lines.set_function(lambda: audit.state.lines)

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.repository.ready and not self.draining

    async def idle(self) -> None:
        """Waits until no request is under way."""
        await self._idle.wait()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of the places for requests. Raises `RequestError` where none is free, or the server is about to end."""
        if self.draining:
            raise RequestError(Code.UNAVAILABLE, "the server is about to end: ask another one")
        if self._in_flight >= self.limits.requests:
            raise RequestError(Code.BUSY, f"{self._in_flight} requests are under way, and no more are taken: try again later")
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    @contextmanager
    def observed(self, caller: Caller, model: str) -> Iterator[None]:
        """Counts and times what is done for a request, and puts it into a trace. Any error becomes a `RequestError`."""
        known = model if model in self.repository.model_names else "unknown"  # a client can't make up series
        begun, status = time.perf_counter(), "ok"
        try:
            with self._tracing.span(f"infer {known}", caller.carrier, {"rpc.system": caller.protocol, "model": known}):
                yield
        except RequestError as error:
            status = error.code.name.lower()
            raise
        except (asyncio.CancelledError, ClientGone):
            status = "gone"
            raise
        except Exception as error:
            status = "internal"
            LOG.exception("a request failed")
            raise RequestError(Code.INTERNAL, f"the server failed: {type(error).__name__}, see its log") from error
        finally:
            self.metrics.request(caller.protocol, known, status, time.perf_counter() - begun)

    async def infer(self, request: InferRequest, caller: Caller, timeout_s: float) -> InferAnswer:
        """The answer to a request. Raises `RequestError`."""
        served, lane = self.repository.find(request.model, request.version)
        if len(request.id) > MOST_ID:
            raise invalid(f"a request's id has at most {MOST_ID} letters")
        names = [spec.name for spec in lane.model.outputs]
        if unknown := [name for name in request.wanted if name not in names]:
            raise invalid(f"model '{request.model}' has no output '{unknown[0][:80]}': it has {', '.join(names)}")
        items = lane.model.items(request.tensors, request.parameters)
        if len(items) > self.limits.images:
            raise RequestError(Code.TOO_LARGE, f"{len(items)} images in a request, at most {self.limits.images} are taken")
        check_pixels(lane.model, items, self.limits.pixels)
        with served.used():
            answers = await lane.batcher.submit(items, self._timeout_s(request, timeout_s))
            await self._write_audit(request, caller, (served, lane), items, answers)
        self.metrics.count(f"{served.name}.{lane.model.kind}", served.name, answers)
        outputs = tuple(lane.model.tensor(name, answers) for name in request.wanted or names)
        audit = served.scope.audit
        return InferAnswer(request.model, served.version, request.id, outputs, {name: getattr(audit, name) for name in AUDIT})

    def _timeout_s(self, request: InferRequest, left_s: float) -> float:
        wanted = request.parameters.get("timeout", 0)
        if type(wanted) is not int or wanted < 0:
            raise invalid("parameter 'timeout' must be a whole number of microseconds")
        return min(wanted / 1e6 if wanted else self.limits.timeout_s, left_s)

    async def _write_audit(
        self,
        request: InferRequest,
        caller: Caller,
        by: tuple[ServedBundle, Lane],
        items: Sequence[Any],
        answers: Sequence[Any],
    ) -> None:
        """Writes a line for each image, before anybody gets its answer."""
        audit = self._audit
        if audit is None:
            return
        served, lane = by
        same = {
            "client": caller.client,
            "address": caller.address,
            "protocol": caller.protocol,
            "request": request.id,
            "model": f"{served.name}.{lane.model.kind}",
            "bundle": served.scope.audit.bundle,
            "engine": served.scope.audit.engine,
        }

        def write() -> None:
            digests = [hashlib.sha256(lane.model.content(item)).hexdigest() for item in items]
            audit.append(
                {**same, "image": digest, **lane.model.record(answer)} for digest, answer in zip(digests, answers, strict=True)
            )

        try:
            await asyncio.to_thread(write)
        except BlastscopeError as error:
            raise RequestError(Code.UNAVAILABLE, f"no answer without its line in the audit log: {error}") from error

    def metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        return {"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)}

    def model_metadata(self, model: str, version: str) -> dict[str, Any]:
        """A model's metadata. Raises `RequestError`."""
        served, lane = self.repository.find(model, version)
        inputs, outputs = (
            [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]
            for specs in (lane.model.inputs, lane.model.outputs)
        )
        return {"name": model, "versions": [served.version], "platform": PLATFORM, "inputs": inputs, "outputs": outputs}

    def model_ready(self, model: str, version: str) -> bool:
        """Whether a model answers. Raises `RequestError` for one that there is not."""
        self.repository.bundle_of(model)
        try:
            served, _ = self.repository.find(model, version)
        except RequestError as error:
            if error.code is Code.UNAVAILABLE:
                return False
            raise
        return served.ready and not self.draining

    def index(self, *, ready_only: bool) -> list[dict[str, str]]:
        """The models, each with its state, as the model repository extension has it."""
        rows = []
        for name in self.repository.model_names:
            try:
                served, _ = self.repository.find(name)
                row = {
                    "name": name,
                    "version": served.version,
                    "state": "READY" if served.ready else "UNAVAILABLE",
                    "reason": "",
                }
            except RequestError as error:
                row = {"name": name, "version": "", "state": "UNAVAILABLE", "reason": error.detail}
            rows.append(row)
        return [row for row in rows if row["state"] == "READY" or not ready_only]

    async def load(self, model: str) -> None:
        """Loads the bundle behind a model anew. Raises `RequestError`; the one that is served goes on then."""
        name = self.repository.bundle_of(model)
        try:
            await self.repository.load(name)
        except BlastscopeError as error:
            raise RequestError(Code.INVALID, f"bundle '{name}' can't be loaded: {error}") from error
