"""What a stream's threads share: `BoundedQueue`, `Frame`, which they pass on, and `StatsRecorder`, which counts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from blastscope.runtime.errors import Closed, ImageError, UsageError
from blastscope.runtime.io.image import check_array
from blastscope.runtime.types import Refusal

T = TypeVar("T")
FrameId = int | str
StreamState = Literal["running", "device-lost", "ended", "stopped", "closed"]
RECENT = 256  # frames whose times the medians are of


class BoundedQueue(Generic[T]):
    """Holds at most `limit` things, in their order. Whoever waits here sleeps."""

    def __init__(self, limit: int, *, drops_oldest: bool = False) -> None:
        self._limit, self._drops_oldest = limit, drops_oldest
        self._items: deque[T] = deque()
        self._state = threading.Condition()
        self._ended = False

    @property
    def full(self) -> bool:
        """Whether the next `put` has to wait, or drops something."""
        return len(self._items) >= self._limit

    def put(self, item: T, *, may_wait: bool = True) -> list[T]:
        """Adds `item`, and gives back what had to give way. Without leave to drop it waits for room.

        Raises `Closed`, and `UsageError` where it had to wait and mustn't.
        """
        with self._state:
            if not self._drops_oldest:
                if self.full and not may_wait and not self._ended:
                    raise UsageError("a stream's callback can't wait for room in the stream: it would wait for itself")
                self._state.wait_for(lambda: self._ended or not self.full)
            if self._ended:
                raise Closed("the stream has stopped: start another")
            self._items.append(item)
            gone = [self._items.popleft() for _ in range(len(self._items) - self._limit)]
            self._state.notify_all()
        return gone

    def get(self) -> T | None:
        """The oldest thing, waiting for one; None once the line has ended and is empty."""
        with self._state:
            self._state.wait_for(lambda: self._ended or self._items)
            item = self._items.popleft() if self._items else None
            self._state.notify_all()
        return item

    def end(self, *, keep: bool = True) -> list[T]:
        """From now on `put` raises `Closed`. What waits can still be got; or is given back here, with `keep=False`."""
        with self._state:
            self._ended = True
            gone = [] if keep else list(self._items)
            if not keep:
                self._items.clear()
            self._state.notify_all()
        return gone


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture with its id and metadata, which come back with the report. Without an id it gets its number, from 0.

    In place of pixels a source may give the `Refusal` that says why there are none, such as that of a damaged file.

    Attributes
    ----------
    pixels : object
        Shape (H, W, 3), uint8, RGB; or the reason why there are none.
    id : FrameId or None
        Comes back with the report; None: the frame's number, from 0.
    metadata : mapping of str to Any
        Whatever came with the frame.
    """

    pixels: Any
    id: FrameId | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def as_frame(item: object) -> Frame:
    """What a source gave, an array, an array with its metadata, or a `Frame`, as a frame."""
    if isinstance(item, Frame):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        return Frame(item[0], metadata=item[1])
    return Frame(item)


def own(frame: Frame) -> Frame:
    """The frame with a copy of its pixels, so that a camera may use its buffer again; a refusal in place of what are none.

    A device array stays what and where it is.
    """
    pixels = frame.pixels
    if isinstance(pixels, Refusal) or (hasattr(pixels, "__cuda_array_interface__") and not isinstance(pixels, np.ndarray)):
        return frame
    try:
        return replace(frame, pixels=np.array(check_array(pixels), order="C"))
    except ImageError as error:
        return replace(frame, pixels=Refusal("not-8-bit-rgb", str(error)))


@dataclass(frozen=True, slots=True)
class StreamStats:
    """A stream at one moment. `taken` is always the sum of `reported`, `dropped` and `waiting`.

    `state` is 'device-lost' from `DeviceLost` until a frame succeeds again, which takes a `Scope.reopen`; 'ended' when the
    source was at its end, 'stopped' by `stop`, 'closed' with the handle. These three are final: everything is told by then, but
    the report with which a callback hung when the stream was stopped.

    Attributes
    ----------
    state : StreamState
        What the stream does.
    taken : int
        Frames that came.
    reported : int
        Frames whose report was given to on_report.
    refused : int
        Of these, frames without cells, since they couldn't be examined.
    dropped : int
        Frames that gave way to newer ones, or were thrown away when the stream stopped.
    failed : int
        Exceptions: of the source, of examining, of on_report.
    waiting : int
        Frames on their way, at most queue + 5.
    queue : int
        Frames for which there is room before the networks.
    slow_consumer : bool
        The last report had to wait until on_report was through with earlier ones.
    examine_p50_ms : float or None
        Median of the last 256 frames, in milliseconds.
    latency_p50_ms : float or None
        Median of the last 256 frames, from taken to given to `on_report`, in milliseconds.
    latency_max_ms : float or None
        Longest of all frames, in milliseconds.
    last_error : str or None
        The newest exception in words; None where there was none.
    """

    state: StreamState
    taken: int
    reported: int
    refused: int
    dropped: int
    failed: int
    waiting: int
    queue: int
    slow_consumer: bool
    examine_p50_ms: float | None
    latency_p50_ms: float | None
    latency_max_ms: float | None
    last_error: str | None


@dataclass(frozen=True, slots=True, eq=False)
class StreamFailure:
    """An exception that didn't end the stream: who raised it, and the frame that it happened to, if there was one.

    Attributes
    ----------
    where : {'source', 'examine', 'on_report'}
        Who raised.
    error : BaseException
        The exception.
    id : FrameId or None
        The frame's; None where there was none.
    metadata : mapping of str to Any
        Whatever came with the frame.
    """

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
        """Counts a report that the consumer got."""
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
        """The counts as they are now."""
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


def told_um(metadata: Mapping[str, Any], key: str) -> float | None:
    """The scale that a frame's metadata says under `key`: a program's own words, which may be text. Raises `UsageError`."""
    told = metadata.get(key)
    try:
        return None if told is None else float(told)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a frame's metadata says that {key} is {told!r}: micrometres per pixel are a number") from error
