"""Files in, predictions out: images found in folders, and work on many files that overlaps without losing their order.

Where a user's cache lies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import platformdirs

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.image_decode import SUFFIXES


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


def as_paths(paths: Iterable[Path | str]) -> Iterator[Path]:
    """Each of `paths`. Raises `UsageError` for a single one: its letters would be taken for paths."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"'{os.fsdecode(paths)}' is one path where several are asked for: put it into a list")
    return map(Path, paths)


def read_ahead(paths: Iterable[Path]) -> Iterator[Path]:
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


def default_cache_dir() -> Path:
    """Where engines, measurements and unpacked bundles are kept unless the caller says otherwise."""
    return Path(platformdirs.user_cache_dir("blastscope", appauthor=False))
