"""Sides of a comparison, run in turn (A B A B) in one process, each timed as its user waits."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.classes import ClassName

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Answer = Callable[[Sequence[Image]], Sequence[ClassName | None]]


@dataclass(frozen=True)
class Side:
    """One contender: images in host memory to labels in host memory, with the labels it must give (None: not compared)."""

    name: str  # network/precision/engine
    answer: Answer
    expected: tuple[ClassName | None, ...] | None = None


@dataclass(frozen=True)
class Pace:
    """How long a comparison runs. Every round gives each side at least `calls` calls and about `seconds` seconds."""

    rounds: int = 4
    calls: int = 2
    seconds: float = 3.0


class WrongAnswer(AssertionError):
    """A side is fast and wrong, which is no result."""


def time_in_turn(sides: Sequence[Side], images: Sequence[Image], pace: Pace) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of every call, by the side's name, all sides warmed up first and then run in turn.

    Raises `WrongAnswer` when a side's labels aren't the expected ones, in the first call or in the last.
    """
    samples: dict[str, list[float]] = {side.name: [] for side in sides}
    for side in sides:
        check(side, side.answer(images), len(images))
        side.answer(images)
    for _ in range(pace.rounds):
        for side in sides:
            samples[side.name] += _one_turn(side, images, pace)
    return {name: np.array(times) for name, times in samples.items()}


def check(side: Side, labels: Sequence[ClassName | None], count: int) -> None:
    """Raises `WrongAnswer` unless `labels` are what `side` must give for its first `count` images."""
    wanted = (side.expected or ())[:count]
    if any(want not in (None, got) for want, got in zip(wanted, labels, strict=bool(wanted))):
        raise WrongAnswer(f"{side.name} answers {list(labels)}, expected {list(wanted)}")


def _one_turn(side: Side, images: Sequence[Image], pace: Pace) -> list[float]:
    times: list[float] = []
    gc.collect()
    end = time.perf_counter() + pace.seconds
    labels: Sequence[ClassName | None] = ()
    while len(times) < pace.calls or time.perf_counter() < end:
        start = time.perf_counter()
        labels = side.answer(images)
        times.append((time.perf_counter() - start) * 1e3)
    check(side, labels, len(images))
    return times
