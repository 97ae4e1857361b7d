"""Images found in files and folders; where the shipped bundle and a user's cache lie."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import platformdirs

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.image_decode import SUFFIXES

SHIPPED_BUNDLE = Path(str(files("blastscope") / "shipped"))

# Files that nobody takes for a picture. What is neither read nor one of them is told of: a camera may write it.
FOREIGN = {
    *("", ".csv", ".doc", ".docx", ".geojson", ".htm", ".html", ".ini", ".json", ".log", ".md", ".ods", ".odt", ".pdf", ".ppt"),
    *(".pptx", ".rtf", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".toml", ".7z", ".gz", ".rar", ".tar", ".zip"),
    *(".bat", ".cfg", ".dat", ".db", ".dll", ".exe", ".ipynb", ".lnk", ".m", ".md5", ".py", ".r", ".sh", ".sha256", ".url"),
}
MOST_SUFFIXES, LONGEST_SUFFIX = 9, 12


class SkippedFiles:
    """How many files of folders were not taken, by suffix. Hidden files and those that nobody takes for a picture don't count.

    Attributes
    ----------
    counts : Counter of str
        Files of each suffix.
    reasons : Counter of str
        Files that were looked into, by why they weren't taken.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def note(self, name: str, reason: str = "") -> None:
        """Counts a file that was not taken.

        Parameters
        ----------
        name : str
            The file's name.
        reason : str
            Why, for people, such as 'DICOM files that hold no slide'; empty where its suffix is the reason.
        """
        if reason:
            self.reasons[reason] += 1
            return
        suffix = Path(name).suffix.lower()
        if not name.startswith(".") and suffix not in FOREIGN:
            self.counts[suffix if len(suffix) <= LONGEST_SUFFIX else "other"] += 1

    def __bool__(self) -> bool:
        return bool(self.counts or self.reasons)

    def __str__(self) -> str:
        """The counts for people, such as '2 .heic, 1 .jp2, 3 DICOM files that hold no slide'."""
        return ", ".join(filter(None, (self.by_suffix, self.by_reason)))

    @property
    def by_suffix(self) -> str:
        """The files whose suffix is the reason."""
        shown = [f"{count} {suffix}" for suffix, count in _often(self.counts)[:MOST_SUFFIXES]]
        return ", ".join(shown) + (", and others" if len(self.counts) > MOST_SUFFIXES else "")

    @property
    def by_reason(self) -> str:
        """The files with a reason of their own."""
        return ", ".join(f"{count} {reason}" for reason, count in _often(self.reasons))


def _often(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def left_out(passed: SkippedFiles) -> Iterator[str]:
    """A sentence on the files that were left out.

    Parameters
    ----------
    passed : SkippedFiles
        What was passed over.

    Yields
    ------
    str
        A sentence on suffixes, and one on other reasons; none where nothing was passed over.
    """
    if passed.counts:
        yield f"left out of the folders, by their suffix: {passed.by_suffix} (name a file itself to have it tried)"
    if passed.reasons:
        yield f"left out of the folders: {passed.by_reason}"


def find_images(paths: Path | str | Iterable[Path | str], *, passed: SkippedFiles | None = None) -> list[Path]:
    """The image files that `paths` name, in the order given: files as they are, folders as the image files below them, sorted.

    A file that is named is taken whatever its suffix, even if it doesn't exist, and so is a folder that can't be looked into:
    classifying gives each of them a refusal.

    Parameters
    ----------
    paths : Path, str or iterable of them
        Files and folders. A single folder needs no list around it.
    passed : SkippedFiles, optional
        Is told of the files in folders that were not taken.

    Returns
    -------
    list of Path

    Raises
    ------
    DataError
        A folder holds no image.
    UsageError
        `paths` is a single path and not a folder.
    """
    found: list[Path] = []
    passed = SkippedFiles() if passed is None else passed
    for path in _one_folder_or_paths(paths):
        images = _images_below(path, passed) if path.is_dir() else [path]
        if not images:
            raise nothing_in(path, "image", SUFFIXES, passed)
        found += images
    return found


def each_image(paths: Path | str | Iterable[Path | str]) -> Iterator[Path]:
    """The same files as `find_images` gives, one after the other, while `paths` is read.

    Parameters
    ----------
    paths : Path, str or iterable of them
        Files and folders. A single folder needs no list around it.

    Returns
    -------
    iterator of Path
        A folder without an image stands for itself.

    Raises
    ------
    UsageError
        `paths` is a single path and not a folder.
    """
    several = _one_folder_or_paths(paths)  # what is no path at all is said now
    return (image for path in several for image in ((path.is_dir() and _images_below(path, SkippedFiles())) or [path]))


def _one_folder_or_paths(paths: Path | str | Iterable[Path | str]) -> Iterator[Path]:
    if isinstance(paths, str | os.PathLike) and Path(paths).is_dir():
        return iter([Path(paths)])
    return as_paths(paths)


def _images_below(folder: Path, passed: SkippedFiles) -> list[Path]:
    images: list[Path] = []
    unread: list[Path] = []
    for place, _, names in os.walk(folder, onerror=lambda error: unread.append(Path(error.filename))):
        for name in names:
            if Path(name).suffix.lower() not in SUFFIXES:
                passed.note(name)
            elif not name.startswith("."):
                images.append(Path(place) / name)
    return sorted([*images, *unread])


def nothing_in(folder: Path, kind: str, suffixes: Sequence[str], passed: SkippedFiles) -> DataError:
    """The error to raise for a folder that holds nothing to look at.

    Parameters
    ----------
    folder : Path
        Where was looked.
    kind : str
        What was looked for, such as 'image'.
    suffixes : sequence of str
        The suffixes that were looked for.
    passed : SkippedFiles
        What was found instead.

    Returns
    -------
    DataError
    """
    instead = f"; it holds {passed}" if passed else ""
    return DataError(folder, f"holds no {kind}: looked for {', '.join(suffixes)}{instead}")


def as_paths(paths: Path | str | Iterable[Path | str]) -> Iterator[Path]:
    """Each of `paths` as a `Path`, one after the other.

    Parameters
    ----------
    paths : iterable of Path or str
        Read as the iterator goes.

    Returns
    -------
    iterator of Path

    Raises
    ------
    UsageError
        `paths` is a single path, whose letters would be taken for paths, or can't be iterated; one of them is no path.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"'{os.fsdecode(paths)}' is one path where several are asked for: put it into a list")
    try:
        return map(_as_path, paths)
    except TypeError as error:
        raise UsageError(f"paths must be iterable, not '{type(paths).__name__}'") from error


def _as_path(path: Path | str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{path!r} is no path")
    return Path(os.fsdecode(path))  # a path-like object may give bytes, as those of `os.scandir(b"...")` do


def read_ahead(paths: Iterable[Path]) -> Iterator[Path]:
    """Each of `paths`, once the system was told that its file will be read; it then reads ahead without a thread of ours.

    Parameters
    ----------
    paths : iterable of Path
        Files, which need not exist.

    Yields
    ------
    Path
    """
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


def resolved(path: Path) -> Path:
    """The absolute path with its links followed, as far as they can be.

    Up to Python 3.12 `Path.resolve` raises `RuntimeError` for a link that leads to itself. Whoever opens it gets an `OSError`.

    Parameters
    ----------
    path : Path
        It need not exist.

    Returns
    -------
    Path
    """
    return Path(os.path.realpath(path))


def default_cache_dir() -> Path:
    """The user's cache folder for blastscope, where engines, measurements and unpacked bundles are kept by default.

    Returns
    -------
    Path
        It need not exist.

    Raises
    ------
    UsageError
        The user has no home folder, and no variable of the environment says where caches lie.
    """
    return _user_folder(platformdirs.user_cache_dir, "a cache", "XDG_CACHE_HOME")


def default_config_dir() -> Path:
    """The user's folder for blastscope's settings, where the keys lie that the user trusts.

    Returns
    -------
    Path
        It need not exist.

    Raises
    ------
    UsageError
        The user has no home folder, and no variable of the environment says where settings lie.
    """
    return _user_folder(platformdirs.user_config_dir, "trusted keys", "XDG_CONFIG_HOME")


def _user_folder(find: Callable[..., str], what: str, variable: str) -> Path:
    with suppress(RuntimeError):  # no home folder is known
        found = Path(find("blastscope", appauthor=False))
        if found.is_absolute():
            return found
    raise UsageError(f"this user has no home folder to keep {what} in: set HOME or {variable} to an absolute path")
