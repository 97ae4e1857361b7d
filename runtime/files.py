"""Files in, predictions out: images found in folders, and work on many files that overlaps without losing their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.image import SUFFIXES

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 32  # items a worker may be ahead of the consumer: answers are small, and one slow file must not stop the others


def find_images(paths: Iterable[Path | str]) -> list[Path]:
    """The images that `paths` name, in the order given: files as they are, folders as the image files below them, sorted.

    A file is taken whatever its suffix, a path with nothing behind it too, and a folder that can't be looked into: classifying
    gives each a refusal. Raises `DataError` for a folder without an image.
    """
    found: list[Path] = []
    for path in as_paths(paths):
        found += _images_below(path) if path.is_dir() else [path]
    return found


def _images_below(folder: Path) -> list[Path]:
    unread: list[Path] = []
    images = [
        Path(place) / name
        for place, _, names in os.walk(folder, onerror=lambda error: unread.append(Path(error.filename)))
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not (images or unread):
        raise DataError(folder, f"holds no image: looked for {', '.join(SUFFIXES)}")
    return sorted([*images, *unread])


def in_order(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, leave: Callable[[], object] | None = None
) -> Iterator[tuple[T, R]]:
    """Each item with `function` of it, in the order given, computed by `workers` threads.

    Reads `items` as it goes, in the caller's thread, and at most `AHEAD` times `workers` items ahead, so that memory doesn't
    grow with their number. What `function` raises is raised here at that item's turn. Leaving early drops what hasn't begun,
    and waits for what has: `leave`, which is called before, may shorten that.
    """
    line: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(workers, "blastscope-files") as pool:
        try:
            for item in items:
                line.append((item, pool.submit(function, item)))
                while line and (len(line) >= AHEAD * workers or line[0][1].done()):
                    yield _result(line)
            while line:
                yield _result(line)
        except BaseException:
            if leave:
                leave()
            raise
        finally:
            for _, future in line:
                future.cancel()


def as_paths(paths: Iterable[Path | str]) -> Iterator[Path]:
    """Each of `paths`. Raises `UsageError` for a single one: its letters would be taken for paths."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"'{os.fsdecode(paths)}' is one path where several are asked for: put it into a list")
    return map(Path, paths)


def announced(paths: Iterable[Path]) -> Iterator[Path]:
    """`paths`, each after the system was told that its file will be read: reading ahead costs no thread of ours."""
    for path in paths:
        _announce(path)
        yield path


def _announce(path: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer doesn't stop us
    except (OSError, ValueError):
        return  # whoever reads it says why
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
    except OSError:
        pass
    finally:
        os.close(file)


def _result(line: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    item, future = line.popleft()
    return item, future.result()
