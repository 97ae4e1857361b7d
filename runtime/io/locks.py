"""One process at a time: over a run's folder, and over crops that are being cached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from blastscope.runtime.errors import DataError


@contextmanager
def exclusive_lock(place: Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock file `place`, and leaves none behind; the lock of a process that was killed doesn't count.

    Raises `DataError`, unless it is to `wait`, where another process holds it.
    """
    try:
        with FileLock(place, timeout=-1 if wait else 0):
            try:
                yield
            finally:
                if os.name != "nt":  # Windows deletes no file that is open; there the lock itself does it, afterwards
                    # while it is held: whoever waits for this very file finds that it has no name any more, and begins anew
                    place.unlink(missing_ok=True)
    except Timeout as error:
        raise DataError(place.parent, "another process is at work in it: wait for it, or name another folder") from error
