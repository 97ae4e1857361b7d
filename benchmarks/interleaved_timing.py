"""Interleaved timing: contenders run alternately (A B A B) in one process, so that all see the same state of the machine."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.cpu_info import allowed_cpus
from blastscope.runtime.types import ClassName

BUSY_THRESHOLD = 0.05  # of the cores: above it a figure is marked as taken on a busy machine
POLL_INTERVAL_S = 0.5  # the counters tick at 10 ms, so this is exact to 2 % on one core
PROC_STAT = Path("/proc/stat")
_NOT_BUSY_COLUMNS = (3, 4, 8, 9)  # idle, iowait; and guest times, which user time counts already
Image = NDArray[np.uint8]  # (H, W, 3) RGB
ClassifyFunction = Callable[[Sequence[Image]], Sequence[ClassName | None]]  # images to labels, both in host memory
MIN_MONITORED_MS = 200  # in less time the CPU's counters advance too little to give a share


class _CpuTimes(NamedTuple):
    """Processor times at one moment, in seconds.

    Attributes
    ----------
    busy_s : float
        Of the cores that this process may use.
    process_s : float
        Of this process and of its children that have ended.
    clock_s : float
        The monotonic clock when they were read.
    """

    busy_s: float
    process_s: float
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
        available = (now.clock_s - last.clock_s) * len(allowed_cpus())
        taken = (now.busy_s - last.busy_s) - (now.process_s - last.process_s)
        return float(min(1.0, max(0.0, taken / available)))


def wait_for_idle(timeout_s: float) -> float | None:
    """Waits until other processes take no more than `BUSY_THRESHOLD` of the cores.

    Parameters
    ----------
    timeout_s
        Seconds to wait at most.

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
        if other_share is None or other_share <= BUSY_THRESHOLD or time.monotonic() >= end:
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
    usable = {f"cpu{number}" for number in allowed_cpus()}
    busy = 0
    for fields in map(str.split, lines):
        if fields and fields[0] in usable:
            busy += sum(int(value) for column, value in enumerate(fields[1:]) if column not in _NOT_BUSY_COLUMNS)
    times = os.times()
    process_s = times.user + times.system + times.children_user + times.children_system
    return _CpuTimes(busy / ticks_per_s, process_s, time.monotonic())


@dataclass(frozen=True)
class Contender:
    """One implementation in a comparison.

    Attributes
    ----------
    name
        `network/precision/engine`.
    classify
        What is timed: images in host memory to labels in host memory.
    expected
        The label that each image must get; None for an image whose label isn't compared, or for all of them.
    """

    name: str
    classify: ClassifyFunction
    expected: tuple[ClassName | None, ...] | None = None


@dataclass(frozen=True)
class TimingConfig:
    """How long a comparison runs.

    Attributes
    ----------
    rounds
        Number of rounds; in each of them every contender is timed.
    min_calls
        Calls of each contender in a round, at least.
    seconds
        Duration of a contender's calls in a round, about.
    idle_timeout_s
        Seconds that a round waits at most for an idle machine; after that it runs and is marked as busy.
    """

    rounds: int = 4
    min_calls: int = 2
    seconds: float = 3.0
    idle_timeout_s: float = 0.0


@dataclass(frozen=True)
class Round:
    """One contender's calls in one round.

    Attributes
    ----------
    times_ms
        Float64 (N,): milliseconds of each call.
    other_cpu_share
        Share of the cores, 0 to 1, that other processes took meanwhile; None where it is unknown.
    started_busy
        Whether the machine was still busy when the round began.
    """

    times_ms: NDArray[np.float64]
    other_cpu_share: float | None = None
    started_busy: bool = False

    @property
    def busy(self) -> bool:
        """Whether other processes took enough of the machine to show in the times."""
        return self.started_busy or (self.other_cpu_share or 0.0) > BUSY_THRESHOLD


class WrongAnswer(AssertionError):
    """A contender gives wrong labels, so that its times mean nothing."""


def time_interleaved(contenders: Sequence[Contender], images: Sequence[Image], timing: TimingConfig) -> dict[str, list[Round]]:
    """Times all contenders alternately on the same images, after two calls of each as warm-up. No call is dropped.

    Parameters
    ----------
    contenders
        What is compared, in the order of a round.
    images
        Uint8 (H, W, 3) RGB, of any sizes: one call classifies all of them.
    timing
        How many rounds, and how long they are.

    Returns
    -------
    dict of str to list of Round
        The rounds of each contender, by its name.

    Raises
    ------
    WrongAnswer
        A contender's labels aren't the expected ones, in its first call or in the last one of a round.
    """
    rounds: dict[str, list[Round]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        check_labels(contender, contender.classify(images), len(images))
        contender.classify(images)
    for _ in range(timing.rounds):
        other_share = wait_for_idle(timing.idle_timeout_s) if timing.idle_timeout_s > 0 else None
        started_busy = (other_share or 0.0) > BUSY_THRESHOLD
        for contender in contenders:
            rounds[contender.name].append(_time_round(contender, images, timing, started_busy=started_busy))
    return rounds


def interleaved_times_ms(
    contenders: Sequence[Contender], images: Sequence[Image], timing: TimingConfig
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of every call, float64 (N,), by the contender's name, as `time_interleaved` takes them.

    Raises
    ------
    WrongAnswer
        As `time_interleaved` does.
    """
    found = time_interleaved(contenders, images, timing)
    return {name: np.concatenate([one.times_ms for one in rounds]) for name, rounds in found.items()}


def check_labels(contender: Contender, labels: Sequence[ClassName | None], count: int) -> None:
    """Compares `labels` with those that `contender` must give for its first `count` images.

    Raises
    ------
    WrongAnswer
        They differ for an image that has an expected label.
    """
    expected = (contender.expected or ())[:count]
    if any(right not in (None, label) for right, label in zip(expected, labels, strict=bool(expected))):
        raise WrongAnswer(f"{contender.name} answers {list(labels)}, expected {list(expected)}")


def _time_round(contender: Contender, images: Sequence[Image], timing: TimingConfig, *, started_busy: bool) -> Round:
    times: list[float] = []
    gc.collect()
    monitor = ContentionMonitor()
    end = time.perf_counter() + timing.seconds
    labels: Sequence[ClassName | None] = ()
    while len(times) < timing.min_calls or time.perf_counter() < end:
        start = time.perf_counter()
        labels = contender.classify(images)
        times.append((time.perf_counter() - start) * 1e3)
    other_share = monitor.other_cpu_share() if sum(times) > MIN_MONITORED_MS else None
    check_labels(contender, labels, len(images))
    return Round(np.array(times), other_share, started_busy)
