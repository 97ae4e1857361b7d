"""Two runs of the benchmarks: what is slower or faster beyond noise, and whether they can be compared at all.

Intervals by bootstrap over rounds: calls of one round share the machine's mood, so rounds are what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.bootstrap import change_interval
from blastscope.benchmarks.schema import BenchResult, Machine, Row

LEAST = 0.05  # of a change that is told: from one process to the next memory alone moves more than a run's own rounds show
ROUNDS = 3  # fewer don't say how much rounds differ
SAME = ("processor", "features", "cores", "system", "governor")  # what makes two machines one for a time

Verdict = Literal["slower", "faster", "as before", "busy", "too few rounds", "gone", "new"]


class Change(NamedTuple):
    """One row of both runs."""

    name: str
    batch: int
    verdict: Verdict
    old_ms: float | None = None
    new_ms: float | None = None
    low: float | None = None  # interval of new / old
    high: float | None = None

    @property
    def text(self) -> str:
        """As people read it."""
        head = f"{self.name}, batch {self.batch}: "
        if self.old_ms is None or self.new_ms is None:
            return f"{head}{self.verdict}"
        times = f"{self.old_ms:.2f} to {self.new_ms:.2f} ms, {100 * (self.new_ms / self.old_ms - 1):+.1f} %"
        if self.low is None or self.high is None:
            return f"{head}{self.verdict}, not judged ({times})"
        return f"{head}{self.verdict} ({times}; interval {100 * (self.low - 1):+.1f} to {100 * (self.high - 1):+.1f} %)"


class Comparison(NamedTuple):
    """What became of every row, and why the runs can't be compared, if they can't."""

    changes: tuple[Change, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def slower(self) -> bool:
        """Whether anything is slower beyond noise."""
        return any(change.verdict == "slower" for change in self.changes)


def compare(old: BenchResult, new: BenchResult) -> Comparison:
    """Every row of either run. With obstacles nothing is judged."""
    obstacles = _obstacles(old.machine, new.machine)
    if obstacles:
        return Comparison((), obstacles, ())
    before, after = ({_key(row): row for row in run.rows} for run in (old, new))
    changes = [_change(before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]
    names = sorted({*old.versions, *new.versions})
    moved = [
        f"{name} {old.versions.get(name, 'absent')} is now {new.versions.get(name, 'absent')}"
        for name in names
        if old.versions.get(name) != new.versions.get(name)
    ]
    return Comparison(tuple(changes), (), tuple(moved))


def _obstacles(old: Machine, new: Machine) -> tuple[str, ...]:
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in SAME]
    return tuple(f"{name}: {_shown(before)} then, {_shown(now)} now" for name, before, now in pairs if before != now)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _key(row: Row) -> tuple[str, str, int, int | None]:
    return row.what, row.name, row.batch, row.threads


def _change(old: Row | None, new: Row | None) -> Change:
    one = new or old
    assert one is not None  # a key comes from one of the two
    name = one.name if one.what == "pixels" else f"{one.what} {one.name}"
    if old is None or new is None:
        return Change(name, one.batch, "new" if old is None else "gone")
    told = Change(name, one.batch, "as before", old.p50_ms, new.p50_ms)
    if old.busy or new.busy:
        return told._replace(verdict="busy")
    if min(len(old.rounds_ms), len(new.rounds_ms)) < ROUNDS:
        return told._replace(verdict="too few rounds")
    low, high = change_interval(_rounds(old), _rounds(new))
    verdict: Verdict = "slower" if low > 1 + LEAST else "faster" if high < 1 / (1 + LEAST) else "as before"
    return told._replace(verdict=verdict, low=low, high=high)


def _rounds(row: Row) -> Sequence[NDArray[np.float64]]:
    """The calls of each round, or their medians where the calls weren't kept."""
    return [np.array(calls) for calls in row.samples_ms or [(median,) for median in row.rounds_ms]]
