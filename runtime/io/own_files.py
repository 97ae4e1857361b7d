"""Files and folders of a cache that belong to this user alone: nobody else can have put something into them.

What is kept may be code, or decide what answers, or show patients' cells. So it is written for the owner only, and read only
where nobody else may write it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

# no link is followed, no pipe waited for, no line end changed
_PLAINLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


class Unusable(Exception):
    """Why a file of the cache isn't used. Caught by whoever reads the cache: what it holds can be made again."""


def open_plain(path: Path) -> tuple[BufferedReader, os.stat_result]:
    """The plain file at `path`, opened for reading, and what is known of it. Raises `OSError`, also for a link or a pipe.

    What is checked and what is read are one open file: its name may be given to another meanwhile.
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
    """The same. Raises `Unusable` unless the file is this user's and nobody else may write it."""
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
    """The bytes of such a file, at most `limit` + 1 of them. Raises `Unusable`."""
    with open_own(path) as stream:
        return stream.read(limit + 1)


def make_private_folder(folder: Path) -> None:
    """Makes `folder`, or makes it so, that nobody but this user looks into it. Raises `OSError` where it can't be made.

    A folder of somebody else's is left as it is: files in it are checked one by one.
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
