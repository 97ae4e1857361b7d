"""Streams of a handle: real examinations, several at once, over a reopening, and until the handle is closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import Scope, open_bundle
from blastscope.runtime.types import Refusal

PATIENCE_S = 60.0


def plain(value: int = 220) -> NDArray[np.uint8]:
    return np.full((48, 64, 3), value, np.uint8)


@pytest.fixture
def scope(tiny_bundle: Any, tmp_path: Path) -> Iterator[Scope]:
    opened = open_bundle(
        tiny_bundle.make(), device="cpu", precision="fp32", backend="onnxruntime", cache_dir=tmp_path / "cache"
    )
    with opened:
        yield opened


def test_a_files_scale_holds_where_no_red_cell_differs(scope: Scope) -> None:
    reports: list[FrameReport] = []
    with scope.stream([(plain(), {"stated_um": 0.12})], reports.append, when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert [(report.pixel_um, report.parameters and report.parameters.scale_source) for report in reports] == [(0.12, "given")]


def test_a_stream_reports_what_examine_reports(scope: Scope, shared_data: Path) -> None:
    if not (shared_data / "bccd").is_dir():
        pytest.skip("no real frames are at hand: no bccd/ beside cnmc/")
    paths = [shared_data / "bccd" / "JPEGImages" / f"BloodImage_000{number}.jpg" for number in ("00", "14")]
    frames = [frame for path in paths if not isinstance(frame := read_image(path), Refusal)]
    reports: list[FrameReport] = []
    with scope.stream(frames, reports.append, queue=2, when_full="block", pixel_um=0.08) as stream:
        assert stream.wait(PATIENCE_S)
    expected = [scope.examine(frame, pixel_um=0.08) for frame in frames]
    assert [report.row() for report in reports] == [report.row() for report in expected]
    assert sum(report.counts["cells"] for report in reports) >= 2
    assert all(report.parameters and report.parameters.scale_source == "given" for report in reports)


def test_a_frame_may_bring_its_own_scale_which_counts_last(scope: Scope) -> None:
    told: list[float | None] = []

    def consume(report: FrameReport) -> None:
        assert report.parameters
        assert report.parameters.scale_source == "given"
        told.append(report.parameters.pixel_um)

    for words in ({}, {"spec": FrameSpecification(pixel_um=0.2)}, {"spec": FrameSpecification(pixel_um=0.2), "pixel_um": 0.3}):
        with scope.stream([(plain(), {"pixel_um": 0.1})], consume, when_full="block", **words) as stream:  # type: ignore[arg-type]
            assert stream.wait(PATIENCE_S)
        assert stream.stats.failed == 0
    assert told == [0.1, 0.2, 0.3]


def test_a_scale_in_words_must_be_a_number_or_costs_its_frame(scope: Scope) -> None:
    reports: list[FrameReport] = []
    with scope.stream(None, reports.append, when_full="block") as stream:
        for text in ("0.1", "wide"):
            stream.put(plain(), metadata={"pixel_um": text})
    assert [report.pixel_um for report in reports] == [0.1, None]
    assert reports[1].refusal
    assert "says that pixel_um is 'wide'" in reports[1].refusal.detail


def test_what_is_no_frame_is_refused_in_its_turn(scope: Scope) -> None:
    reports: list[FrameReport] = []
    frames = [plain(), np.zeros((4, 4), np.uint8), np.zeros((0, 0, 3), np.uint8), plain()]
    with scope.stream(frames, reports.append, when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert [report.refusal.code if report.refusal else None for report in reports] == [None, "not-8-bit-rgb", "empty", None]


def test_several_streams_share_a_handle(scope: Scope) -> None:
    reports: list[list[FrameReport]] = [[], [], []]
    streams = [scope.stream(None, told.append, 4, "block") for told in reports]
    for number in range(6):
        for stream in streams:
            stream.put(plain(), id=number)
    for stream in streams:
        stream.stop()
    assert [[report.id for report in told] for told in reports] == [list(range(6))] * 3


def test_a_closed_handle_streams_no_more_and_tells_what_waited(scope: Scope) -> None:
    reports: list[FrameReport] = []
    stream = scope.stream(None, reports.append, when_full="block")
    for _ in range(4):
        stream.put(plain())
    scope.close()
    assert [report.refusal for report in reports] == [None] * 4
    assert stream.stats.state == "stopped"
    with pytest.raises(Closed):
        stream.put(plain())
    with pytest.raises(Closed):
        scope.stream(None, reports.append)


def test_a_handle_closed_in_a_callback_ends_the_stream(scope: Scope) -> None:
    with scope.stream((plain() for _ in range(10**6)), lambda report: scope.close(), when_full="block") as stream:
        assert stream.wait(PATIENCE_S)
    assert stream.stats.state in ("closed", "stopped")
    assert stream.stats.waiting == 0


def test_a_stream_goes_on_over_a_reopening(scope: Scope) -> None:
    reports: list[FrameReport] = []
    flowing, over = threading.Event(), threading.Event()

    def source() -> Iterator[NDArray[np.uint8]]:
        while not over.is_set():
            yield plain()

    def take(report: FrameReport) -> None:
        reports.append(report)
        flowing.set()

    with scope.stream(source(), take, when_full="block") as stream:
        assert flowing.wait(PATIENCE_S)
        for _ in range(3):
            scope.reopen()
        flowing.clear()
        assert flowing.wait(PATIENCE_S)
        over.set()
        assert stream.wait(PATIENCE_S)
    assert (stream.stats.state, stream.stats.failed) == ("ended", 0)
    assert [report.refusal for report in reports] == [None] * len(reports)


@pytest.mark.parametrize("words", [{"pixel_um": 900.0}, {"queue": 0}, {"when_full": "explode"}])
def test_wrong_options_are_said_before_the_first_frame(scope: Scope, words: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        scope.stream(None, lambda report: None, **words)
