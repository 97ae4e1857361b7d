"""`Server`: REST and gRPC side by side, from the opening of the bundles to a graceful end.

with BackgroundServer(ServeOptions({"shipped": None}, port=0, grpc_port=0)) as server:
print(server.url, server.grpc_address)
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blastscope.runtime.errors import UsageError
from blastscope.runtime.session import Scope, open_bundle
from blastscope.serve.audit_log import AuditLog
from blastscope.serve.grpc_server import make_grpc_server
from blastscope.serve.http_app import make_app
from blastscope.serve.metrics import Metrics, Tracing
from blastscope.serve.options import Limits, ServeOptions
from blastscope.serve.repository import Repository
from blastscope.serve.service import InferenceService

LOG = logging.getLogger(__name__)
HEAD_S = 10.0  # in which a request's headers must have come in
HEAD_BYTES = 1 << 16
GRACE_S = 5.0  # for answers that are being sent when everything has been answered


class Server:
    """A server that belongs to one event loop: `start` it, let it run, and `stop` it.

    Parameters
    ----------
    options : ServeOptions
        How it is to run.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.metrics = Metrics()
        self._audit: AuditLog | None = None
        self._stopping = False
        self.port = self.grpc_port = 0

    async def start(self) -> None:
        """Binds its ports, opens the bundles and the audit log, and listens. Raises `BlastscopeError`s."""
        options = self.options
        tls = options.tls()
        listening = _bound(options.host, options.port)
        self.port = listening.getsockname()[1]
        try:
            if options.grpc_port:  # before a server is made that would be thrown away unstarted
                _bound(options.host, options.grpc_port, name="gRPC", option="--grpc-port").close()
            if options.audit_log:
                self._audit = AuditLog(options.audit_log, rotate_bytes=options.audit_rotate_bytes, sync=options.audit_sync)
            self.repository = Repository(options.bundles, self._open_scope, options.limits, self.metrics)
            self.service = InferenceService(self.repository, options.limits, self.metrics, self._audit, Tracing())
            await self.repository.load_all()
            if options.grpc_port is not None:
                self._grpc, self.grpc_port = make_grpc_server(self.service, options, asyncio.get_running_loop())
        except BaseException:
            listening.close()
            if self._audit:
                self._audit.close()
            raise
        config = uvicorn.Config(
            make_app(self.service, options),
            http=guarded_protocol(options.limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # a client must not choose what the audit log takes for its address
            timeout_graceful_shutdown=int(GRACE_S),
        )
        config.load()
        config.ssl = tls
        self._http = _Http(config)
        self._serving = asyncio.create_task(self._http.serve(sockets=[listening]))
        while not self._http.started and not self._serving.done():
            await asyncio.sleep(0.01)
        if options.grpc_port is not None:
            self._grpc.start()

    async def stop(self) -> None:
        """Takes no new requests, answers those under way for as long as `drain_s`, and closes everything."""
        if self._stopping:
            return
        self._stopping = True
        self.service.draining = True
        try:
            async with asyncio.timeout(self.options.limits.drain_s):
                await self.service.idle()
        except TimeoutError:
            LOG.warning("requests were still under way after %g s, and are broken off", self.options.limits.drain_s)
        if self.options.grpc_port is not None:
            await asyncio.to_thread(self._grpc.stop(GRACE_S).wait)
        self._http.should_exit = True
        await self._serving
        await self.repository.close()
        if self._audit:
            self._audit.close()

    def _open_scope(self, path: Path | None) -> Scope:
        words: dict[str, Any] = {"workload": "throughput", **self.options.session}
        return open_bundle(path, **words)


class BackgroundServer:
    """A server in a thread of its own, for programs and tests: a context manager.

    Attributes
    ----------
    url, grpc_address : str
        Where it listens.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.server = Server(options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="blastscope-server", daemon=True)

    @property
    def url(self) -> str:
        """The address of REST, without a slash at the end."""
        scheme = "https" if self.server.options.certificate else "http"
        return f"{scheme}://{self.server.options.host}:{self.server.port}"

    @property
    def grpc_address(self) -> str:
        """The address of gRPC."""
        return f"{self.server.options.host}:{self.server.grpc_port}"

    def call(self, work: Callable[[], Any]) -> Any:
        """Runs the coroutine function `work` in the server's loop, and gives what it returns."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.call(self.server.start)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.call(self.server.stop)
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Http(uvicorn.Server):
    """uvicorn's server, which leaves the signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to whoever runs the server."""
        yield


def guarded_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol, which closes connections above the limit, and those whose headers are late or too long."""

    class Guarded(HttpToolsProtocol):
        _head_bytes = 0
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # asyncio leaves this out for a socket that was bound beforehand. Without it the body of an answer, which is written
            # behind its head, waits for the client's delayed acknowledgement: 40 ms on Linux.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_there()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._await_head()
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > HEAD_BYTES:
                self.transport.abort()
                return
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._head_is_there()
            super().on_headers_complete()

        def _await_head(self) -> None:
            self._head_is_there()
            self._head_bytes = 0
            self._late = self.loop.call_later(HEAD_S, self.transport.abort)

        def _head_is_there(self) -> None:
            if self._late:
                self._late.cancel()
                self._late = None

    return Guarded


def _bound(host: str, port: int, *, name: str = "REST", option: str = "--port") -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"{name} can't listen on '{host}:{port}': {error.strerror}: name another with {option}") from error
