"""`Stream`: three threads that read, examine and report frames, with a bounded queue between each two."""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self, get_args

import numpy as np

from blastscope.runtime.errors import Closed, DeviceLost, ImageError, UsageError
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.inference.options import whole_number
from blastscope.runtime.streaming.frame_queue import (
    BoundedQueue,
    Frame,
    FrameId,
    StatsRecorder,
    StreamFailure,
    StreamStats,
    as_frame,
    own,
)
from blastscope.runtime.types import Refusal

WhenFull = Literal["drop-oldest", "block"]
OnReport = Callable[[FrameReport], object]
OnError = Callable[[StreamFailure], object]

REPORTS = 2  # that wait for a consumer: enough to even out its pace, and no more old news
SOURCE_ERRORS = 8  # that a source may raise in a row, without a frame between them, before it counts as ended
SOURCE_PATIENCE_S = 5.0  # for a source that is in the middle of a frame when the stream stops
CONSUMER_PATIENCE_S = 30.0  # for a callback that is at work then, where what waits is still to be told
HURRY_S = 5.0  # for one where it isn't
LOOK_S = 0.1
LOG = logging.getLogger(__name__)


class Examine(Protocol):
    """What makes a report of a frame, as `Scope.examine` does. Called in one thread at a time."""

    def __call__(self, frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
        """The report. Raises `ImageError`, `Closed`, `DeviceLost`; whatever it raises costs that frame alone."""
        ...


class _Taken(NamedTuple):
    """A frame from the queue.

    Attributes
    ----------
    frame : Frame
        The frame.
    at : float
        When it was handed over, by `time.perf_counter`.
    """

    frame: Frame
    at: float


class _Examined(NamedTuple):
    """A report that waits for its callback.

    Attributes
    ----------
    report : FrameReport
        The report.
    at : float
        When its frame was handed over, by `time.perf_counter`.
    """

    report: FrameReport
    at: float


class Stream:
    """Frames in, reports out, in their order, until the source ends or `stop`. Safe to use from many threads and callbacks.

    Without a source frames come by `put`. A handle that is forgotten ends, unless it has a source, which keeps it alive.
    """

    def __init__(
        self,
        examine: Examine,
        on_report: OnReport,
        frames: Iterable[Any] | None = None,
        *,
        queue: int = 4,
        when_full: WhenFull | str = "drop-oldest",
        on_error: OnError | None = None,
        keep_pixels: bool = False,
    ) -> None:
        queue = whole_number("queue", queue)
        for name, callback in (("on_report", on_report), ("on_error", on_error)):
            if callback is not None and not callable(callback):
                raise UsageError(f"{name} is {callback!r}: it must be a function")
        if when_full not in get_args(WhenFull):
            raise UsageError(f"when_full '{when_full}' is not known: say {' or '.join(get_args(WhenFull))}")
        line: BoundedQueue[_Taken] = BoundedQueue(queue, drops_oldest=when_full == "drop-oldest")
        run = self._run = _Run(examine, on_report, on_error, line, StatsRecorder(queue), keep_pixels=keep_pixels)
        self._pulls, self._blocks, self._process = frames is not None, when_full == "block", os.getpid()
        keep = self if self._pulls else None
        self._threads = [_thread("examine", run.examine_all), _thread("report", run.tell_all, keep)]
        self._puller = _thread("source", run.pull, _iterator(frames)) if frames is not None else None
        weakref.finalize(self, run.stop_forgotten, self._process)
        for thread in [*self._threads, *([self._puller] if self._puller else [])]:
            thread.start()

    @property
    def stats(self) -> StreamStats:
        """Counts and times of the stream so far."""
        return self._run.recorder.stats()

    def put(self, frame: Any, *, id: FrameId | None = None, metadata: Mapping[str, Any] | None = None) -> None:  # noqa: A002
        """Hands over a frame. When this returns, its buffer may be used again.

        With 'drop-oldest' it takes as long as the copy, whatever the networks and the consumer do; with 'block' it waits for
        room.

        Parameters
        ----------
        frame : (H, W, 3) uint8 array in RGB, or Frame
            What is no such array is reported with a refusal.
        id : optional
            Comes back in the report.
        metadata : mapping, optional
            Comes back in the report.

        Raises
        ------
        Closed
            The stream has stopped.
        UsageError
            In a callback of this stream that would have to wait for room.
        """
        if os.getpid() != self._process:
            raise UsageError("a stream doesn't survive a fork: open the bundle in the child, and stream there")
        if self._pulls:
            raise UsageError("this stream takes its frames from its source: put goes with frames=None")
        given = as_frame(frame)
        may_wait = not (self._blocks and threading.current_thread() in self._own)
        whole = replace(given, id=given.id if id is None else id, metadata=metadata or given.metadata)
        self._run.take(whole, may_wait=may_wait)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the source has ended, or without a source until no frame is on its way; False when time was up.

        Raises `UsageError` in a callback, which would wait for itself.
        """
        if threading.current_thread() in self._own:
            raise UsageError("a stream's callback can't wait for the stream: it would wait for itself")
        return self._run.recorder.wait(idle=not self._pulls, timeout=timeout)

    def stop(self, *, drain: bool = True) -> bool:
        """Takes no more frames, and returns when the threads have ended. Safe to call twice, and from everywhere.

        Frames and reports that wait are told first, or dropped with `drain=False`; the second call may cut the first one short.
        In a callback it returns at once, and the stream ends by itself.

        Returns whether the threads have ended. One that hangs is left behind, and what waits is dropped: a callback that hasn't
        returned after 30 seconds, or 5 with `drain=False`, and a source after 5 seconds.
        """
        self._run.stop(drain=drain)
        if threading.current_thread() in self._own:
            return False
        ended = self._join_threads(drain=drain)
        if self._puller:
            self._puller.join(SOURCE_PATIENCE_S)
        return ended and not (self._puller and self._puller.is_alive())

    def _join_threads(self, *, drain: bool) -> bool:
        """Whether the threads ended before one of them hung in a callback."""
        began = time.monotonic()
        while alive := [thread for thread in self._threads if thread.is_alive()]:
            hanging = self._run.in_callbacks_since(began, CONSUMER_PATIENCE_S if drain else HURRY_S)
            at_work = [thread for thread in alive if thread.ident not in hanging]
            if hanging:
                self._run.stop(drain=False)
            if not at_work:
                LOG.warning("a stream's callback hasn't returned, and its thread is left behind")
                self._run.recorder.enter("stopped")
                return False
            at_work[0].join(LOOK_S)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(drain=error is None)

    @property
    def _own(self) -> list[threading.Thread]:
        return [*self._threads, *([self._puller] if self._puller else [])]


class _Run:
    """What the threads share. It doesn't know the handle, so that a forgotten one can be collected."""

    def __init__(
        self,
        examine: Examine,
        on_report: OnReport,
        on_error: OnError | None,
        frames: BoundedQueue[_Taken],
        recorder: StatsRecorder,
        *,
        keep_pixels: bool,
    ) -> None:
        self.recorder = recorder
        self._keep_pixels = keep_pixels
        self._examine, self._on_report, self._on_error = examine, on_report, on_error
        self._frames = frames
        self._reports: BoundedQueue[_Examined] = BoundedQueue(REPORTS)
        self._number = 0
        self._door = threading.Lock()  # the numbers of frames follow their order
        self._stopped, self._closed = threading.Event(), threading.Event()
        self._in_callbacks: dict[int, float] = {}  # threads, and since when

    def take(self, frame: Frame, *, may_wait: bool = True) -> None:
        """Puts a copy of `frame` into the line. Raises `Closed`, and `UsageError` where it had to wait and mustn't."""
        at = time.perf_counter()
        taken = _Taken(own(frame), at)
        if not self._door.acquire(blocking=may_wait):  # somebody waits for room behind it
            raise UsageError("a stream's callback can't wait for room in the stream: it would wait for itself")
        try:
            if frame.id is None:
                taken = taken._replace(frame=replace(taken.frame, id=self._number))
            self.recorder.count(taken=1)  # before the others can count it
            try:
                gone = self._frames.put(taken, may_wait=may_wait)
            except (Closed, UsageError):
                self.recorder.count(taken=-1)
                raise
            self._number += 1
        finally:
            self._door.release()
        if gone:
            self.recorder.count(dropped=len(gone))

    def stop(self, *, drain: bool) -> None:
        """Ends the lines, without waiting for the threads."""
        self._stopped.set()
        gone = len(self._frames.end(keep=drain))
        if not drain:
            gone += len(self._reports.end(keep=False))
        self.recorder.count(dropped=gone)

    def stop_forgotten(self, process: int) -> None:
        """The same for a handle that was collected. Does nothing in a forked child: the parent's threads may hold locks."""
        if os.getpid() == process:
            self.stop(drain=True)

    def pull(self, source: Iterator[Any]) -> None:
        """The first thread: from the source into the line."""
        errors = 0
        while errors < SOURCE_ERRORS and not self._stopped.is_set():
            try:
                self.take(as_frame(next(source)))
                errors = 0
            except (StopIteration, Closed):
                break
            except BaseException as error:  # noqa: BLE001 a source may raise whatever it likes, and go on
                errors += 1
                self._failed(StreamFailure("source", error))
                self._stopped.wait(0.005 * 2**errors)  # a source that is broken for good shan't keep a core busy
        if inspect.isgenerator(source):
            source.close()  # lets go of the camera
        self._frames.end()

    def examine_all(self) -> None:
        """The second thread: from the line to the reports."""
        while (taken := self._frames.get()) is not None:
            started = time.perf_counter()
            report = self._examined(taken.frame)
            if self._keep_pixels and isinstance(taken.frame.pixels, np.ndarray):
                report = replace(report, pixels=taken.frame.pixels)
            self.recorder.examined(1e3 * (time.perf_counter() - started), slow=self._reports.full)
            try:
                self._reports.put(_Examined(report, taken.at))
            except Closed:  # stopped meanwhile, by someone who doesn't want the rest
                self.recorder.count(dropped=1)
        self._reports.end()

    def tell_all(self, keep: object = None) -> None:
        """The third thread: from the reports to the consumer."""
        while (told := self._reports.get()) is not None:
            latency_ms = 1e3 * (time.perf_counter() - told.at)
            try:
                with self._calling_out():
                    self._on_report(told.report)
            except BaseException as error:  # noqa: BLE001 the consumer's mistake isn't the stream's
                self._failed(StreamFailure("on_report", error, told.report.id, told.report.metadata))
            self.recorder.told(latency_ms, refused=told.report.refusal is not None)
        self.recorder.enter("closed" if self._closed.is_set() else "stopped" if self._stopped.is_set() else "ended")

    def in_callbacks_since(self, began: float, patience_s: float) -> set[int]:
        """The threads that have been in a callback for longer than `patience_s`, counted from `began` at the earliest."""
        now = time.monotonic()
        return {thread for thread, since in list(self._in_callbacks.items()) if now - max(since, began) > patience_s}

    @contextmanager
    def _calling_out(self) -> Iterator[None]:
        self._in_callbacks[threading.get_ident()] = time.monotonic()
        try:
            yield
        finally:
            self._in_callbacks.pop(threading.get_ident(), None)

    def _examined(self, frame: Frame) -> FrameReport:
        if isinstance(frame.pixels, Refusal):
            return _refused(frame, frame.pixels)
        try:
            report = replace(self._examine(frame.pixels, metadata=frame.metadata), id=frame.id, metadata=frame.metadata)
        except ImageError as error:
            return _refused(frame, Refusal("not-8-bit-rgb", str(error)))
        except BaseException as error:  # noqa: BLE001 whatever it is, it costs this frame alone
            self._failed(StreamFailure("examine", error, frame.id, frame.metadata))
            if isinstance(error, DeviceLost):
                self.recorder.enter("device-lost")
            if isinstance(error, Closed):
                self._closed.set()
                self.recorder.count(dropped=len(self._frames.end(keep=False)))
            return _refused(frame, Refusal("failed", f"{type(error).__name__}: {error}"))
        self.recorder.enter("running")
        return report

    def _failed(self, failure: StreamFailure) -> None:
        self.recorder.fail(failure.error)
        if self._on_error is None:
            if failure.where != "examine":  # a frame that couldn't be examined shows in its report
                LOG.warning("a stream's %s failed: %s", failure.where, failure.error, exc_info=failure.error)
            return
        try:
            with self._calling_out():
                self._on_error(failure)
        except BaseException as error:  # noqa: BLE001 there is nobody left to tell
            self.recorder.fail(error)


def _refused(frame: Frame, refusal: Refusal) -> FrameReport:
    return FrameReport((), None, refusal=refusal, id=frame.id, metadata=frame.metadata)


def _iterator(frames: Iterable[Any]) -> Iterator[Any]:
    if isinstance(frames, str | bytes | os.PathLike) or getattr(frames, "ndim", 4) < 4:
        kind = "one frame" if hasattr(frames, "ndim") else "one path"  # its rows, or its letters, would be taken for frames
        raise UsageError(f"frames are given as {kind} where several are asked for: put a frame's array into a list")
    try:
        return iter(frames)
    except TypeError as error:
        raise UsageError(f"frames must be iterable, not '{type(frames).__name__}'; for put they are None") from error


def _thread(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    # a daemon: a stream that nobody stopped doesn't keep the process from ending
    return threading.Thread(target=target, args=args, name=f"blastscope-stream-{name}", daemon=True)
