"""A temporary file beside the one that is to be written; what a writer that was killed left there goes at the next writing.

While it is written the file is locked, and the system lets go of a dead process's lock. So a leftover is known by its lock, not
by its age. It is looked for under the few names that writers take, `.NAME.0.new` and so on. `clear_temporary_files` searches a
folder, of a cache, whose files may never be written again.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST = 230  # bytes of a name to which a sibling's can add its own: file systems take 255
_KEPT = 40  # letters of a longer one, each of up to 4 bytes
_NAMES = 64  # writers of one file at the same time that get a name of the row
_ABANDONED_S = 3600  # on Windows, where the file isn't locked, and on a file system without locks


def sibling(path: Path, kind: str) -> Path:
    """The hidden name beside a file or folder that a change of it uses.

    Parameters
    ----------
    path : Path
        The file or folder.
    kind : str
        What the name ends in, such as 'new' or 'lock'.

    Returns
    -------
    Path
    """
    name = path.name
    if len(os.fsencode(name)) > _LONGEST:
        name = f"{name[:_KEPT]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}"
    return path.with_name(f".{name}.{kind}")


@contextmanager
def temporary_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A new, empty file beside another, for the length of a `with` block. Afterwards it is gone, unless it was renamed.

    Parameters
    ----------
    path : Path
        The file that it is to replace.
    mode : int
        Permissions, before the process's mask.

    Yields
    ------
    Path

    Raises
    ------
    OSError
        It can't be made.
    """
    made = _claim(path, mode)
    try:
        yield made.path
    finally:
        if _is_named(made.file, made.path):  # after a renaming the name may be another writer's already
            made.path.unlink()
        if made.handle is not None:
            os.close(made.handle)


def clear_temporary_files(folder: Path, prefix: str = "") -> None:
    """Deletes the temporary files of writers that were killed, whichever file they wrote. Those that are being written stay.

    Parameters
    ----------
    folder : Path
        Where the files are written; it may be missing.
    prefix : str
        With which their names begin.
    """
    for fresh in folder.glob(f".{glob.escape(prefix)}*.new"):
        _clear(fresh)


class _Made(NamedTuple):
    """A temporary file that this process made.

    Attributes
    ----------
    path : Path
        Its name.
    file : os.stat_result
        By which it is known again after a renaming.
    handle : int or None
        The open file that holds the lock; None on Windows, which renames no open file.
    """

    path: Path
    file: os.stat_result
    handle: int | None


def _claim(path: Path, mode: int) -> _Made:
    for number in range(_NAMES):
        fresh = sibling(path, f"{number}.new")
        made = _create(fresh, mode) or (_create(fresh, mode) if _clear(fresh) else None)
        if made:
            later = number + 1
            while later < _NAMES and _clear(sibling(path, f"{later}.new")):
                later += 1
            return made
    made = _create(sibling(path, f"{secrets.token_hex(8)}.new"), mode)
    if made is None:
        raise FileExistsError(errno.EEXIST, "too many are writing it", str(path))
    return made


def _create(fresh: Path, mode: int) -> _Made | None:
    """The file, locked; None where there is one of that name."""
    try:
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
    except FileExistsError:
        return None
    made = _Made(fresh, os.fstat(handle), handle)
    if fcntl is None:
        os.close(handle)  # Windows renames no file that is open
        return made._replace(handle=None)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # whoever clears leftovers took the new file for one
        os.close(handle)
        return None
    except OSError:
        return made  # a file system without locks
    if _is_named(made.file, fresh):
        return made
    os.close(handle)
    return None


def _clear(fresh: Path) -> bool:
    """Deletes a dead writer's file; False where there is none, or one that is being written."""
    try:
        if fcntl is None:
            return _clear_old(fresh)
        handle = os.open(fresh, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # it is written
                return False
            except OSError:  # a file system without locks
                return _clear_old(fresh)
            named = _is_named(os.fstat(handle), fresh)
            if named:
                fresh.unlink()
            return named
        finally:
            os.close(handle)
    except OSError:  # there is none; or it is somebody else's, or a link
        return False


def _clear_old(fresh: Path) -> bool:
    abandoned = time.time() - fresh.lstat().st_mtime > _ABANDONED_S
    if abandoned:
        fresh.unlink()
    return abandoned


def _is_named(file: os.stat_result, place: Path) -> bool:
    """Whether that file has that name."""
    try:
        named = place.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, file)
