"""Interleaved timing: contenders run in turn (A B A B) in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.cpu_contention import LIMIT, Watch, wait_for_idle
from blastscope.runtime.types import ClassName

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
    """How long a comparison runs. Every round gives each side at least `calls` calls and about `seconds` seconds.

    Before a round the machine is given `patience_s` seconds to become idle; after that the round runs and is marked as busy.
    """

    rounds: int = 4
    calls: int = 2
    seconds: float = 3.0
    patience_s: float = 0.0


@dataclass(frozen=True)
class Turn:
    """One side's calls in one round."""

    times_ms: NDArray[np.float64]
    others: float | None = None  # share of the cores that others took meanwhile; None: not known
    began_busy: bool = False  # the machine didn't become idle before the round

    @property
    def busy(self) -> bool:
        """Whether others took enough of the machine to be seen in the times."""
        return self.began_busy or (self.others or 0.0) > LIMIT


class WrongAnswer(AssertionError):
    """A side is fast and wrong, which is no result."""


def run_in_turn(sides: Sequence[Side], images: Sequence[Image], pace: Pace) -> dict[str, list[Turn]]:
    """The turns of every side, by its name, all sides warmed up first and then run in turn. Every call is kept.

    Raises `WrongAnswer` when a side's labels aren't the expected ones, in the first call or in the last.
    """
    turns: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for side in sides:
        check(side, side.answer(images), len(images))
        side.answer(images)
    for _ in range(pace.rounds):
        others = wait_for_idle(pace.patience_s) if pace.patience_s > 0 else None
        for side in sides:
            turns[side.name].append(_one_turn(side, images, pace, began_busy=(others or 0.0) > LIMIT))
    return turns


def time_in_turn(sides: Sequence[Side], images: Sequence[Image], pace: Pace) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of every call, by the side's name, as `run_in_turn` takes them."""
    return {name: np.concatenate([turn.times_ms for turn in turns]) for name, turns in run_in_turn(sides, images, pace).items()}


def check(side: Side, labels: Sequence[ClassName | None], count: int) -> None:
    """Raises `WrongAnswer` unless `labels` are what `side` must give for its first `count` images."""
    wanted = (side.expected or ())[:count]
    if any(want not in (None, got) for want, got in zip(wanted, labels, strict=bool(wanted))):
        raise WrongAnswer(f"{side.name} answers {list(labels)}, expected {list(wanted)}")


def _one_turn(side: Side, images: Sequence[Image], pace: Pace, *, began_busy: bool) -> Turn:
    times: list[float] = []
    gc.collect()
    watch = Watch()
    end = time.perf_counter() + pace.seconds
    labels: Sequence[ClassName | None] = ()
    while len(times) < pace.calls or time.perf_counter() < end:
        start = time.perf_counter()
        labels = side.answer(images)
        times.append((time.perf_counter() - start) * 1e3)
    others = watch.others() if sum(times) > 200 else None  # shorter than that the counters say nothing
    check(side, labels, len(images))
    return Turn(np.array(times), others, began_busy)
