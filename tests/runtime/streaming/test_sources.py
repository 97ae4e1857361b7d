"""Where a live page's frames come from, and at what pace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError, DeviceError, UsageError
from blastscope.runtime.streaming import sources
from blastscope.runtime.streaming.frame_queue import Frame
from blastscope.runtime.streaming.sources import open_source, paced
from blastscope.runtime.types import Refusal


def picture(value: int = 200, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    return np.full((*shape, 3), value, np.uint8)


def save(path: Path, value: int = 200) -> Path:
    cv2.imwrite(str(path), picture(value))
    return path


def test_a_folder_and_a_file_are_frames_with_their_pixels_and_path(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    stopped = threading.Event()
    for text in (str(tmp_path), f"folder:{tmp_path}"):
        source = open_source(text, stopped=stopped)
        frames = list(source)
        assert [frame.id for frame in frames] == [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
        assert frames[0].metadata == {"path": tmp_path / "a.png"}
        assert frames[0].pixels.shape == (48, 64, 3)
        assert isinstance(frames[2].pixels, Refusal)
        assert not source.live
    (frame,) = open_source(str(tmp_path / "a.png"), stopped=stopped)
    assert frame.metadata["path"] == tmp_path / "a.png"


def test_a_tiff_brings_its_scale_and_a_scan_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tifffile

    words: dict[str, Any] = {"photometric": "rgb", "resolution": (1e4 / 0.25, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", picture(), **words)
    (frame,) = open_source(str(tmp_path / "a.tif"), stopped=threading.Event())
    assert frame.metadata["stated_um"] == pytest.approx(0.25)
    assert np.array_equal(frame.pixels, picture())
    monkeypatch.setattr(sources, "MAX_PIXELS", 1000)
    (frame,) = open_source(str(tmp_path / "a.tif"), stopped=threading.Event())
    assert isinstance(frame.pixels, Refusal)
    assert (frame.pixels.code, "64 x 48 pixels are too many" in frame.pixels.detail) == ("bomb", True)


@pytest.mark.parametrize(
    ("text", "watch", "error", "message"),
    [
        ("camera:x", False, UsageError, "a camera has a number, such as camera:0"),
        ("camera", True, UsageError, "a camera isn't watched"),
        ("camera:99", False, DeviceError, "camera 99 can't be opened: is it plugged in, and free"),
        ("folder:nowhere", False, DataError, "'nowhere': no such folder"),
        ("nowhere.png", False, DataError, "'nowhere.png': no such file, folder or camera"),
        ("EMPTY", False, DataError, "holds no frame"),
        ("FILE", True, UsageError, "only a folder can be watched"),
        ("VIDEO", False, DataError, "film.avi': can't be read as a video"),
    ],
)
def test_a_source_that_can_not_be_is_named(
    text: str, watch: bool, error: type[Exception], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.avi").write_bytes(b"no film")
    places = {"EMPTY": tmp_path / "empty", "FILE": save(tmp_path / "a.png"), "VIDEO": tmp_path / "film.avi"}
    with pytest.raises(error, match=message):
        open_source(str(places.get(text, text)), watch=watch, stopped=threading.Event())
    capfd.readouterr()  # OpenCV says what it tried


def test_a_video_is_read_through_opencv_in_rgb_to_its_end(tmp_path: Path) -> None:
    path, red = tmp_path / "film.avi", picture()
    red[:] = (220, 30, 30)
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    if not film.isOpened():
        pytest.skip("this OpenCV writes no video")
    for _ in range(5):
        film.write(cv2.cvtColor(red, cv2.COLOR_RGB2BGR))
    film.release()
    frames = list(open_source(str(path), stopped=threading.Event()))
    assert [frame.id for frame in frames] == list(range(5))
    assert np.abs(frames[2].pixels.astype(int) - red).max() < 25


class PaperCapture:
    """A camera that fails now and then, and for good in the end."""

    def __init__(self, *shots: bool) -> None:
        self.shots, self.released = iter(shots), False

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, Any]:
        there = next(self.shots, False)
        return there, picture() if there else None

    def release(self) -> None:
        self.released = True


def test_a_camera_may_miss_a_picture_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = PaperCapture(True, False, False, True, True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda where: capture)
    monkeypatch.setattr(sources, "MISS_S", 0.001)
    source = open_source("camera:2", stopped=threading.Event())
    assert (source.live, source.name) == (True, "camera 2")
    frames: list[Frame] = []
    with pytest.raises(DeviceError, match="camera 2 gives no more pictures"):
        frames.extend(source)  # what came before stays
    assert [frame.id for frame in frames] == [0, 1, 2]
    assert capture.released


class Looks(threading.Event):
    """What a watched folder waits for between two looks; a file grows by one of its `parts` in each pause."""

    parts: list[tuple[Path, bytes]] = []

    def wait(self, timeout: float | None = None) -> bool:
        if self.parts:
            path, part = self.parts.pop(0)
            with path.open("ab") as file:
                file.write(part)
        return super().wait(timeout)


def test_a_watched_folder_goes_on_with_files_that_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LOOK_S", 0.05)
    stopped = Looks()
    frames = iter(open_source(f"folder:{tmp_path}", watch=True, stopped=stopped))  # empty so far
    save(tmp_path / "first.png")
    assert next(frames).id == str(tmp_path / "first.png")
    content = save(tmp_path / "later.png").read_bytes()
    (tmp_path / "later.png").unlink()
    growing = tmp_path / "a-growing.png"  # comes before by its name
    growing.touch()
    step = max(1, len(content) // 8)
    stopped.parts = [(growing, content[start : start + step]) for start in range(0, len(content), step)]
    (frame,) = islice(frames, 1)
    assert stopped.parts == []
    assert (frame.id, frame.pixels.shape) == (str(growing), (48, 64, 3))
    save(tmp_path / "first.png", 90)  # a program that writes to one file again and again
    (frame,) = islice(frames, 1)
    assert (frame.id, frame.pixels.max()) == (str(tmp_path / "first.png"), 90)
    (tmp_path / "first.png").unlink()
    stopped.set()
    assert list(frames) == []


def test_a_watched_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LOOK_S", 0.01)
    (tmp_path / "here").mkdir()
    source = open_source(f"folder:{tmp_path / 'here'}", watch=True, stopped=threading.Event())
    (tmp_path / "here").rmdir()
    with pytest.raises(DataError, match="here': the folder is gone"):
        next(iter(source))


class Clock(threading.Event):
    """Time that passes where somebody waits for the event, until it is set."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self.now += max(timeout or 0.0, 0.0)
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sources, "time", clock)
    return clock


class Clip:
    """Four frames, from a camera or not."""

    name = "clip"

    def __init__(self, clock: Clock, *, live: bool, gap_s: float = 0.0) -> None:
        self.live, self.clock, self.gap_s = live, clock, gap_s

    def __iter__(self) -> Iterator[Frame]:
        for number in range(4):
            self.clock.now += self.gap_s
            yield Frame(None, number)


def test_a_pace_is_kept_and_left_when_it_is_over(clock: Clock) -> None:
    times = [clock.now - 100 for _ in paced(Clip(clock, live=False), 50.0, clock)]
    assert times == pytest.approx([0, 0.02, 0.04, 0.06])
    clock.set()
    before = clock.now
    assert len(list(paced(Clip(clock, live=False), 0.1, clock))) == 4
    assert clock.now == before


def test_a_cameras_pictures_between_are_passed_over_and_not_held_back(clock: Clock) -> None:
    assert [frame.id for frame in paced(Clip(clock, live=True), 0.1, clock)] == [0]
    assert [frame.id for frame in paced(Clip(clock, live=True, gap_s=0.005), 1000.0, clock)] == [0, 1, 2, 3]
    assert [frame.id for frame in paced(Clip(clock, live=True, gap_s=0.004), 100.0, clock)] == [0, 2]
