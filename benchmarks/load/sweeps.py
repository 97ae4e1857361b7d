"""Sweeps over concurrency and request rate, each level measured until it is stable, as Triton's perf_analyzer does it.

A level is measured window by window. It is stable when in each of the last three windows both the rate and the 95th percentile
of the latency lie within a tenth of their mean over the three; their figures are then given. After ten windows it is given up,
and the row says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.interleaved_timing import Image
from blastscope.runtime.session import Scope
from blastscope.runtime.types import Prediction

STABLE_WINDOWS, MOST_WINDOWS = 3, 10
STABILITY = 0.1  # by which a window may differ from the mean of three
Latencies = NDArray[np.float64]  # (n,) milliseconds


class SweepLevel(NamedTuple):
    """One level of a sweep.

    Attributes
    ----------
    latencies_ms : float64 array
        Of the last three windows.
    cells_per_s : float
        Throughput of the same windows.
    stable : bool
        Whether rate and latency were stable.
    windows : int
        How many there were.
    """

    latencies_ms: Latencies
    cells_per_s: float
    stable: bool
    windows: int


class Window(NamedTuple):
    """What was answered in one window.

    Attributes
    ----------
    latencies_ms : float64 array
        One for each query.
    seconds : float
        How long it was.
    """

    latencies_ms: Latencies
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def p95_ms(self) -> float:
        """The 95th percentile of the latency; infinite where nothing was answered."""
        return float(np.percentile(self.latencies_ms, 95)) if len(self.latencies_ms) else float("inf")


def is_stable(windows: Sequence[Window]) -> bool:
    """Whether the last three windows agree on rate and latency."""
    last = windows[-STABLE_WINDOWS:]
    if len(last) < STABLE_WINDOWS:
        return False
    for values in (np.array([one.rate for one in last]), np.array([one.p95_ms for one in last])):
        if not np.isfinite(values).all() or (np.abs(values - values.mean()) > STABILITY * values.mean()).any():
            return False
    return True


def measure_until_stable(next_window: Callable[[], Window]) -> SweepLevel:
    """Takes windows until three agree, at most ten."""
    windows: list[Window] = []
    while not is_stable(windows) and len(windows) < MOST_WINDOWS:
        windows.append(next_window())
    last = windows[-STABLE_WINDOWS:]
    latencies = np.concatenate([one.latencies_ms for one in last])
    seconds = sum(one.seconds for one in last)
    return SweepLevel(latencies, len(latencies) / seconds, is_stable(windows), len(windows))


def sweep_concurrency(scope: Scope, images: Sequence[Image], callers: int, window_s: float) -> SweepLevel:
    """Closed-loop load: `callers` threads, each of which sends the next cell when its last one is answered.

    Parameters
    ----------
    scope
        The handle.
    images
        Cells, sent in turn.
    callers
        How many at once.
    window_s
        Seconds of a window.

    Returns
    -------
    SweepLevel
    """
    log, stop = _AnswerLog(), threading.Event()

    def call(first: int) -> None:
        number = first
        while not stop.is_set():
            start = time.perf_counter()
            try:
                scope.classify(images[number % len(images)])
            except BaseException as error:  # noqa: BLE001  raised again by the thread that measures
                log.fail(error)
                return
            log.add(1e3 * (time.perf_counter() - start))
            number += callers

    threads = [threading.Thread(target=call, args=(first,), daemon=True) for first in range(callers)]
    for thread in threads:
        thread.start()
    try:
        return measure_until_stable(lambda: log.window(window_s))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def sweep_request_rate(scope: Scope, images: Sequence[Image], rate: float, window_s: float) -> SweepLevel:
    """Cells that come at random (Poisson), `rate` a second on average, whether or not earlier ones are answered.

    A latency counts from the moment a cell was due, so that waiting for a place in the handle's queue counts, too.

    Parameters
    ----------
    scope
        The handle.
    images
        Cells, sent in turn.
    rate
        Requests a second.
    window_s
        Seconds of a window.

    Returns
    -------
    SweepLevel
    """
    log, stop = _AnswerLog(), threading.Event()
    rng = np.random.default_rng(0)

    def send() -> None:
        due, number = time.perf_counter(), 0
        while True:
            due += rng.exponential(1 / rate)
            if stop.wait(max(due - time.perf_counter(), 0)):
                return
            try:
                future = scope.submit(images[number % len(images)])
            except BaseException as error:  # noqa: BLE001  raised again by the thread that measures
                log.fail(error)
                return
            future.add_done_callback(partial(_answered, log, due))
            number += 1

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        return measure_until_stable(lambda: log.window(window_s))
    finally:
        stop.set()
        sender.join()


def _answered(log: _AnswerLog, due: float, done: Future[Prediction]) -> None:
    error = done.exception()
    if error is not None:
        log.fail(error)
    else:
        log.add(1e3 * (time.perf_counter() - due))


class _AnswerLog:
    """Latencies that threads report, taken out window by window."""

    def __init__(self) -> None:
        self._lock, self._failed = threading.Lock(), threading.Event()
        self._latencies: list[float] = []
        self._error: BaseException | None = None

    def add(self, latency_ms: float) -> None:
        """One answer."""
        with self._lock:
            self._latencies.append(latency_ms)

    def fail(self, error: BaseException) -> None:
        """An answer that didn't come; `window` raises it."""
        self._error = self._error or error
        self._failed.set()

    def window(self, seconds: float) -> Window:
        """What is answered in the next `seconds`."""
        with self._lock:
            self._latencies = []
        start = time.perf_counter()
        self._failed.wait(seconds)
        if self._error is not None:
            raise self._error
        with self._lock:
            found, self._latencies = self._latencies, []
        return Window(np.array(found, np.float64), time.perf_counter() - start)
