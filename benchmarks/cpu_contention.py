"""CPU contention: the share of the cores that other processes take, read from /proc/stat.

On a virtual machine the time that its neighbours take (steal) counts too. Elsewhere than on Linux the share is unknown.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

BUSY_THRESHOLD = 0.05  # of the cores: above it a figure is marked as taken on a busy machine
POLL_INTERVAL_S = 0.5  # the counters tick at 10 ms, so this is exact to 2 % on one core
PROC_STAT = Path("/proc/stat")
_NOT_BUSY_COLUMNS = (3, 4, 8, 9)  # idle, iowait; and guest times, which user time counts already


class _CpuTimes(NamedTuple):
    busy_s: float  # of the cores that this process may use
    process_s: float  # of this process and of its children that have ended
    clock_s: float


class ContentionMonitor:
    """Measures the share of the cores that other processes take between two calls.

    Parameters
    ----------
    proc_stat
        File with the kernel's CPU counters, in the format of /proc/stat.
    """

    def __init__(self, proc_stat: Path = PROC_STAT) -> None:
        self._proc_stat = proc_stat
        self._last = _read_cpu_times(proc_stat)

    def other_cpu_share(self) -> float | None:
        """The share of the cores that other processes took since the last call, or since construction.

        Returns
        -------
        float or None
            0 to 1, of the cores that this process may use; None where the counters can't be read.
        """
        now, last = _read_cpu_times(self._proc_stat), self._last
        self._last = now
        if now is None or last is None or now.clock_s <= last.clock_s:
            return None
        available = (now.clock_s - last.clock_s) * len(_usable_cpus())
        taken = (now.busy_s - last.busy_s) - (now.process_s - last.process_s)
        return float(min(1.0, max(0.0, taken / available)))


def wait_for_idle(timeout_s: float, *, threshold: float = BUSY_THRESHOLD) -> float | None:
    """Waits until other processes take no more than `threshold` of the cores.

    Parameters
    ----------
    timeout_s
        Seconds to wait at most.
    threshold
        Share of the cores, 0 to 1, up to which the machine counts as idle.

    Returns
    -------
    float or None
        The share that other processes took when last measured, 0 to 1; None where it is unknown.
    """
    monitor = ContentionMonitor()
    end = time.monotonic() + timeout_s
    while True:
        time.sleep(min(POLL_INTERVAL_S, max(timeout_s, 0.0)))
        other_share = monitor.other_cpu_share()
        if other_share is None or other_share <= threshold or time.monotonic() >= end:
            return other_share


def cpu_governor(cpus: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """The frequency governor of the first core, such as 'performance'; None: unknown, as on most virtual machines."""
    try:
        return (cpus / "cpu0" / "cpufreq" / "scaling_governor").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read_cpu_times(proc_stat: Path) -> _CpuTimes | None:
    try:
        lines = proc_stat.read_text(encoding="ascii").splitlines()
        ticks_per_s = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    usable = {f"cpu{number}" for number in _usable_cpus()}
    busy = 0
    for fields in map(str.split, lines):
        if fields and fields[0] in usable:
            busy += sum(int(value) for column, value in enumerate(fields[1:]) if column not in _NOT_BUSY_COLUMNS)
    times = os.times()
    process_s = times.user + times.system + times.children_user + times.children_system
    return _CpuTimes(busy / ticks_per_s, process_s, time.monotonic())


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
