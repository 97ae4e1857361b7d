"""Interleaved timing: contenders run alternately (A B A B) in one process, so that all see the same state of the machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.cpu_contention import BUSY_THRESHOLD, ContentionMonitor, wait_for_idle
from blastscope.runtime.types import ClassName

Image = NDArray[np.uint8]  # (H, W, 3) RGB
ClassifyFunction = Callable[[Sequence[Image]], Sequence[ClassName | None]]  # images to labels, both in host memory
MIN_MONITORED_MS = 200  # in less time the CPU's counters advance too little to give a share


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
