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
from blastscope.serve.batching import OnGone
from blastscope.serve.metrics import Metrics, Tracing
from blastscope.serve.models import check_pixels
from blastscope.serve.options import Limits
from blastscope.serve.repository import Repository, ServedBundle, ServedModel
from blastscope.serve.tensors import ClientGone, Code, RequestError, Tensor, invalid
from blastscope.serve.use_count import UseCount

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
    """Answers requests: by `answer` in threads, which wait, and by `infer` in an event loop; `idle` and `load` belong to it."""

    def __init__(
        self, repository: Repository, limits: Limits, metrics: Metrics, audit: AuditLog | None, tracing: Tracing
    ) -> None:
        self.repository, self.limits, self.metrics = repository, limits, metrics
        self._audit, self._tracing = audit, tracing
        self.under_way = UseCount()
        self.draining = False
        metrics.in_flight.set_function(lambda: self.under_way.now)
        if audit:
            metrics.audit_lines.set_function(lambda: audit.state.lines)

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.repository.ready and not self.draining

    async def idle(self) -> None:
        """Waits until no request is under way."""
        await self.under_way.none_left()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of the places for requests. Raises `RequestError` where none is free, or the server is about to end."""
        if self.draining:
            raise RequestError(Code.UNAVAILABLE, "the server is about to end: ask another one")
        most = self.limits.requests
        if not self.under_way.begin(most):
            raise RequestError(Code.BUSY, f"{most} requests are under way, and no more are taken: try again later")
        try:
            yield
        finally:
            self.under_way.end()

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

    def answer(self, request: InferRequest, caller: Caller, timeout_s: float, on_gone: OnGone) -> InferAnswer:
        """The answer to a request, in a thread. Raises `RequestError`, and `ClientGone` where `on_gone` tells of it."""
        with self.repository.held(request.model, request.version) as by:
            items = self._items(request, by[1])
            answers = by[1].batcher.answer(items, self._timeout_s(request, timeout_s), on_gone)
            self._write_audit(request, caller, by, items, answers)
            return self._told(request, by, answers)

    async def infer(self, request: InferRequest, caller: Caller, timeout_s: float) -> InferAnswer:
        """The same in an event loop."""
        with self.repository.held(request.model, request.version) as by:
            items = self._items(request, by[1])
            answers = await by[1].batcher.submit(items, self._timeout_s(request, timeout_s))
            if self._audit:
                await asyncio.to_thread(self._write_audit, request, caller, by, items, answers)
            return self._told(request, by, answers)

    def _items(self, request: InferRequest, lane: ServedModel) -> list[Any]:
        """What a request asks about, once it is known that it may."""
        if len(request.id) > MOST_ID:
            raise invalid(f"a request's id has at most {MOST_ID} letters")
        names = [spec.name for spec in lane.model.outputs]
        if unknown := [name for name in request.wanted if name not in names]:
            raise invalid(f"model '{request.model}' has no output '{unknown[0][:80]}': it has {', '.join(names)}")
        items = lane.model.items(request.tensors, request.parameters)
        if len(items) > self.limits.images:
            raise RequestError(Code.TOO_LARGE, f"{len(items)} images in a request, at most {self.limits.images} are taken")
        check_pixels(lane.model, items, self.limits.pixels)
        return items

    def _told(self, request: InferRequest, by: tuple[ServedBundle, ServedModel], answers: Sequence[Any]) -> InferAnswer:
        """Counts the answers, and puts them into tensors."""
        served, lane = by
        self.metrics.count(f"{served.name}.{lane.model.kind}", served.name, answers)
        names = request.wanted or tuple(spec.name for spec in lane.model.outputs)
        outputs = tuple(lane.model.tensor(name, answers) for name in names)
        audit = served.scope.audit
        return InferAnswer(request.model, served.version, request.id, outputs, {name: getattr(audit, name) for name in AUDIT})

    def _timeout_s(self, request: InferRequest, left_s: float) -> float:
        wanted = request.parameters.get("timeout", 0)
        if type(wanted) is not int or wanted < 0:
            raise invalid("parameter 'timeout' must be a whole number of microseconds")
        return min(wanted / 1e6 if wanted else self.limits.timeout_s, left_s)

    def _write_audit(
        self,
        request: InferRequest,
        caller: Caller,
        by: tuple[ServedBundle, ServedModel],
        items: Sequence[Any],
        answers: Sequence[Any],
    ) -> None:
        """Writes a line for each image, before anybody gets its answer."""
        if self._audit is None:
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
        digests = [hashlib.sha256(lane.model.content(item)).hexdigest() for item in items]
        lines = [{**same, "image": digest, **lane.model.record(one)} for digest, one in zip(digests, answers, strict=True)]
        try:
            self._audit.append(lines)
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
