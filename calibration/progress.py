"""Progress of long work, with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 10.0
Tell = Callable[[str], None]


class Pace:
    """Counts what is done of `total` things that cost about the same each. `tell` hears of it, if at all, from time to time."""

    def __init__(self, what: str, total: int, tell: Tell | None) -> None:
        self._what, self._total, self._tell = what, total, tell
        self._done = 0
        self._start = self._told = time.monotonic()

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if self._tell and self._done < self._total and now - self._told >= EVERY_S:
            self._told = now
            left = (now - self._start) * (self._total - self._done) / self._done
            self._tell(f"{self._done} of {self._total} {self._what}, about {lasting(left)} left")


def lasting(seconds: float) -> str:
    """A time as people say it: '40 s', '3 min'."""
    return f"{max(round(seconds), 1)} s" if seconds < 90 else f"{round(seconds / 60)} min"
