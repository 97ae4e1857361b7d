"""`UseCount`: how many use something at the same time, counted in many threads; an event loop can wait for the last one."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable


class UseCount:
    """A count of users.

    Attributes
    ----------
    now : int
        How many there are.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self._closed = False
        self.now = 0

    def begin(self, most: float = math.inf) -> bool:
        """Counts one more, unless there are `most` already, or it is closed."""
        with self._lock:
            if self._closed or self.now >= most:
                return False
            self.now += 1
            return True

    def end(self) -> None:
        """Counts one less."""
        with self._lock:
            self.now -= 1
            for wake in self._waiting if not self.now else ():
                wake()

    async def none_left(self) -> None:
        """Waits until nobody is there."""
        loop, left = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(left.set)

        with self._lock:
            if not self.now:
                return
            self._waiting.append(wake)
        try:
            await left.wait()
        finally:
            with self._lock:
                self._waiting.remove(wake)

    async def close(self) -> None:
        """Waits until nobody is there, and from then on lets nobody begin."""
        while not self._closed:
            await self.none_left()
            with self._lock:
                self._closed = not self.now
