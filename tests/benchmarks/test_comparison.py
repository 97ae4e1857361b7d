"""Two runs compared: what is slower beyond noise, and what can't be judged."""

from __future__ import annotations

import numpy as np
import pytest

from blastscope.benchmarks.interleaved_timing import Round
from blastscope.benchmarks.results import compare_runs
from blastscope.benchmarks.schema import BenchResult, Machine, Row, change_interval, make_row, ratio_interval

MACHINE = Machine(processor="fake", features=("avx2",), cores=2, system="Linux", python="3.11")


def row(name: str, level_ms: float, *, spread: float = 0.01, rounds: int = 5, share: float = 0.0) -> Row:
    rng = np.random.default_rng(int(1000 * level_ms))
    return make_row(name, 1, [Round(level_ms * rng.normal(1, spread, 8), share) for _ in range(rounds)])


def run(*rows: Row, machine: Machine = MACHINE, **versions: str) -> BenchResult:
    return BenchResult(machine=machine, versions={"openvino": "1", **versions}, rows=rows)


def verdicts(old: BenchResult, new: BenchResult) -> dict[str, str]:
    return {change.name: change.verdict for change in compare_runs(old, new).changes}


def test_only_what_is_slower_or_faster_beyond_noise_counts_as_changed() -> None:
    old = run(row("a/int8/x", 10.0), row("b/int8/x", 10.0), row("c/int8/x", 10.0), row("d/int8/x", 10.0, spread=0.3))
    new = run(row("a/int8/x", 12.0), row("b/int8/x", 8.0), row("c/int8/x", 10.1), row("d/int8/x", 10.4, spread=0.3))
    assert verdicts(old, new) == {"a/int8/x": "slower", "b/int8/x": "faster", "c/int8/x": "as before", "d/int8/x": "as before"}
    assert compare_runs(old, new).slower
    assert not compare_runs(new, new).slower


def test_busy_rows_and_rows_of_too_few_rounds_are_not_judged() -> None:
    old = run(row("a/x/y", 10.0), row("b/x/y", 10.0, rounds=2), row("gone/x/y", 1.0))
    new = run(row("a/x/y", 20.0, share=0.5), row("b/x/y", 20.0), row("new/x/y", 1.0))
    assert verdicts(old, new) == {"a/x/y": "busy", "b/x/y": "too few rounds", "gone/x/y": "gone", "new/x/y": "new"}
    assert not compare_runs(old, new).slower


def test_runs_of_two_machines_are_not_compared() -> None:
    other = MACHINE.model_copy(update={"cores": 4})
    found = compare_runs(run(row("a/x/y", 10.0)), run(row("a/x/y", 20.0), machine=other))
    assert found.changes == ()
    assert found.machine_differences == ("cores: 2 then, 4 now",)


def test_versions_that_moved_are_named() -> None:
    assert compare_runs(run(torch="2"), run(torch="3", timm="1")).notes == ("timm absent is now 1", "torch 2 is now 3")


def test_intervals_hold_the_estimate_and_pair_the_rounds_of_one_run() -> None:
    rng = np.random.default_rng(0)
    slowdowns = rng.normal(1, 0.2, 6)  # of both contenders of a round
    slow, fast = ([level * one * rng.normal(1, 0.01, 20) for one in slowdowns] for level in (20.0, 10.0))
    low, high = ratio_interval(slow, fast)
    assert low <= 2.0 <= high
    assert high - low < 0.1  # rounds are drawn in pairs, so the slowdowns cancel
    wide = change_interval(fast, slow)
    assert wide[0] <= 2.0 <= wide[1]
    assert wide[1] - wide[0] > 0.2
    with pytest.raises(ValueError, match="equally many"):
        ratio_interval(slow, fast[:2])
