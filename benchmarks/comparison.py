"""Comparison of two runs: which rows are slower or faster beyond noise, and whether the runs can be compared at all.

Intervals are by bootstrap over rounds, since calls of one round share the machine's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.schema import BenchResult, Machine, Row, change_interval

MIN_CHANGE = 0.05  # below it nothing counts: memory layout alone moves times more between processes than within a run
MIN_ROUNDS = 3  # fewer don't show how much rounds differ
MACHINE_KEYS = ("processor", "features", "cores", "system", "governor")  # equal on machines whose times can be compared

Verdict = Literal["slower", "faster", "as before", "busy", "too few rounds", "gone", "new"]


class Change(NamedTuple):
    """What became of one row."""

    name: str
    batch: int
    verdict: Verdict
    old_ms: float | None = None
    new_ms: float | None = None
    low: float | None = None  # interval of new / old
    high: float | None = None

    @property
    def text(self) -> str:
        """The change in one line."""
        head = f"{self.name}, batch {self.batch}: "
        if self.old_ms is None or self.new_ms is None:
            return f"{head}{self.verdict}"
        times = f"{self.old_ms:.2f} to {self.new_ms:.2f} ms, {100 * (self.new_ms / self.old_ms - 1):+.1f} %"
        if self.low is None or self.high is None:
            return f"{head}{self.verdict}, not judged ({times})"
        return f"{head}{self.verdict} ({times}; interval {100 * (self.low - 1):+.1f} to {100 * (self.high - 1):+.1f} %)"


class Comparison(NamedTuple):
    """What became of every row; or why the runs can't be compared.

    Attributes
    ----------
    changes
        One for each row of either run; none where the machines differ.
    machine_differences
        Why the times can't be compared, one line each.
    notes
        Versions of libraries that changed, one line each.
    """

    changes: tuple[Change, ...]
    machine_differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def slower(self) -> bool:
        """Whether any row is slower beyond noise."""
        return any(change.verdict == "slower" for change in self.changes)


def compare(old: BenchResult, new: BenchResult) -> Comparison:
    """Compares two runs row by row.

    Parameters
    ----------
    old, new
        The earlier and the later run.

    Returns
    -------
    Comparison
        Without changes where the runs come from different machines.
    """
    differences = _machine_differences(old.machine, new.machine)
    if differences:
        return Comparison((), differences, ())
    before, after = ({_key(row): row for row in run.rows} for run in (old, new))
    changes = [_change(before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]
    names = sorted({*old.versions, *new.versions})
    notes = [
        f"{name} {old.versions.get(name, 'absent')} is now {new.versions.get(name, 'absent')}"
        for name in names
        if old.versions.get(name) != new.versions.get(name)
    ]
    return Comparison(tuple(changes), (), tuple(notes))


def _machine_differences(old: Machine, new: Machine) -> tuple[str, ...]:
    values = [(name, getattr(old, name), getattr(new, name)) for name in MACHINE_KEYS]
    return tuple(f"{name}: {_format(before)} then, {_format(now)} now" for name, before, now in values if before != now)


def _format(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _key(row: Row) -> tuple[str, str, int, int | None]:
    return row.scope, row.name, row.batch, row.threads


def _change(old: Row | None, new: Row | None) -> Change:
    row = new or old
    assert row is not None  # a key comes from one of the two
    name = row.name if row.scope == "pixels" else f"{row.scope} {row.name}"
    if old is None or new is None:
        return Change(name, row.batch, "new" if old is None else "gone")
    change = Change(name, row.batch, "as before", old.p50_ms, new.p50_ms)
    if old.busy or new.busy:
        return change._replace(verdict="busy")
    if min(len(old.rounds_ms), len(new.rounds_ms)) < MIN_ROUNDS:
        return change._replace(verdict="too few rounds")
    low, high = change_interval(_round_times(old), _round_times(new))
    verdict: Verdict = "slower" if low > 1 + MIN_CHANGE else "faster" if high < 1 / (1 + MIN_CHANGE) else "as before"
    return change._replace(verdict=verdict, low=low, high=high)


def _round_times(row: Row) -> Sequence[NDArray[np.float64]]:
    """The calls of each round in milliseconds, or their median where the row has no samples."""
    return [np.array(times) for times in row.samples_ms or [(median,) for median in row.rounds_ms]]
