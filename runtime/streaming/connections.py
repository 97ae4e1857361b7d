"""Who is connected to the live page: how many at most, how long each may keep the server waiting, and who gives way.

A connection costs a thread. One that is slow, or does nothing, holds it no longer than a deadline; and where there is no room,
a newcomer takes the place of whoever has kept the server waiting longest, so that nobody can lock the others out.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import suppress

CONNECTIONS = 128
PER_CLIENT = 64  # of one address: a viewer has two or three, and many may come through one proxy
REQUEST_S = 10.0  # from the end of an answer to that of the next request
ANSWER_S = 10.0  # for taking an answer


class Connection:
    """One connection, and since when the server waits for the other side."""

    def __init__(self, request: socket.socket, client: str) -> None:
        self.request, self.client = request, client
        self.waits_since: float | None = time.monotonic()  # None: the other side waits for us


class Connections:
    """Those that are open."""

    def __init__(self, most: int = CONNECTIONS, per_client: int = PER_CLIENT) -> None:
        self._most, self._per_client = most, per_client
        self._lock = threading.Lock()
        self._open: dict[socket.socket, Connection] = {}

    def admit(self, request: socket.socket, client: str) -> bool:
        """Makes room for a connection. False where all that it could take the place of wait for the server."""
        with self._lock:
            everyone = list(self._open.values())
            same = [one for one in everyone if one.client == client]
            crowd = same if len(same) >= self._per_client else everyone if len(everyone) >= self._most else []
            if crowd and not self._dismiss_slowest(crowd):
                return False
            self._open[request] = Connection(request, client)
            return True

    def leave(self, request: socket.socket) -> None:
        """Ends a connection's stay."""
        with self._lock:
            self._open.pop(request, None)

    def wait_for(self, request: socket.socket, *, waits: bool) -> None:
        """From now on the server waits for the other side of a connection, or the other side for the server."""
        with self._lock:
            if connection := self._open.get(request):
                connection.waits_since = time.monotonic() if waits else None

    def __len__(self) -> int:
        return len(self._open)

    def _dismiss_slowest(self, crowd: list[Connection]) -> bool:
        slow = [(one.waits_since, one) for one in crowd if one.waits_since is not None]
        if not slow:
            return False
        _, slowest = min(slow, key=lambda pair: pair[0])
        del self._open[slowest.request]
        with suppress(OSError):  # it is gone already
            slowest.request.shutdown(socket.SHUT_RDWR)  # its thread, which waits for it, ends
        return True


class DeadlineReader(io.RawIOBase):
    """What comes through a socket until a deadline, however it is dripped. Raises `TimeoutError`."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._until = 0.0
        self.restart()

    def restart(self) -> None:
        """Begins the time for the next request."""
        self._until = time.monotonic() + REQUEST_S

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # of bytes, as BufferedReader hands it over
        """See `io.RawIOBase`."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._source.settimeout(left)
        return self._source.recv_into(buffer)
