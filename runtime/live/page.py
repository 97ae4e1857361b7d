"""`LivePage`: the page and its server, for a stream that somebody else runs."""

from __future__ import annotations

import threading
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.report import FrameReport
from blastscope.runtime.live.board import Board
from blastscope.runtime.live.server import PageServer
from blastscope.runtime.site.drift import Drift
from blastscope.runtime.stream import Stream

PATIENCE_S = 10.0  # after which a viewer who waits for a frame is told how it goes all the same
GLANCE_S = 0.1  # how long closing may take


class LivePage:
    """Serves the page at `url` until it is closed. `port` 0 takes any that is free.

    On 127.0.0.1, the default, it is for this machine alone; whoever can reach another `host` can look, without a password.
    Its `drift` compares the cells that are shown with the training's; the page tells the alarms. Raises `UsageError` where host
    and port can't be had.
    """

    def __init__(self, source: str, *, host: str = "127.0.0.1", port: int = 0, patience_s: float = PATIENCE_S) -> None:
        self._source = source
        self._board = Board()
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
        """Shows a report. Its frame is taken from `report.metadata["pixels"]`, and mustn't be written to afterwards."""
        self.drift.add(report)
        self._board.show(report, report.metadata.get("pixels"))

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
