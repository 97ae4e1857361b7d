"""Files in, predictions out: images found in folders, and work on many files that overlaps without losing their order.

Where a user's cache lies.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import platformdirs

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.image_decode import SUFFIXES

# Files that nobody takes for a picture. What is neither read nor one of them is told of: a camera may write it.
FOREIGN = {
    *("", ".csv", ".doc", ".docx", ".geojson", ".htm", ".html", ".ini", ".json", ".log", ".md", ".ods", ".odt", ".pdf", ".ppt"),
    *(".pptx", ".rtf", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".toml", ".7z", ".gz", ".rar", ".tar", ".zip"),
    *(".bat", ".cfg", ".dat", ".db", ".dll", ".exe", ".ipynb", ".lnk", ".m", ".md5", ".py", ".r", ".sh", ".sha256", ".url"),
}
MOST_SUFFIXES, LONGEST_SUFFIX = 9, 12


class PassedOver:
    """Which files of folders were not taken, by their suffixes; hidden and plainly foreign ones don't count."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, name: str) -> None:
        """A file that was not taken."""
        suffix = Path(name).suffix.lower()
        if not name.startswith(".") and suffix not in FOREIGN:
            self.counts[suffix if len(suffix) <= LONGEST_SUFFIX else "other"] += 1

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """For people: '2 .heic, 1 .jp2'."""
        often = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count} {suffix}" for suffix, count in often[:MOST_SUFFIXES]]
        return ", ".join(shown) + (", and others" if len(self.counts) > MOST_SUFFIXES else "")


def left_out(passed: PassedOver) -> Iterator[str]:
    """What is to be said of files that were passed over; nothing where none was."""
    if passed:
        yield f"left out of the folders, by their suffix: {passed} (name a file itself to have it tried)"


def find_images(paths: Path | str | Iterable[Path | str], *, passed: PassedOver | None = None) -> list[Path]:
    """The images that `paths` name, in the order given: files as they are, folders as the image files below them, sorted.

    A single folder needs no list around it. Files in folders that aren't taken are noted in `passed`.

    A file is taken whatever its suffix, a path with nothing behind it too, and a folder that can't be looked into: classifying
    gives each a refusal. Raises `DataError` for a folder without an image.
    """
    found: list[Path] = []
    passed = PassedOver() if passed is None else passed
    for path in _one_folder_or_paths(paths):
        images = _images_below(path, passed) if path.is_dir() else [path]
        if not images:
            raise nothing_in(path, "image", SUFFIXES, passed)
        found += images
    return found


def each_image(paths: Path | str | Iterable[Path | str]) -> Iterator[Path]:
    """The same one after the other, as `paths` gives them; a folder without an image stands for itself."""
    several = _one_folder_or_paths(paths)  # what is no path at all is said now
    return (image for path in several for image in ((path.is_dir() and _images_below(path, PassedOver())) or [path]))


def _one_folder_or_paths(paths: Path | str | Iterable[Path | str]) -> Iterator[Path]:
    if isinstance(paths, str | os.PathLike) and Path(paths).is_dir():
        return iter([Path(paths)])
    return as_paths(paths)


def _images_below(folder: Path, passed: PassedOver) -> list[Path]:
    images: list[Path] = []
    unread: list[Path] = []
    for place, _, names in os.walk(folder, onerror=lambda error: unread.append(Path(error.filename))):
        for name in names:
            if Path(name).suffix.lower() not in SUFFIXES:
                passed.note(name)
            elif not name.startswith("."):
                images.append(Path(place) / name)
    return sorted([*images, *unread])


def nothing_in(folder: Path, kind: str, suffixes: Sequence[str], passed: PassedOver) -> DataError:
    """The error of a folder that holds nothing to look at."""
    instead = f"; it holds {passed}" if passed else ""
    return DataError(folder, f"holds no {kind}: looked for {', '.join(suffixes)}{instead}")


def as_paths(paths: Path | str | Iterable[Path | str]) -> Iterator[Path]:
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
