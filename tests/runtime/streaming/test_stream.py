"""The stream: order, ids, bounds, what is dropped, and what it tells of itself."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from fake_examiner import PATIENCE_S, Eye, Reports, balanced, look, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from waiting import wait_until

from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.streaming.frame_queue import BoundedQueue, Frame
from blastscope.runtime.streaming.stream import Stream


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


@pytest.mark.parametrize("keep", [True, False])
def test_a_report_has_its_frame_where_that_is_asked(keep: bool) -> None:
    reports, buffer = Reports(), pixels(1)
    with Stream(look, reports, keep_pixels=keep) as stream:
        stream.put(buffer)
        buffer[:] = 7  # the camera's next picture
        stream.put(buffer)
        stream.put(buffer[..., 0])
        assert stream.wait(PATIENCE_S)
    kept = [report.pixels for report in reports]
    assert [None if one is None else int(one.max()) for one in kept] == ([1, 7, None] if keep else [None] * 3)


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


@given(limit=st.integers(1, 5), steps=st.lists(st.booleans(), max_size=60))
def test_a_line_that_drops_is_a_bounded_deque(limit: int, steps: list[bool]) -> None:
    line: BoundedQueue[int] = BoundedQueue(limit, drops_oldest=True)
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

        def presses() -> bool:
            stream.put(pixels(1))
            return stream.stats.slow_consumer

        wait_until(presses)
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
        for examined in range(5):
            eye.wait_for()
            wait_until(lambda count=4 + examined: len(read) >= count)  # type: ignore[misc]
            assert len(read) == 4 + examined  # one examined, two waiting, one in hand
            eye.let()
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
