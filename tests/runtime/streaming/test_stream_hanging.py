"""A consumer that hangs: the stream and its handle end all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fake_examiner import PATIENCE_S, balanced, look, pixels

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.session import open_bundle
from blastscope.runtime.streaming import stream as streams
from blastscope.runtime.streaming.frame_queue import StreamFailure
from blastscope.runtime.streaming.stream import Stream


class Hanging:
    """A callback that returns when the test is over."""

    def __init__(self) -> None:
        self.reached, self.release = threading.Event(), threading.Event()

    def __call__(self, _: object) -> None:
        self.reached.set()
        self.release.wait(PATIENCE_S)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    monkeypatch.setattr(streams, "CONSUMER_PATIENCE_S", 0.1)
    monkeypatch.setattr(streams, "HURRY_S", 0.05)
    callback = Hanging()
    yield callback
    callback.release.set()


@pytest.mark.parametrize("drain", [True, False])
def test_stop_leaves_a_consumer_that_hangs_behind(hanging: Hanging, drain: bool, caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(look, hanging, queue=4)
    for value in range(6):
        stream.put(pixels(value))
    assert hanging.reached.wait(PATIENCE_S)
    assert stream.stop(drain=drain) is False
    assert "a stream's callback hasn't returned" in caplog.text
    stats = stream.stats
    assert (stats.state, stats.reported, stats.waiting) == ("stopped", 0, 1)
    assert balanced(stats)
    assert stream.wait(PATIENCE_S)
    hanging.release.set()
    assert stream.stop() is True
    assert (stream.stats.reported, stream.stats.waiting) == (1, 0)


def test_a_listener_of_errors_that_hangs_is_left_behind_too(hanging: Hanging) -> None:
    def fail(_: object, *, metadata: object) -> FrameReport:
        raise OSError("a test")

    stream = Stream(fail, lambda _: None, on_error=hanging)
    stream.put(pixels(0))
    assert hanging.reached.wait(PATIENCE_S)
    assert stream.stop(drain=False) is False


def test_a_handle_closes_though_a_consumer_hangs(hanging: Hanging, tiny_bundle: Any, tmp_path: Any) -> None:
    with open_bundle(tiny_bundle.make(), cache_dir=tmp_path) as scope:
        stream = scope.stream(None, hanging)
        stream.put(pixels(200, side=40))
        assert hanging.reached.wait(PATIENCE_S)
    assert stream.stats.state == "stopped"


def test_a_consumer_that_is_slow_and_not_stuck_is_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CONSUMER_PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(streams, "LOOK_S", 0.001)
    told: list[int | str | None] = []

    def slow(report: FrameReport) -> None:
        threading.Event().wait(0.01)
        told.append(report.id)

    stream = Stream(look, slow, queue=4, when_full="block")
    for value in range(6):
        stream.put(pixels(value))
    assert stream.stop() is True
    assert told == list(range(6))


def test_a_callback_may_not_wait_for_room_in_its_own_stream() -> None:
    failures: list[StreamFailure] = []
    done = threading.Event()

    def feed(report: FrameReport) -> None:
        if report.id == 0:
            for value in range(9):
                stream.put(pixels(value))

    def hear(failure: StreamFailure) -> None:
        failures.append(failure)
        done.set()

    stream = Stream(look, feed, queue=1, when_full="block", on_error=hear)
    stream.put(pixels(0))
    assert done.wait(PATIENCE_S)
    assert stream.stop() is True
    (failure,) = failures
    assert isinstance(failure.error, UsageError)
    assert "it would wait for itself" in str(failure.error)
    assert balanced(stream.stats)
