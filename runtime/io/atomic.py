"""Changes a file or a folder in one step, so that an interruption leaves the old one or the new one.

A file is written beside its place and renamed over it. A folder can't be renamed over another, so its change takes two renames,
and beside `c7` these siblings may be seen: `.c7.new` (being written: of no worth), `.c7.old` (moved aside: if there is no `c7`
the change broke off between the two renames, and `.c7.old` is the bundle), `.c7.gone` (being deleted) and `.c7.lock` (a change
is under way, or broke off).
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from blastscope.runtime.errors import DataError


def sibling(path: Path, kind: str) -> Path:
    """The hidden place beside `path` that a change of it uses."""
    return path.with_name(f".{path.name}.{kind}")


def write_content(path: Path, content: bytes | str) -> None:
    """Puts `content`, text as UTF-8, into the place of the file `path`: see `write_file`."""
    data = content.encode() if isinstance(content, str) else content
    write_file(path, lambda fresh: fresh.write_bytes(data))


def write_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Lets `fill` write a temporary file beside `path` and puts it in `path`'s place, whole or not at all.

    Into a pipe or a terminal that stands there it is written, once it is whole. An `OSError`, such as that of a full disk,
    names `path`.
    """
    if _is_open_end(path):
        return _write_into(path, fill)
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = sibling(path, f"{secrets.token_hex(4)}.new")  # of its own: two writers at once don't mix their bytes
    try:
        fill(fresh)
        flush(fresh)
        fresh.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # nobody knows the temporary one, and a full disk names none
        raise
    finally:
        fresh.unlink(missing_ok=True)
    flush(path.parent)


def _is_open_end(path: Path) -> bool:
    """Whether `path` is a pipe, or a device such as a terminal: nothing to be replaced by a file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _write_into(path: Path, fill: Callable[[Path], object]) -> None:
    """Without a realpath: what '/dev/stdout' leads to may have no path."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder, "whole")
            fill(fresh)
            with fresh.open("rb") as content, path.open("wb") as end:
                shutil.copyfileobj(content, end)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def check_place(path: Path) -> None:
    """Makes sure that `write_file` can write `path`, before hours of work go into what is to be written there.

    The folder is made. Raises `DataError` for a folder in the file's place, for a socket or a disk, and where nothing can be
    written. A pipe or a terminal is taken as it is.
    """
    if _is_open_end(path):
        return
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise DataError(path, "is a folder: name a file")
    if place.exists() and not place.is_file():
        raise DataError(path, "is neither a file nor a pipe: name another place")
    trial = sibling(place, f"{secrets.token_hex(4)}.new")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise DataError(path, f"can't be written, {(error.strerror or 'not usable').lower()}: name another place") from error


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write a temporary folder and puts it in `folder`'s place; leftovers of a broken change are cleared first."""
    folder = Path(os.path.realpath(folder))  # a link to a bundle keeps pointing at it
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _settle(folder)
        fresh = sibling(folder, "new")
        fresh.mkdir()
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
    """Whether a change of `folder` stands between its two renames, by a writer that is at it or one that broke off."""
    return sibling(Path(os.path.realpath(folder)), "old").exists()


def recover(folder: Path) -> None:
    """Puts back a folder whose change broke off between its two renames. Does nothing where the folder is in its place."""
    folder = Path(os.path.realpath(folder))
    if folder.exists() or not sibling(folder, "old").exists():
        return
    with _alone(folder):  # a writer that is alive finishes first
        _settle(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, and leaves no file of it behind."""
    place = sibling(folder, "lock")
    with FileLock(place):
        try:
            yield
        finally:
            if os.name != "nt":  # Windows deletes no file that is open; there the lock itself does it, afterwards
                # while it is held: whoever waits for this very file finds that it has no name any more, and begins anew
                place.unlink(missing_ok=True)


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
        shutil.rmtree(gone)


def flush(path: Path) -> None:
    """Waits until the disk holds `path`, a file or a folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows can't open a folder; its renames are journalled
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
