"""Files and folders of a cache that belong to this user alone: nobody else can have put something into them.

What is kept may be code, or decide what answers, or show patients' cells. So it is written for the owner only, and read only
where nobody else may write it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from blastscope.runtime.errors import DataError

# no link is followed, no pipe waited for, no line end changed
_PLAINLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


class Unusable(Exception):
    """Why a file of the cache isn't used. Caught by whoever reads the cache: what it holds can be made again."""


def open_plain(path: Path) -> tuple[BufferedReader, os.stat_result]:
    """A plain file, opened for reading, with what is known of it.

    What is checked and what is read are one open file, since the name may be given to another one meanwhile.

    Parameters
    ----------
    path : Path
        Links and pipes are refused.

    Returns
    -------
    BufferedReader, os.stat_result

    Raises
    ------
    OSError
        It can't be opened, or is no plain file.
    """
    handle = os.open(path, os.O_RDONLY | _PLAINLY)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return os.fdopen(handle, "rb"), found
    except BaseException:
        os.close(handle)
        raise


def open_own(path: Path) -> BufferedReader:
    """A plain file of this user that nobody else may write, opened for reading.

    Parameters
    ----------
    path : Path
        A file of the cache.

    Returns
    -------
    BufferedReader

    Raises
    ------
    Unusable
        It can't be opened, is another user's, or may be written by others.
    """
    try:
        stream, found = open_plain(path)
    except OSError as error:
        raise Unusable(f"'{path.name}' can't be opened: {(error.strerror or str(error)).lower()}") from error
    try:
        _check_owner(path, found)
    except Unusable:
        stream.close()
        raise
    return stream


def read_own(path: Path, limit: int) -> bytes:
    """The content of a file as `open_own` opens it.

    Parameters
    ----------
    path : Path
        A file of the cache.
    limit : int
        At most `limit` + 1 bytes are read, so that a longer file is noticed.

    Returns
    -------
    bytes

    Raises
    ------
    Unusable
        As `open_own`.
    """
    with open_own(path) as stream:
        return stream.read(limit + 1)


def make_private_folder(folder: Path) -> None:
    """Makes a folder into which nobody but this user may look.

    A folder that is there is closed to others. One that belongs to somebody else is left as it is: files in it are checked one
    by one.

    Parameters
    ----------
    folder : Path
        Missing folders above it are made.

    Raises
    ------
    OSError
        It can't be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
    if hasattr(os, "geteuid") and stat.S_IMODE(folder.stat().st_mode) & 0o077:  # Windows: the profile is the user's own
        with suppress(PermissionError):
            folder.chmod(PRIVATE_FOLDER)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):
        return  # Windows: the cache lies in the user's profile, which others can't write
    if found.st_uid != os.geteuid():
        raise Unusable(f"'{path.name}' belongs to user {found.st_uid}, not to user {os.geteuid()}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unusable(f"'{path.name}' may be written by others (mode {stat.S_IMODE(found.st_mode):o})")


@contextmanager
def exclusive_lock(place: Path, *, wait: bool) -> Iterator[None]:
    """Holds a lock file while the `with` block runs, and leaves none behind. The lock of a killed process doesn't count.

    Parameters
    ----------
    place : Path
        The lock file.
    wait : bool
        Whether to wait for another process that holds it.

    Raises
    ------
    DataError
        Another process holds it, and `wait` is False.
    """
    lock = FileLock(place, timeout=-1 if wait else 0)
    try:
        with lock:
            try:
                yield
            finally:
                delete_lock(lock)
    except Timeout as error:
        raise DataError(place.parent, "another process is at work in it: wait for it, or name another folder") from error


def delete_lock(lock: BaseFileLock) -> None:
    """Deletes the file of a lock that is held, before it is released.

    Whoever waits for this very file finds that it has no name any more, and begins anew.

    Parameters
    ----------
    lock : BaseFileLock
        On Windows, where a file that is open isn't deleted, the lock itself deletes it afterwards.
    """
    if os.name != "nt":
        Path(lock.lock_file).unlink(missing_ok=True)
