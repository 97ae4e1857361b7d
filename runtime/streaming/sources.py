"""Frame sources of the live page: camera, video, image files, or a watched folder."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2

from blastscope.runtime.errors import DataError, DeviceError, UsageError
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.slide import find_frames, has_frame_suffix, open_slide, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.streaming.frame_queue import Frame
from blastscope.runtime.types import Refusal

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4")
LOOK_S = 0.5  # between two looks at a watched folder
MISSES = 20  # pictures in a row that a camera may fail to give
MISS_S = 0.05


class Source(Protocol):
    """Frames, those of files with their path and scale in the metadata."""

    name: str  # for people
    live: bool  # frames come whether or not anybody has time for them

    def __iter__(self) -> Iterator[Frame]:
        """The frames. May be called once."""
        ...


def open_source(text: str, *, watch: bool = False, stopped: threading.Event) -> Source:
    """The source that a text names.

    Parameters
    ----------
    text : str
        camera, camera:N, folder:PATH, or the path of a folder, an image or a video.
    watch : bool
        Whether a folder goes on with the files that come later.
    stopped : threading.Event
        Ends that, once it is set.

    Returns
    -------
    Source

    Raises
    ------
    UsageError
        The text names nothing.
    DataError
        A path with nothing to show.
    DeviceError
        A camera that can't be used.
    """
    kind, _, rest = text.partition(":")
    if kind == "camera":
        if watch:
            raise UsageError("a camera isn't watched: leave --watch out")
        if rest and not rest.isdecimal():
            raise UsageError(f"source '{text}': a camera has a number, such as camera:0")
        return Camera(int(rest or 0), stopped)
    path = Path(rest if kind == "folder" else text)
    if path.is_dir():
        return WatchedFolder(path, stopped) if watch else Files(find_frames([path]), str(path))
    if kind == "folder" or not path.exists():
        raise DataError(path, "no such folder" if kind == "folder" else "no such file, folder or camera")
    if watch:
        raise UsageError(f"'{path}' is a file: only a folder can be watched")
    return Camera(path, stopped) if path.suffix.lower() in VIDEOS else Files([path], str(path))


def paced(source: Source, fps: float, stopped: threading.Event) -> Iterator[Frame]:
    """The same frames, at most `fps` a second: a camera's are passed over, since it holds older ones back; files wait."""
    due = time.monotonic()
    for frame in source:
        if source.live and time.monotonic() < due:
            continue
        yield frame
        due = max(due + 1 / fps, time.monotonic())
        if not source.live:
            stopped.wait(due - time.monotonic())


class Files:
    """Image files, one after the other. One that can't be decoded is a frame with a refusal."""

    live = False

    def __init__(self, paths: list[Path], name: str) -> None:
        self.name = name
        self._paths = paths

    def __iter__(self) -> Iterator[Frame]:
        return map(_read, self._paths)


class WatchedFolder:
    """The image files below a folder, then those that come into it or are written anew, each once it has stopped growing."""

    live = False

    def __init__(self, folder: Path, stopped: threading.Event) -> None:
        self.name = f"{folder} (watched)"
        self._folder, self._stopped = folder, stopped

    def __iter__(self) -> Iterator[Frame]:
        shown: dict[Path, tuple[int, int]] = {}
        before: dict[Path, tuple[int, int]] = {}
        while True:
            now = _files_below(self._folder)
            if not now and not self._folder.is_dir():
                raise DataError(self._folder, "the folder is gone: put it back, and start again")
            shown = {path: state for path, state in shown.items() if path in now}  # no longer than the folder's own list
            ready = [path for path, state in now.items() if before.get(path) == state != shown.get(path)]
            for path in sorted(ready, key=lambda path: (now[path][1], path)):
                shown[path] = now[path]
                yield _read(path)
            before = now
            if self._stopped.wait(LOOK_S):
                return


class Camera:
    """Pictures of the camera with a number, through OpenCV, or of a video file."""

    def __init__(self, where: int | Path, stopped: threading.Event) -> None:
        self.live = isinstance(where, int)
        self.name = f"camera {where}" if self.live else str(where)
        self._stopped = stopped
        self._capture = cv2.VideoCapture(where if isinstance(where, int) else str(where))
        if not self._capture.isOpened():
            if not isinstance(where, int):
                raise DataError(where, "can't be read as a video: damaged, or of a kind that OpenCV doesn't know")
            remedy = "is it plugged in, and free? name another with camera:N, or say folder:PATH"
            raise DeviceError(f"{self.name} can't be opened: {remedy}")

    def __iter__(self) -> Iterator[Frame]:
        misses = number = 0
        try:
            while not self._stopped.is_set():
                there, picture = self._capture.read()
                if there:
                    pixels = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if picture.ndim == 3 else picture
                    yield Frame(pixels, number)
                    misses, number = 0, number + 1
                elif not self.live:
                    return
                elif misses < MISSES:
                    misses += 1
                    self._stopped.wait(MISS_S)
                else:
                    raise DeviceError(f"{self.name} gives no more pictures: look at its cable, and start again")
        finally:
            self._capture.release()


def _read(path: Path) -> Frame:
    """The file as a frame; with the scale that it knows, or the reason why it has no pixels."""
    scan = open_slide(path)
    if isinstance(scan, Refusal):
        return Frame(scan, str(path), {"path": path})
    try:
        if scan.width * scan.height > MAX_PIXELS:
            size = f"{scan.width} x {scan.height} pixels"
            detail = f"{size} are too many for a live page: blastscope examine reads such a scan in pieces"
            return Frame(Refusal("bomb", detail), str(path), {"path": path})
        pixels = read_region(scan, (0, 0, scan.width, scan.height))
    except ReadError as unreadable:
        return Frame(unreadable.refusal, str(path), {"path": path})
    finally:
        scan.close()
    scale = {"stated_um": scan.pixel_um} if scan.pixel_um else {}
    return Frame(pixels, str(path), {"path": path, **scale})


def _files_below(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each image file with its size and the time of its last change."""
    found: dict[Path, tuple[int, int]] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if has_frame_suffix(name):
                try:
                    status = path.stat()
                except OSError:  # gone again
                    continue
                found[path] = (status.st_size, status.st_mtime_ns)
    return found
