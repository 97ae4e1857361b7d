"""`LivePage`: a web page that shows a stream as it runs, and its HTTP server.

The server has five addresses, can only be read, and checks the Host header, so that no other web page can ask it.
"""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.drift import Drift
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.streaming.frame_buffer import ANSWER_S, Connections, DeadlineReader, FrameBuffer
from blastscope.runtime.streaming.stream import Stream

FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Cache-Control": "no-store",  # they are patients' cells
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:@/\[\]]+)(:\d{1,5})?")
LOG = logging.getLogger(__name__)
PATIENCE_S = 10.0  # after which a viewer who waits for a frame is told how it goes all the same
GLANCE_S = 0.1  # how long closing may take


class PageServer(ThreadingHTTPServer):
    """Serves `board`, and the result of `status` beside it. It is bound when it is made; `serve_forever` answers."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self, host: str, port: int, board: FrameBuffer, status: Callable[[], dict[str, Any]], patience_s: float
    ) -> None:
        self.board, self.status, self.patience_s = board, status, patience_s
        self.closing = False
        static = files(__package__) / "static"
        self.pages = {path: ((static / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}
        self.connections = Connections()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Viewer)
        self.loopback = ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def knows(self, name: str) -> bool:
        """Whether `name`, as a browser's Host header has it, is one of this server's.

        A page of another site can give its own name this machine's address, and would read along under that name. It can't
        do so with an address, so where other machines are served too, every address will do.
        """
        parts = HOST.fullmatch(name)
        bare = parts[1].lower() if parts else ""
        if bare == "localhost":
            return True
        try:
            address = ipaddress.ip_address(bare.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or not self.loopback

    def process_request(self, request: Any, client_address: Any) -> None:
        """Takes a connection, if there is room for one more, or can be made."""
        if self.connections.admit(request, str(client_address[0])):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection, in its own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer who goes away in the middle of an answer is no error."""
        if not isinstance(sys.exception(), OSError):
            LOG.warning("a viewer got no answer", exc_info=True)


class Viewer(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "blastscope", ""

    def setup(self) -> None:
        """Reads by a deadline for the whole request: a timeout for each byte is none."""
        super().setup()
        self._reader = DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self._reader)  # type: ignore[type-var]  # its `readinto` takes any buffer

    def handle_one_request(self) -> None:
        """Waits for a request, and answers it."""
        self._reader.restart()
        self.server.connections.wait_for(self.connection, waits=True)
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answers a request."""
        self.server.connections.wait_for(self.connection, waits=False)
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.knows(hosts[0]):
            self._send(HTTPStatus.FORBIDDEN, b"this page is served to this machine under its own name", "text/plain")
            return
        path, _, query = self.path.partition("?")
        page = self.server.pages.get(path)
        if page:
            self._send(HTTPStatus.OK, *page)
        elif path == "/next":
            self._send_next(parse_qs(query).get("after", ["0"])[0])
        elif path.startswith("/frame/") and path.endswith(".jpg"):
            self._send_picture(path.removeprefix("/frame/").removesuffix(".jpg"))
        else:
            self._send(HTTPStatus.NOT_FOUND, b"no such page", "text/plain")

    do_HEAD = do_GET  # noqa: N815 as http.server calls it

    def _send_next(self, after: str) -> None:
        number = _number(after)
        if number is None:
            self._send(HTTPStatus.BAD_REQUEST, b"after is no number", "text/plain")
            return
        news, shown = self.server.board.newest(number, timeout=self.server.patience_s)
        frame = shown.text() if shown else "null"
        text = f'{{"news": {news}, "frame": {frame}, "status": {json.dumps(self.server.status())}}}'
        self._send(HTTPStatus.OK, text.encode(), "application/json")

    def _send_picture(self, text: str) -> None:
        number = _number(text)
        shown = None if number is None else self.server.board.frame(number)
        content = shown.jpeg() if shown else None
        if content is None:
            self._send(HTTPStatus.NOT_FOUND, b"no longer shown", "text/plain")
        else:
            self._send(HTTPStatus.OK, content, "image/jpeg")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.connection.settimeout(ANSWER_S)
        self.server.connections.wait_for(self.connection, waits=True)
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind if kind.startswith("image/") else f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if self.server.closing:
            self.send_header("Connection", "close")  # which http.server obeys, too
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 as http.server calls it
        """Logs nothing: every frame is several requests."""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


class LivePage:
    """Serves the page at `url` until it is closed. `port` 0 takes any that is free.

    On 127.0.0.1, the default, it is for this machine alone; whoever can reach another `host` can look, without a password.
    Its `drift` compares the cells that are shown with the training's; the page tells the alarms. Raises `UsageError` where host
    and port can't be had.
    """

    def __init__(self, source: str, *, host: str = "127.0.0.1", port: int = 0, patience_s: float = PATIENCE_S) -> None:
        self._source = source
        self._board = FrameBuffer()
        self.drift = Drift()
        self._stream: Stream | None = None
        try:
            self._server = PageServer(host, port, self._board, self._status, patience_s)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"port {port} of '{host}' can't be had: {reason}: take another, or 0 for any free one") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(GLANCE_S,), name="blastscope-page", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        host, port = self._server.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{name}:{port}/"

    @property
    def private(self) -> bool:
        """Whether only this machine can see it."""
        return self._server.loopback

    def watch(self, stream: Stream) -> None:
        """Shows how `stream` goes, beside its reports."""
        self._stream = stream
        self._board.nudge()

    def show(self, report: FrameReport) -> None:
        """Shows a report of a stream, with its frame if the stream has `keep_pixels`."""
        self.drift.add(report)
        self._board.show(report)

    def refresh(self) -> None:
        """Tells every viewer how it goes, though no frame came: when the stream has ended, say."""
        self._board.nudge()

    def close(self) -> None:
        """Ends the server. Safe to call twice."""
        self._server.closing = True
        self._board.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _status(self) -> dict[str, Any]:
        stats = asdict(self._stream.stats) if self._stream else None
        return {"source": self._source, "totals": self._board.totals, "stream": stats, "alarms": self.drift.state().alarms}
