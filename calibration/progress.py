"""Progress of long work, with the time left."""

from __future__ import annotations

import logging
import time

LOG_INTERVAL_S = 10.0

logger = logging.getLogger(__name__)


class Progress:
    """Counts what is done of `total` things that cost about the same each. Logged every ten seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._start = self._logged = time.monotonic()

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if self._done < self._total and now - self._logged >= LOG_INTERVAL_S:
            self._logged = now
            left = (now - self._start) * (self._total - self._done) / self._done
            logger.info("%d of %d %s, about %s left", self._done, self._total, self._what, format_duration(left))


def format_duration(seconds: float) -> str:
    """A time as people say it: '40 s', '3 min'."""
    return f"{max(round(seconds), 1)} s" if seconds < 90 else f"{round(seconds / 60)} min"
