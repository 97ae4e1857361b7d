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
