"""Changes a file or a folder in one step, so that an interruption leaves the old one or the new one.

A file is written beside its place, as `.c7.zip.0.new`, and renamed over it; the next writing clears what a killed one left. A
folder can't be renamed over another, so its change takes two renames, and beside `c7` these siblings may be seen: `.c7.new`
(being written: of no worth), `.c7.old` (moved aside: if there is no `c7` the change broke off between the two renames, and
`.c7.old` is the bundle), `.c7.gone` (being deleted) and `.c7.lock` (a change is under way, or broke off).
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from blastscope.runtime.errors import BlastscopeError, DataError, WriteError
from blastscope.runtime.io.own_files import PRIVATE_FILE, PRIVATE_FOLDER, exclusive_lock
from blastscope.runtime.io.temporary_file import clear_temporary_files, sibling, temporary_file


def write_content(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Puts bytes or text into a file's place, whole or not at all.

    Parameters
    ----------
    path : Path
        The file; one that stands there is replaced.
    content : bytes or str
        Text is written as UTF-8.
    private : bool
        As for `write_file`.

    Raises
    ------
    WriteError
        The file can't be written.
    """
    data = content.encode() if isinstance(content, str) else content
    write_file(path, lambda fresh: fresh.write_bytes(data), private=private)


def write_file(path: Path, fill: Callable[[Path], object], *, private: bool = False) -> None:
    """Puts a new file into a file's place, whole or not at all.

    Into a pipe or a terminal that stands there the content is written once it is whole.

    Parameters
    ----------
    path : Path
        The file; one that stands there is replaced, and missing folders above it are made.
    fill : callable
        Takes the path of a temporary file, which exists, and writes it.
    private : bool
        True, for a cache's own files: nobody else may read it, and whatever stands at `path` is replaced.

    Raises
    ------
    WriteError
        Writing failed, for example because the disk is full. The error names `path`.
    DataError
        `fill` couldn't read another file. The error names that file.
    """
    if not private and _is_open_end(path):
        return _write_into(path, fill)
    path = Path(os.path.realpath(path))
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path, PRIVATE_FILE if private else 0o666) as fresh:
            fill(fresh)
            flush(fresh)
            fresh.replace(path)
        flush(path.parent)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns an `OSError` in writing `path` into one that names it: a full disk names nothing, others the temporary name."""
    try:
        yield
    except BlastscopeError:
        raise
    except OSError as error:
        name = error.filename2 or error.filename  # of a copy the second is the one that was written
        source = None if name is None else Path(os.fsdecode(name))
        if source is None or path.is_relative_to(source) or str(source).startswith(str(sibling(path, ""))):
            raise WriteError(path, error) from error
        raise DataError(source, f"can't be read, {(error.strerror or str(error)).lower()}") from error


def _is_open_end(path: Path) -> bool:
    """Whether `path` is a pipe, or a device such as a terminal: nothing to be replaced by a file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _write_into(path: Path, fill: Callable[[Path], object]) -> None:
    """Without a realpath: what '/dev/stdout' leads to may have no path."""
    with _told(path), tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, "whole")
        fill(fresh)
        with fresh.open("rb") as content, path.open("wb") as end:
            shutil.copyfileobj(content, end)


def check_place(path: Path) -> None:
    """Checks that `write_file` can write a file, before hours of work go into its content. The folder is made.

    Parameters
    ----------
    path : Path
        Where the file is to go. A pipe or a terminal is taken as it is.

    Raises
    ------
    DataError
        There is a folder, a socket or a disk of that name, or nothing can be written there.
    """
    if _is_open_end(path):
        return
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise DataError(path, "is a folder: name a file")
    if place.exists() and not place.is_file():
        raise DataError(path, "is neither a file nor a pipe: name another place")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(place):
            pass
    except OSError as error:
        raise DataError(path, f"can't be written, {(error.strerror or 'not usable').lower()}: name another place") from error


def write_folder(folder: Path, fill: Callable[[Path], None], *, private: bool = False) -> None:
    """Puts a new folder into a folder's place, whole or not at all. Leftovers of a broken change are cleared first.

    Parameters
    ----------
    folder : Path
        The folder; one that stands there is replaced.
    fill : callable
        Takes the path of a temporary folder, which exists, and fills it.
    private : bool
        True: nobody else may look into it.

    Raises
    ------
    WriteError
        Writing failed, for example because the disk is full. The error names `folder`.
    DataError
        `fill` couldn't read another file. The error names that file.
    """
    folder = Path(os.path.realpath(folder))  # a link to a bundle keeps pointing at it
    with _told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _replace(folder, fill, PRIVATE_FOLDER if private else 0o777)


def _replace(folder: Path, fill: Callable[[Path], None], mode: int) -> None:
    """See `write_folder`; with the lock held."""
    _settle(folder)
    fresh = sibling(folder, "new")
    fresh.mkdir(mode)
    try:
        fill(fresh)
        for path in [*fresh.rglob("*"), fresh]:
            flush(path)
        if folder.exists():
            folder.rename(sibling(folder, "old"))
        fresh.rename(folder)
        flush(folder.parent)
    finally:
        _settle(folder)


def moved_aside(folder: Path) -> bool:
    """Whether a change of a folder is between its two renames, by a running writer or one that was interrupted.

    Parameters
    ----------
    folder : Path
        The folder's own name.

    Returns
    -------
    bool
    """
    return sibling(Path(os.path.realpath(folder)), "old").exists()


def recover(folder: Path) -> None:
    """Puts back a folder whose change was interrupted between its two renames. Does nothing if the folder is in its place.

    Parameters
    ----------
    folder : Path
        The folder's own name.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists() or not sibling(folder, "old").exists():
        return
    clear_leftovers(folder)


def clear_leftovers(folder: Path) -> None:
    """Deletes what broken changes of a folder left beside it, and puts the folder back where it was moved aside.

    Parameters
    ----------
    folder : Path
        The folder's own name. A writer that is at work finishes first.
    """
    with _alone(folder):  # a writer that is alive finishes first
        _settle(folder)


def clear_abandoned(parent: Path, *, prefix: str = "", lock: str) -> None:
    """Clears the leftovers of every folder at which a process was killed while it worked.

    Parameters
    ----------
    parent : Path
        Where the folders lie. Their names hold no dot.
    prefix : str
        With which the names begin.
    lock : str
        The kind of sibling that a process holds while it works on a folder: folders with such a lock held are left alone.
    """
    for name in {path.name[1:].partition(".")[0] for path in parent.glob(f".{prefix}*")} - {""}:
        with suppress(DataError, OSError), exclusive_lock(sibling(parent / name, lock), wait=False):  # DataError: it is held
            clear_leftovers(parent / name)


def clear_abandoned_files(folder: Path, *, prefix: str = "") -> None:
    """Deletes the temporary files and lock files that processes left in a cache when they were killed.

    Those of processes at work stay.

    Parameters
    ----------
    folder : Path
        It may be missing.
    prefix : str
        With which the names begin of the files that are written there, each under a lock of its own or under none.
    """
    clear_temporary_files(folder, prefix)
    for lock in folder.glob(f".{glob.escape(prefix)}*.lock"):
        with suppress(DataError, OSError), exclusive_lock(lock, wait=False):  # DataError: it is held
            pass


def _alone(folder: Path) -> AbstractContextManager[None]:
    return exclusive_lock(sibling(folder, "lock"), wait=True)


def _settle(folder: Path) -> None:
    """Brings `folder` and its siblings to rest, with the lock held, so that every sibling is a dead writer's or our own."""
    old = sibling(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for kind in ("gone", "old", "new"):
        leftover = sibling(folder, kind)
        if not leftover.exists():
            continue
        gone = sibling(folder, "gone")
        # renamed before it is deleted: a half-deleted folder must never be found under the name that `recover` trusts
        if leftover != gone:
            leftover.rename(gone)
        for place in (gone, *(path for path in gone.rglob("*") if path.is_dir() and not path.is_symlink())):
            place.chmod(place.stat().st_mode | stat.S_IRWXU)  # nobody can delete out of a folder that can't be written
        shutil.rmtree(gone)


def flush(path: Path) -> None:
    """Waits until the disk holds a file or a folder.

    Parameters
    ----------
    path : Path
        It must be there.
    """
    if os.name == "nt" and path.is_dir():
        return  # Windows can't open a folder; its renames are journalled
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
