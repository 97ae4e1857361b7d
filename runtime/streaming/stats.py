"""Statistics of a stream: `StreamStats` (a snapshot), `StreamFailure` (one error), `StatsRecorder` (which counts them)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from blastscope.runtime.streaming.frame_queue import FrameId

StreamState = Literal["running", "device-lost", "ended", "stopped", "closed"]
RECENT = 256  # frames whose times the medians are of


@dataclass(frozen=True, slots=True)
class StreamStats:
    """A stream at one moment. `taken` is always the sum of `reported`, `dropped` and `waiting`.

    `state` is 'device-lost' from `DeviceLost` until a frame succeeds again, which takes a `Scope.reopen`; 'ended' when the
    source was at its end, 'stopped' by `stop`, 'closed' with the handle. These three are final: everything is told by then, but
    the report with which a callback hung when the stream was stopped.
    """

    state: StreamState
    taken: int  # frames that came
    reported: int  # frames whose report was given to on_report
    refused: int  # of these: without cells, since the frame couldn't be examined
    dropped: int  # frames that gave way to newer ones, or were thrown away when the stream stopped
    failed: int  # exceptions: of the source, of examining, of on_report
    waiting: int  # frames on their way, at most queue + 5
    queue: int  # frames for which there is room before the networks
    slow_consumer: bool  # the last report had to wait until on_report was through with earlier ones
    examine_p50_ms: float | None  # of the last 256 frames
    latency_p50_ms: float | None  # of the last 256 frames, from taken to given to on_report
    latency_max_ms: float | None  # of all frames
    last_error: str | None


@dataclass(frozen=True, slots=True, eq=False)
class StreamFailure:
    """An exception that didn't end the stream: who raised it, and the frame that it happened to, if there was one."""

    where: Literal["source", "examine", "on_report"]
    error: BaseException
    id: FrameId | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class StatsRecorder:
    """Counts for all threads of a stream, in memory that doesn't grow."""

    def __init__(self, queue: int) -> None:
        self._state = threading.Condition()
        self._queue = queue
        self._counts = dict.fromkeys(("taken", "reported", "refused", "dropped", "failed"), 0)
        self._examine_ms: deque[float] = deque(maxlen=RECENT)
        self._latency_ms: deque[float] = deque(maxlen=RECENT)
        self._latency_max_ms: float | None = None
        self._slow = False
        self._last_error: str | None = None
        self._name: StreamState = "running"

    def count(self, **steps: int) -> None:
        """Adds to the counts that are named."""
        with self._state:
            for name, step in steps.items():
                self._counts[name] += step
            self._state.notify_all()

    def fail(self, error: BaseException) -> None:
        """Counts an exception."""
        with self._state:
            self._counts["failed"] += 1
            self._last_error = f"{type(error).__name__}: {error}"

    def examined(self, ms: float, *, slow: bool) -> None:
        """A frame was examined, and its report has to wait if the consumer is `slow`."""
        with self._state:
            self._examine_ms.append(ms)
            self._slow = slow

    def told(self, latency_ms: float, *, refused: bool) -> None:
        """A report was given away."""
        with self._state:
            self._latency_ms.append(latency_ms)
            self._latency_max_ms = max(latency_ms, self._latency_max_ms or 0.0)
        self.count(reported=1, refused=int(refused))

    def enter(self, state: StreamState) -> None:
        """The stream's state from now on. A final one stays."""
        with self._state:
            if not self._over:
                self._name = state
            self._state.notify_all()

    def wait(self, *, idle: bool, timeout: float | None) -> bool:
        """Waits for the end, or with `idle` until no frame is on its way; whether it came."""
        with self._state:
            return self._state.wait_for(lambda: self._over or (idle and not self._waiting), timeout)

    def stats(self) -> StreamStats:
        """The present moment."""
        with self._state:
            return StreamStats(
                state=self._name,
                **self._counts,
                waiting=self._waiting,
                queue=self._queue,
                slow_consumer=self._slow,
                examine_p50_ms=_median(self._examine_ms),
                latency_p50_ms=_median(self._latency_ms),
                latency_max_ms=self._latency_max_ms,
                last_error=self._last_error,
            )

    @property
    def _over(self) -> bool:
        return self._name in ("ended", "stopped", "closed")

    @property
    def _waiting(self) -> int:
        return self._counts["taken"] - self._counts["reported"] - self._counts["dropped"]


def _median(values: deque[float]) -> float | None:
    return median(values) if values else None
