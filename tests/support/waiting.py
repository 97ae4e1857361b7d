"""Waiting without a fixed time: for what becomes true, and for threads that wait themselves. A wait that takes long fails."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

PATIENCE_S = 60.0
GLANCE_S = 0.005


def wait_until(true: Callable[[], object], *, patience_s: float = PATIENCE_S) -> None:
    """Returns once `true` gives something true. For states that no event tells, as those of another process or a file."""
    limit = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < limit, f"not true within {patience_s:g} s"
        time.sleep(GLANCE_S)


def blocked(thread: threading.Thread) -> bool:
    """Whether `thread` waits for an event, a condition or a thread, or has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return not thread.is_alive()
    return frame.f_code.co_filename == threading.__file__ and frame.f_code.co_name in ("wait", "join", "_wait_for_tstate_lock")
