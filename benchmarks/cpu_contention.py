"""CPU contention: the share of the cores that other processes take.

Others are the other processes and, on a virtual machine, its neighbours (steal). Elsewhere than on Linux nothing is known.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

LIMIT = 0.05  # of the cores: above it a figure is marked as taken on a busy machine
LOOK_S = 0.5  # the counters tick at 10 ms, so this is exact to 2 % on one core
COUNTERS = Path("/proc/stat")
_IDLE = (3, 4)  # columns: idle, iowait
_WITHIN = (8, 9)  # guest times, which are in user time already


class _Counted(NamedTuple):
    busy_s: float  # of the cores that this process may use
    own_s: float  # of this process and of its children that have ended
    moment: float


class Watch:
    """Tells, at each look, what others took since the look before."""

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._counters = counters
        self._last = _count(counters)

    def others(self) -> float | None:
        """The share of the cores that others took since the last look, 0 to 1; None where it can't be known."""
        now, last = _count(self._counters), self._last
        self._last = now
        if now is None or last is None or now.moment <= last.moment:
            return None
        available = (now.moment - last.moment) * len(_cores())
        taken = (now.busy_s - last.busy_s) - (now.own_s - last.own_s)
        return float(min(1.0, max(0.0, taken / available)))


def wait_for_idle(patience_s: float, *, limit: float = LIMIT) -> float | None:
    """Waits until others take less than `limit` of the cores, at most `patience_s`. Gives what they took at the last look."""
    watch = Watch()
    end = time.monotonic() + patience_s
    while True:
        time.sleep(min(LOOK_S, max(patience_s, 0.0)))
        others = watch.others()
        if others is None or others <= limit or time.monotonic() >= end:
            return others


def governor(cpus: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """How the frequencies are governed, where Linux says it; a virtual machine mostly doesn't."""
    try:
        return (cpus / "cpu0" / "cpufreq" / "scaling_governor").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _count(counters: Path) -> _Counted | None:
    try:
        lines = counters.read_text(encoding="ascii").splitlines()
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    wanted = {f"cpu{number}" for number in _cores()}
    busy = 0
    for words in map(str.split, lines):
        if words and words[0] in wanted:
            busy += sum(int(value) for column, value in enumerate(words[1:]) if column not in (*_IDLE, *_WITHIN))
    own = os.times()
    own_s = own.user + own.system + own.children_user + own.children_system
    return _Counted(busy / ticks, own_s, time.monotonic())


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
