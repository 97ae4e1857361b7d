"""How a stream ends: by its source, by stop, from a callback, forgotten, and without a thread left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fake_examiner import PATIENCE_S, Eye, Reports, balanced, look, pixels, stream_threads
from numpy.typing import NDArray
from waiting import blocked, wait_until

from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.streaming.frame_queue import Frame, StreamFailure
from blastscope.runtime.streaming.stream import Stream


@pytest.fixture(autouse=True, scope="module")
def _no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(no_thread_is_left)


def no_thread_is_left() -> bool:
    gc.collect()
    return not stream_threads()


@pytest.mark.parametrize("drain", [True, False])
def test_stop_tells_what_waits_or_throws_it_away(drain: bool) -> None:
    eye, reports = Eye(held=True), Reports()
    stream = Stream(eye, reports, queue=4)
    for value in range(4):
        stream.put(pixels(value))
    eye.wait_for()
    stopper = threading.Thread(target=lambda: stream.stop(drain=drain))
    stopper.start()
    wait_until(lambda: drain or stream.stats.dropped)
    eye.let(4)
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    stats = stream.stats
    assert reports.ids == ([0, 1, 2, 3] if drain else [])
    assert (stats.state, stats.taken, stats.waiting) == ("stopped", 4, 0)
    assert balanced(stats)
    with pytest.raises(Closed, match="the stream has stopped"):
        stream.put(pixels(9))
    assert stream.stats.taken == 4
    stream.stop()
    stream.stop(drain=False)


def test_a_second_stop_cuts_the_draining_short() -> None:
    gate = threading.Event()

    def consume(report: FrameReport) -> None:
        assert gate.wait(PATIENCE_S)

    stream = Stream(look, consume, queue=4)
    for value in range(4):
        stream.put(pixels(value))
    first = threading.Thread(target=stream.stop)
    first.start()
    second = threading.Thread(target=lambda: stream.stop(drain=False))
    second.start()
    wait_until(lambda: stream.stats.dropped >= 2)
    gate.set()
    first.join(PATIENCE_S)
    second.join(PATIENCE_S)
    assert balanced(stream.stats)
    assert stream.stats.reported < 4


def test_stop_wakes_a_put_that_waits_for_room() -> None:
    eye, errors = Eye(held=True), list[Exception]()
    stream = Stream(eye, Reports(), queue=1, when_full="block")
    stream.put(pixels(0))
    eye.wait_for()
    stream.put(pixels(1))

    def put() -> None:
        try:
            stream.put(pixels(2))
        except Closed as error:
            errors.append(error)

    workers = [threading.Thread(target=put) for _ in range(3)]
    for worker in workers:
        worker.start()
    wait_until(lambda: any(map(blocked, workers)))  # the others wait for it
    eye.let(2)
    eye.held = False
    stream.stop(drain=False)
    for worker in workers:
        worker.join(PATIENCE_S)
    assert balanced(stream.stats)
    assert len(errors) + stream.stats.taken == 5


@pytest.mark.parametrize("where", ["on_report", "on_error", "source"])
def test_stop_may_be_called_from_a_callback(where: str) -> None:
    ready, stopped = threading.Event(), threading.Event()

    def stop() -> None:
        assert ready.wait(PATIENCE_S)
        stream.stop()
        stopped.set()

    def source() -> Iterator[Frame]:
        yield Frame(pixels(0), metadata={"raise": RuntimeError()} if where == "on_error" else {})
        if where == "source":
            stop()
        while True:
            yield Frame(pixels(1))

    stream = Stream(
        Eye(),
        lambda report: stop() if where == "on_report" else None,
        source(),
        when_full="block",
        on_error=lambda failure: stop() if where == "on_error" else None,
    )
    ready.set()
    assert stopped.wait(PATIENCE_S)
    assert stream.wait(PATIENCE_S)
    stream.stop()
    assert stream.stats.state == "stopped"
    assert balanced(stream.stats)


def test_a_callback_that_would_wait_for_itself_is_told() -> None:
    failures: list[StreamFailure] = []
    with Stream(look, lambda report: stream.wait(), on_error=failures.append) as stream:
        stream.put(pixels(1))
    assert isinstance(failures[0].error, UsageError)


def test_the_context_drains_and_after_an_error_discards() -> None:
    reports = Reports()
    with Stream(look, reports, queue=8) as stream:
        for _ in range(8):
            stream.put(pixels(1))
    assert len(reports) == 8
    eye = Eye(held=True)

    def fail() -> None:
        with Stream(eye, Reports()) as failing:
            for _ in range(4):
                failing.put(pixels(1))
            eye.wait_for()
            eye.let()
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert len(eye.seen) == 1


def test_a_generator_is_closed_when_the_stream_stops() -> None:
    closed = threading.Event()

    def camera() -> Iterator[NDArray[np.uint8]]:
        try:
            while True:
                yield pixels(1)
        finally:
            closed.set()

    with Stream(look, Reports(), camera()):
        pass
    assert closed.wait(PATIENCE_S)


def test_a_source_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from blastscope.runtime.streaming import stream as module

    monkeypatch.setattr(module, "SOURCE_PATIENCE_S", 0.05)
    free = threading.Event()

    def camera() -> Iterator[NDArray[np.uint8]]:
        yield pixels(1)
        assert free.wait(PATIENCE_S)
        yield pixels(2)

    reports = Reports()
    stream = Stream(look, reports, camera(), when_full="block")
    wait_until(lambda: reports)
    started = time.monotonic()
    stream.stop()
    assert time.monotonic() - started < 3.0
    assert stream.stats.state == "stopped"
    free.set()
    assert reports.ids == [0]


def test_a_forgotten_stream_ends_by_itself_and_tells_what_waits() -> None:
    reports = Reports()
    stream = Stream(look, reports, queue=4)
    stream.put(pixels(1))
    del stream
    wait_until(no_thread_is_left)
    assert reports.ids == [0]


def test_a_source_keeps_its_stream_alive() -> None:
    done = threading.Event()

    def consume(report: FrameReport) -> None:
        if report.id == 29:
            done.set()

    Stream(look, consume, (pixels(1) for _ in range(30)), when_full="block")
    gc.collect()
    assert done.wait(PATIENCE_S)


def test_a_stream_that_nobody_stopped_lets_the_process_end() -> None:
    code = """
import itertools, numpy, threading
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.streaming import Stream
look = lambda frame, metadata: FrameReport((), None)
runs = threading.Event()
pulled = Stream(look, lambda report: runs.set(), itertools.repeat(numpy.zeros((8, 8, 3), numpy.uint8)))
pushed = Stream(look, lambda report: None)
pushed.put(numpy.zeros((8, 8, 3), numpy.uint8))
assert runs.wait(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_spins_while_nothing_comes() -> None:
    with Stream(look, Reports(), when_full="block"):
        threads = [thread for thread in threading.enumerate() if thread.name in stream_threads()]
        wait_until(lambda: all(map(blocked, threads)))
        before = time.process_time()
        time.sleep(0.3)  # what is measured
        assert time.process_time() - before < 0.15
