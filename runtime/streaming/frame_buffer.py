"""`FrameBuffer`: the latest frames and reports, encoded as JPEG and JSON once a viewer asks."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from functools import cached_property
from typing import Any

import cv2

from blastscope.runtime.frames.mask_geometry import fewer_points
from blastscope.runtime.frames.report.theme import caution
from blastscope.runtime.frames.types import FrameCell, FrameReport

KEPT = 3  # frames: a viewer asks for the picture a moment after the text
MOST_PX = 1600  # a picture's longer side
QUALITY = 85
CONNECTIONS = 128
PER_CLIENT = 64  # of one address: a viewer has two or three, and many may come through one proxy
REQUEST_S = 10.0  # from the end of an answer to that of the next request
ANSWER_S = 10.0  # for taking an answer


class BufferedFrame:
    """A frame in the buffer, with its picture and text for the page."""

    def __init__(self, number: int, report: FrameReport) -> None:
        self.number = number
        self._report = report
        self._pixels = report.pixels if report.pixels is not None and report.pixels.size else None
        self._making = threading.Lock()

    def jpeg(self) -> bytes | None:
        """The picture; None where the frame has no pixels that can be shown."""
        with self._making:
            return self._jpeg

    @cached_property
    def _jpeg(self) -> bytes | None:
        if self._pixels is None:
            return None
        factor = min(1.0, MOST_PX / max(self._pixels.shape[:2]))
        small = (
            cv2.resize(self._pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else self._pixels
        )
        done, content = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        return content.tobytes() if done else None

    def text(self) -> str:
        """What the page draws over the picture, as JSON."""
        with self._making:
            return self._text

    @cached_property
    def _text(self) -> str:
        report, path = self._report, self._report.path
        height, width = self._pixels.shape[:2] if self._pixels is not None else (0, 0)
        row = {
            "number": self.number,
            "id": report.id,
            "name": path.name if path else f"frame {report.id}" if isinstance(report.id, int) else report.id,
            "width": width,
            "height": height,
            "picture": self._pixels is not None,
            "caution": None if report.refusal else caution(validated=report.validated),  # without a call nothing to add
            "refusal": report.refusal.detail if report.refusal else None,
            "counts": report.counts,
            "pixel_um": report.pixel_um,
            "scale_source": report.parameters.scale_source if report.parameters else None,
            "scale_note": report.parameters.scale_note if report.parameters else "",
            "cells": [_row(cell) for cell in report.cells],
        }
        return json.dumps(row)


def _row(cell: FrameCell) -> dict[str, Any]:
    return {**cell.row(), "contour": fewer_points(cell.found.contour).tolist()}


class FrameBuffer:
    """Where reports are shown and viewers look. Showing never waits for a viewer; memory holds `KEPT` frames."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._frames: deque[BufferedFrame] = deque(maxlen=KEPT)
        self._totals: Counter[str] = Counter(frames=0, refused_frames=0)
        self._news = 0  # rises when there is something to tell, be it a frame or not
        self._closed = False

    def show(self, report: FrameReport) -> None:
        """Puts up a report with its frame, if it has one."""
        with self._state:
            self._totals.update({**report.counts, "frames": 1, "refused_frames": int(report.refusal is not None)})
            self._frames.append(BufferedFrame(self._totals["frames"], report))
            self._tell()

    def nudge(self) -> None:
        """Makes every viewer look again, at what isn't a frame."""
        with self._state:
            self._tell()

    def close(self) -> None:
        """Wakes every viewer that waits, for good."""
        with self._state:
            self._closed = True
            self._tell()

    def newest(self, news: int, *, timeout: float) -> tuple[int, BufferedFrame | None]:
        """The number of the latest news and the newest frame, waiting for news other than number `news` if time allows."""
        with self._state:
            self._state.wait_for(lambda: self._closed or self._news != news, timeout)
            return self._news, self._frames[-1] if self._frames else None

    def frame(self, number: int) -> BufferedFrame | None:
        """The frame with this number, if it is still up."""
        with self._state:
            return next((shown for shown in self._frames if shown.number == number), None)

    @property
    def totals(self) -> dict[str, int]:
        """Frames and cells so far."""
        with self._state:
            return dict(self._totals)

    def _tell(self) -> None:
        self._news += 1
        self._state.notify_all()


class Connection:
    """One connection, and since when the server waits for the other side."""

    def __init__(self, request: socket.socket, client: str) -> None:
        self.request, self.client = request, client
        self.waits_since: float | None = time.monotonic()  # None: the other side waits for us


class Connections:
    """The open connections of a page's server."""

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
        """Forgets a connection that has ended."""
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
        """Always true: see `io.RawIOBase`."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # of bytes, as BufferedReader hands it over
        """See `io.RawIOBase`."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._source.settimeout(left)
        return self._source.recv_into(buffer)
