"""What goes wrong in a stream without ending it, and what is told of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_examiner import PATIENCE_S, Eye, Reports, look, pixels
from numpy.typing import NDArray

from blastscope.runtime.errors import Closed, DeviceLost, ImageError, UsageError
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.streaming.frame_queue import Frame, StreamFailure
from blastscope.runtime.streaming.stream import Stream
from blastscope.runtime.types import Refusal


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
    from blastscope.runtime.streaming import stream as module

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
        ({"queue": 0}, "queue is 0: at least 1 is needed"),
        ({"queue": 1.5}, "queue is 1.5: it must be a whole number"),
        ({"on_error": 5}, "on_error is 5: it must be a function"),
        ({"when_full": "explode"}, "when_full 'explode' is not known: say drop-oldest or block"),
        ({"frames": np.zeros((9, 9, 3), np.uint8)}, "frames are given as one frame where several are asked for"),
        ({"frames": "slides"}, "frames are given as one path where several are asked for"),
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
