"""Work that an opening puts off, so that the first answer doesn't wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Later:
    """Does something once, in a thread of its own: `delay_s` after `start`, or sooner when `finish` waits for it."""

    def __init__(self, function: Callable[[], None], name: str, *, delay_s: float = 0.0) -> None:
        self._function, self._name, self._delay_s = function, name, delay_s
        self._hurry = threading.Event()
        self._once = threading.Lock()  # taken by whoever does it
        self._done = threading.Event()
        self._doing: int | None = None  # the thread that is at it

    def start(self) -> None:
        """Begins, unless it began already."""
        if self._once.acquire(blocking=False):
            threading.Thread(target=self._wait_and_run, name=self._name).start()

    def finish(self, *, begin: bool = True) -> None:
        """Returns when it is done. What never began is done here and now, or never without `begin`."""
        self._hurry.set()
        if self._once.acquire(blocking=False):
            if begin:
                self._run()
            self._done.set()
        elif self._doing != threading.get_ident():  # a forgotten handle may be collected, and closed, by this very work
            self._done.wait()

    def _wait_and_run(self) -> None:
        self._hurry.wait(self._delay_s)
        self._run()

    def _run(self) -> None:
        self._doing = threading.get_ident()
        try:
            self._function()
        finally:
            self._doing = None
            self._done.set()
