"""The stream: order, bounds, what is dropped, what goes wrong without ending it, and a clean end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.errors import Closed, DeviceLost, ImageError, UsageError
from blastscope.runtime.frames.report import FrameReport
from blastscope.runtime.prediction import Refusal
from blastscope.runtime.stream import Frame, Stream, StreamFailure, StreamStats
from blastscope.runtime.stream.line import Line

PATIENCE_S = 30.0


def pixels(value: int, side: int = 4) -> NDArray[np.uint8]:
    return np.full((side, side, 3), value, np.uint8)


def look(frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
    """A report whose metadata is to be replaced by the frame's."""
    return FrameReport((), None, metadata={"mean": int(frame.mean())})


class Eye:
    """Examines when it is let, and remembers what it saw."""

    def __init__(self, *, held: bool = False) -> None:
        self.seen: list[int] = []
        self.began = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.held = held

    def __call__(self, frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
        self.began.release()
        if self.held:
            assert self.gate.acquire(timeout=PATIENCE_S)
        value = int(frame[0, 0, 0])
        if "raise" in metadata:
            raise metadata["raise"]
        self.seen.append(value)
        return FrameReport((), None)

    def let(self, count: int = 1) -> None:
        self.gate.release(count)

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.began.acquire(timeout=PATIENCE_S)


class Reports(list[FrameReport]):
    """A consumer."""

    def __call__(self, report: FrameReport) -> None:
        self.append(report)

    @property
    def ids(self) -> list[int | str | None]:
        return [report.id for report in self]


def stream_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("blastscope-stream")}


@pytest.fixture(autouse=True, scope="module")
def _no_thread_is_left() -> Iterator[None]:
    yield
    limit = time.monotonic() + PATIENCE_S
    while stream_threads() and time.monotonic() < limit:
        gc.collect()
        time.sleep(0.01)
    assert stream_threads() == set()


def balanced(stats: StreamStats) -> bool:
    return stats.taken == stats.reported + stats.dropped + stats.waiting


# ---- order, ids, metadata


def test_every_frame_of_a_source_is_reported_in_order_when_it_blocks() -> None:
    reports = Reports()
    with Stream(look, reports, (pixels(value) for value in range(50)), when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert reports.ids == list(range(50))
    assert (stream.stats.state, stream.stats.reported, stream.stats.dropped) == ("ended", 50, 0)


def test_ids_and_metadata_come_back_with_the_report() -> None:
    frames = [pixels(1), (pixels(2), {"z": 2}), Frame(pixels(3), "third", {"z": 3}), Frame(pixels(4))]
    reports = Reports()
    with Stream(look, reports, frames, when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert [(report.id, dict(report.metadata)) for report in reports] == [(0, {}), (1, {"z": 2}), ("third", {"z": 3}), (3, {})]


def test_what_is_put_carries_its_id_and_metadata() -> None:
    reports = Reports()
    with Stream(look, reports) as stream:
        stream.put(pixels(1), id="a", metadata={"exposure": 10})
        stream.put(Frame(pixels(2), "b", {"exposure": 20}))
        stream.put(Frame(pixels(2), "b"), id="c", metadata={"exposure": 30})
        assert stream.wait(PATIENCE_S)
    assert [(report.id, report.metadata["exposure"]) for report in reports] == [("a", 10), ("b", 20), ("c", 30)]


def test_many_threads_put_and_numbers_follow_the_order() -> None:
    reports = Reports()

    def put_many() -> None:
        for _ in range(25):
            stream.put(pixels(1))

    with Stream(look, reports, when_full="block", queue=2) as stream:
        workers = [threading.Thread(target=put_many) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert reports.ids == list(range(100))


# ---- bounds and drops


@given(limit=st.integers(1, 5), steps=st.lists(st.booleans(), max_size=60))
def test_a_line_that_drops_is_a_bounded_deque(limit: int, steps: list[bool]) -> None:
    line: Line[int] = Line(limit, drops_oldest=True)
    model: list[int] = []
    for number, puts in enumerate(steps):
        if puts:
            model.append(number)
            assert line.put(number) == [model.pop(0) for _ in range(len(model) - limit)]
        elif model:
            assert line.get() == model.pop(0)
        assert line.full == (len(model) == limit)
    assert line.end(keep=False) == model
    assert line.get() is None


@given(
    values=st.lists(st.sampled_from(["good", "bad array", "breaks off", "consumer"]), max_size=25),
    queue=st.integers(1, 4),
    when_full=st.sampled_from(["block", "drop-oldest"]),
)
@settings(max_examples=40)
def test_whatever_comes_each_frame_is_reported_or_dropped_in_order(values: list[str], queue: int, when_full: str) -> None:
    ids: list[Any] = []

    def consume(report: FrameReport) -> None:
        ids.append(report.id)
        if report.metadata.get("consumer"):
            raise ValueError

    frames = {
        "good": Frame(pixels(1)),
        "bad array": Frame([1]),
        "breaks off": Frame(pixels(1), metadata={"raise": ValueError()}),
        "consumer": Frame(pixels(1), metadata={"consumer": True}),
    }
    source = [frames[value] for value in values]
    with Stream(Eye(), consume, source, queue=queue, when_full=when_full, on_error=lambda failure: None) as stream:
        assert stream.wait(PATIENCE_S)
    stats = stream.stats
    assert ids == sorted(set(ids))
    assert (stats.taken, stats.waiting, stats.state) == (len(values), 0, "ended")
    assert stats.reported == len(ids) == len(values) - stats.dropped
    if when_full == "block":
        assert stats.dropped == 0
        assert stats.refused == values.count("bad array") + values.count("breaks off")
        assert stats.failed == values.count("breaks off") + values.count("consumer")


def test_the_oldest_waiting_frame_gives_way_and_is_counted() -> None:
    eye, reports = Eye(held=True), Reports()
    with Stream(eye, reports, queue=2) as stream:
        stream.put(pixels(0))
        eye.wait_for()  # 0 is being examined
        for value in range(1, 6):
            stream.put(pixels(value))
        assert stream.stats.dropped == 3
        assert stream.stats.waiting == 3
        eye.let(3)
    assert eye.seen == [0, 4, 5]
    assert reports.ids == [0, 4, 5]
    assert (stream.stats.taken, stream.stats.reported, stream.stats.dropped) == (6, 3, 3)


def test_put_returns_at_once_while_networks_and_consumer_hang() -> None:
    eye = Eye(held=True)
    frame = pixels(1, 64)
    with Stream(eye, Reports(), queue=4) as stream:
        started = time.perf_counter()
        for _ in range(2000):
            stream.put(frame)
        assert time.perf_counter() - started < 5.0  # some 20 ms on a quiet machine; waiting for the eye would last for ever
        assert stream.stats.waiting <= 5
        assert balanced(stream.stats)
        eye.held = False
        eye.let()


def test_a_blocking_put_waits_for_room() -> None:
    eye, done = Eye(held=True), threading.Event()
    with Stream(eye, Reports(), queue=1, when_full="block") as stream:
        stream.put(pixels(0))
        eye.wait_for()
        stream.put(pixels(1))

        def put() -> None:
            stream.put(pixels(2))
            done.set()

        worker = threading.Thread(target=put)
        worker.start()
        assert not done.wait(0.05)
        eye.let(3)
        assert done.wait(PATIENCE_S)
        worker.join()
    assert (eye.seen, stream.stats.dropped) == ([0, 1, 2], 0)


def test_a_slow_consumer_shows_and_memory_stays_bounded() -> None:
    gate, alive = threading.Semaphore(0), []

    def examine(frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
        report = FrameReport((), None)
        alive.append(weakref.ref(frame))
        return report

    def consume(report: FrameReport) -> None:
        assert gate.acquire(timeout=PATIENCE_S)

    with Stream(examine, consume, queue=3) as stream:
        for _ in range(200):
            stream.put(pixels(1))
            time.sleep(0.0005)
        limit = time.monotonic() + PATIENCE_S
        while not stream.stats.slow_consumer and time.monotonic() < limit:
            time.sleep(0.01)
        stats = stream.stats
        assert stats.slow_consumer
        assert stats.waiting <= stats.queue + 4
        assert stats.reported == 0
        assert len(alive) <= 4  # examined: one with the consumer, two that wait for it, one that waits for room
        assert balanced(stats)
        gate.release(200)
    assert balanced(stream.stats)
    assert stream.stats.waiting == 0


def test_a_source_is_read_no_further_than_there_is_room() -> None:
    eye, read = Eye(held=True), []

    def source() -> Iterator[NDArray[np.uint8]]:
        for value in range(100):
            read.append(value)
            yield pixels(value)

    with Stream(eye, Reports(), source(), queue=2, when_full="block") as stream:
        eye.wait_for()
        time.sleep(0.05)
        assert len(read) <= 4  # one examined, two waiting, one in hand
        eye.held = False
        eye.let()
        assert stream.wait(PATIENCE_S)
    assert eye.seen == list(range(100))


def test_the_buffer_is_the_callers_again_when_put_returns() -> None:
    eye, buffer = Eye(held=True), pixels(0)
    with Stream(eye, Reports()) as stream:
        for value in range(4):
            buffer[:] = value
            stream.put(buffer[::2, ::-1])
        buffer[:] = 99
        eye.let(4)
    assert eye.seen == [0, 1, 2, 3]


def test_frames_of_many_sizes_keep_their_own_pixels_while_others_are_dropped() -> None:
    eye, sums = Eye(held=True), dict[int, int]()
    shapes = [(4, 5), (5, 4), (4, 5), (3, 3), (4, 5), (5, 4), (4, 5), (4, 5)]
    seen: dict[Any, int] = {}

    def examine(frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
        seen[metadata["number"]] = int(frame.sum())
        return eye(frame, metadata={})

    with Stream(examine, Reports(), queue=2) as stream:
        for number in range(40):
            shape = shapes[number % len(shapes)]
            frame = np.random.default_rng(number).integers(0, 256, (*shape, 3), np.uint8)
            sums[number] = int(frame.sum())
            stream.put(frame, metadata={"number": number})
            frame[:] = 0
            if number % 9 == 0:
                eye.let()
                eye.wait_for()
        eye.held = False
        eye.let(5)
    assert stream.stats.dropped > 20
    assert len(seen) >= 5
    assert seen == {number: sums[number] for number in seen}


def test_a_source_may_use_its_buffer_again() -> None:
    buffer, eye = pixels(0), Eye()

    def camera() -> Iterator[NDArray[np.uint8]]:
        for value in range(20):
            buffer[:] = value
            yield buffer

    with Stream(eye, Reports(), camera(), when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert eye.seen == list(range(20))


def test_latency_and_pace_are_told() -> None:
    with Stream(look, Reports(), [pixels(1)] * 9, when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
        stats = stream.stats
    assert stats.latency_p50_ms is not None
    assert stats.latency_max_ms is not None
    assert stats.examine_p50_ms is not None
    assert 0 < stats.latency_p50_ms <= stats.latency_max_ms
    assert stats.queue == 4
    empty = Stream(look, Reports())
    assert (empty.stats.latency_p50_ms, empty.stats.last_error) == (None, None)
    empty.stop()


# ---- what goes wrong


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), [[1, 2], [3, 4]], None, "frame.png"], ids=str)
def test_what_is_no_frame_is_refused_and_the_stream_goes_on(bad: Any) -> None:
    reports = Reports()
    with Stream(look, reports, [pixels(1), bad, pixels(2)], when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert [report.refusal.code if report.refusal else None for report in reports] == [None, "not-8-bit-rgb", None]
    assert (stream.stats.refused, stream.stats.failed) == (1, 0)


def test_a_source_may_say_why_there_are_no_pixels() -> None:
    reports, refusal = Reports(), Refusal("undecodable", "cut off")
    with Stream(look, reports, [Frame(refusal, "a.png"), pixels(1)], when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert [(report.id, report.refusal) for report in reports] == [("a.png", refusal), (1, None)]


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError("x"), KeyboardInterrupt("x"), SystemExit("x")], ids=repr)
def test_an_exception_in_one_frame_is_reported_and_the_stream_goes_on(error: BaseException) -> None:
    reports, failures = Reports(), list[StreamFailure]()
    frames = [Frame(pixels(1)), Frame(pixels(2), "two", {"raise": error}), Frame(pixels(3))]
    with Stream(Eye(), reports, frames, when_full="block", on_error=failures.append) as stream:
        assert stream.wait(PATIENCE_S)
    assert [report.refusal.code if report.refusal else None for report in reports] == [None, "failed", None]
    assert reports[1].refusal is not None
    assert reports[1].refusal.detail == f"{type(error).__name__}: x"
    assert [(failure.where, failure.error, failure.id, failure.metadata["raise"]) for failure in failures] == [
        ("examine", error, "two", error)
    ]
    assert (stream.stats.failed, stream.stats.last_error) == (1, f"{type(error).__name__}: x")


def test_an_examination_that_gives_no_report_costs_its_frame_alone() -> None:
    reports = Reports()
    with Stream(lambda frame, metadata: None, reports, [pixels(1)] * 2, when_full="block") as stream:  # type: ignore[arg-type]
        assert stream.wait(PATIENCE_S)
    assert [report.refusal.code for report in reports if report.refusal] == ["failed"] * 2


def test_an_image_error_of_the_examination_is_a_refusal() -> None:
    reports = Reports()
    with Stream(Eye(), reports, [Frame(pixels(1), metadata={"raise": ImageError("too thin")})], when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert [report.refusal for report in reports] == [Refusal("not-8-bit-rgb", "too thin")]


def test_a_consumer_that_raises_is_told_and_gets_the_next_report(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[StreamFailure] = []
    seen: list[Any] = []

    def consume(report: FrameReport) -> None:
        seen.append(report.id)
        if report.id == 1:
            raise ValueError("no room on the disk")

    for on_error in (failures.append, None):
        seen.clear()
        with Stream(look, consume, [pixels(1)] * 3, when_full="block", on_error=on_error) as stream:
            assert stream.wait(PATIENCE_S)
        assert seen == [0, 1, 2]
        assert (stream.stats.reported, stream.stats.failed) == (3, 1)
    assert [(failure.where, failure.id) for failure in failures] == [("on_report", 1)]
    assert [record.getMessage() for record in caplog.records] == ["a stream's on_report failed: no room on the disk"]


def test_even_an_on_error_that_raises_ends_nothing() -> None:
    def on_error(failure: StreamFailure) -> None:
        raise LookupError("worse")

    reports = Reports()
    frames = [Frame(pixels(1), metadata={"raise": RuntimeError("bad")}), pixels(2)]
    with Stream(Eye(), reports, frames, when_full="block", on_error=on_error) as stream:
        assert stream.wait(PATIENCE_S)
    assert reports.ids == [0, 1]
    assert (stream.stats.failed, stream.stats.last_error) == (2, "LookupError: worse")


class Camera:
    """A source that raises now and then."""

    def __init__(self, *values: int | None) -> None:
        self.values = iter(values)

    def __iter__(self) -> Camera:
        return self

    def __next__(self) -> NDArray[np.uint8]:
        value = next(self.values)
        if value is None:
            raise OSError("cable")
        return pixels(value)


def test_a_source_that_raises_is_asked_again() -> None:
    eye, failures = Eye(), list[StreamFailure]()
    with Stream(eye, Reports(), Camera(1, None, 2, None, None, 3), when_full="block", on_error=failures.append) as stream:
        assert stream.wait(PATIENCE_S)
    assert eye.seen == [1, 2, 3]
    assert [failure.where for failure in failures] == ["source"] * 3
    assert (stream.stats.state, stream.stats.failed) == ("ended", 3)


def test_a_source_that_only_raises_counts_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from blastscope.runtime.stream import stream as module

    monkeypatch.setattr(module, "SOURCE_ERRORS", 4)
    failures: list[StreamFailure] = []
    with Stream(look, Reports(), Camera(1, *[None] * 1000), when_full="block", on_error=failures.append) as stream:
        assert stream.wait(PATIENCE_S)
    assert (stream.stats.state, stream.stats.reported, len(failures)) == ("ended", 1, 4)
    assert stream.stats.last_error == "OSError: cable"


def test_a_generator_that_breaks_off_ends_the_stream_with_its_error_told() -> None:
    def source() -> Iterator[NDArray[np.uint8]]:
        yield pixels(1)
        raise OSError("unplugged")

    reports, failures = Reports(), list[StreamFailure]()
    with Stream(look, reports, source(), when_full="block", on_error=failures.append) as stream:
        assert stream.wait(PATIENCE_S)
    assert (reports.ids, [str(failure.error) for failure in failures]) == ([0], ["unplugged"])


def test_a_lost_device_is_a_state_until_a_frame_succeeds_again() -> None:
    reports, states = Reports(), []

    def consume(report: FrameReport) -> None:
        reports(report)
        states.append(stream.stats.state)
        turn.release()

    turn = threading.Semaphore(0)
    with Stream(Eye(), consume, when_full="block") as stream:
        for error in (None, DeviceLost("inference"), DeviceLost("inference"), None):
            stream.put(pixels(1), metadata={"raise": error} if error else {})
            assert turn.acquire(timeout=PATIENCE_S)
    assert states == ["running", "device-lost", "device-lost", "running"]
    assert reports[1].refusal is not None
    assert "reopen" in reports[1].refusal.detail


def test_a_closed_handle_closes_the_stream() -> None:
    reports, failures = Reports(), list[StreamFailure]()
    eye = Eye(held=True)
    stream = Stream(eye, reports, when_full="block", on_error=failures.append)
    stream.put(pixels(0), metadata={"raise": Closed()})
    eye.wait_for()
    stream.put(pixels(1))
    eye.let()
    assert stream.wait(PATIENCE_S)
    with pytest.raises(Closed):
        stream.put(pixels(2))
    stats = stream.stats
    assert (stats.state, stats.taken, stats.reported, stats.dropped) == ("closed", 2, 1, 1)
    assert isinstance(failures[0].error, Closed)
    stream.stop()
    assert stream.stats.state == "closed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"queue": 0}, "queue is 0: at least 1 frame must find room"),
        ({"when_full": "explode"}, "when_full 'explode' is not known: say drop-oldest or block"),
        ({"frames": 7}, "frames must be iterable, not 'int'; for put they are None"),
    ],
)
def test_wrong_arguments_are_named(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("'", ".")):
        Stream(look, Reports(), **words)


def test_a_stream_with_a_source_takes_no_other_frames() -> None:
    with Stream(look, Reports(), iter([])) as stream, pytest.raises(UsageError, match="takes its frames from its source"):
        stream.put(pixels(1))


def test_a_forked_child_is_told_to_open_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stream(look, Reports()) as stream:
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: -1)
            with pytest.raises(UsageError, match="doesn't survive a fork"):
                stream.put(pixels(1))
        stream.put(pixels(1))


# ---- the end


@pytest.mark.parametrize("drain", [True, False])
def test_stop_tells_what_waits_or_throws_it_away(drain: bool) -> None:
    eye, reports = Eye(held=True), Reports()
    stream = Stream(eye, reports, queue=4)
    for value in range(4):
        stream.put(pixels(value))
    eye.wait_for()
    stopper = threading.Thread(target=lambda: stream.stop(drain=drain))
    stopper.start()
    while drain is False and not stream.stats.dropped:
        time.sleep(0.001)
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
    while stream.stats.dropped < 2:
        time.sleep(0.001)
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
    time.sleep(0.02)
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
    from blastscope.runtime.stream import stream as module

    monkeypatch.setattr(module, "SOURCE_PATIENCE_S", 0.05)
    free = threading.Event()

    def camera() -> Iterator[NDArray[np.uint8]]:
        yield pixels(1)
        assert free.wait(PATIENCE_S)
        yield pixels(2)

    reports = Reports()
    stream = Stream(look, reports, camera(), when_full="block")
    while not reports:
        time.sleep(0.001)
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
    limit = time.monotonic() + PATIENCE_S
    while stream_threads() and time.monotonic() < limit:
        gc.collect()
        time.sleep(0.01)
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
import itertools, numpy, time
from blastscope.runtime.frames.report import FrameReport
from blastscope.runtime.stream import Stream
look = lambda frame, metadata: FrameReport((), None)
pulled = Stream(look, lambda report: None, itertools.repeat(numpy.zeros((8, 8, 3), numpy.uint8)))
pushed = Stream(look, lambda report: None)
pushed.put(numpy.zeros((8, 8, 3), numpy.uint8))
time.sleep(0.1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_spins_while_nothing_comes() -> None:
    with Stream(look, Reports(), when_full="block"):
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.15


def test_a_few_hundred_frames_leave_threads_and_counts_in_order() -> None:
    """The small sister of tests/check_soak.py."""
    errors = iter(range(10**6))

    def examine(frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
        if next(errors) % 7 == 3:
            raise RuntimeError("now and then")
        return FrameReport((), None)

    ids: list[int] = []

    def consume(report: FrameReport) -> None:
        assert isinstance(report.id, int)
        ids.append(report.id)
        if report.id % 50 == 0:
            time.sleep(0.005)
        if report.id % 31 == 0:
            raise ValueError("disk full")

    before = threading.active_count()
    with Stream(examine, consume, on_error=lambda failure: None) as stream:
        for value in range(600):
            stream.put(pixels(value % 251) if value % 11 else np.zeros(3))
        assert threading.active_count() == before + 2
    stats = stream.stats
    assert stats.taken == 600
    assert stats.waiting == 0
    assert ids == sorted(set(ids))
    assert len(ids) == stats.reported == 600 - stats.dropped
    assert stats.failed >= stats.reported // 31
