"""CPU contention: counters that are read, and a wait that ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from blastscope.benchmarks.interleaved_timing import ContentionMonitor, cpu_governor, wait_for_idle


def test_the_share_of_other_processes_is_counted_from_kernel_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = tmp_path / "stat"
    clock = iter([0.0, 2.0, 2.0])
    monkeypatch.setattr("blastscope.benchmarks.interleaved_timing.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("blastscope.benchmarks.interleaved_timing.allowed_cpus", lambda: [0, 1])
    monkeypatch.setattr("blastscope.benchmarks.interleaved_timing.os.sysconf", lambda name: 100)
    now = type("Times", (), {"user": 0.0, "system": 0.0, "children_user": 0.0, "children_system": 0.0})
    monkeypatch.setattr("blastscope.benchmarks.interleaved_timing.os.times", lambda: now)
    counters.write_text("cpu 9 9\ncpu0 100 0 0 500 7 0 0 0 0 0\ncpu1 50 0 0 900 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n")
    monitor = ContentionMonitor(counters)
    # in two seconds 190 ticks of two cores: 40 of them steal, 100 of them our own; the third core can't be used by us
    counters.write_text("cpu0 200 0 0 500 9 0 0 40 70 0\ncpu1 100 0 0 900 0 0 0 0 0 0\ncpu2 400 0 0 0 0 0 0 0 0 0\n")
    now.user, now.children_system = 0.6, 0.4  # type: ignore[attr-defined]
    assert monitor.other_cpu_share() == pytest.approx((1.9 - 1.0) / (2 * 2.0))
    assert monitor.other_cpu_share() is None  # no time has passed
    assert ContentionMonitor(tmp_path / "absent").other_cpu_share() is None


def test_the_wait_for_an_idle_machine_ends_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.5, 0.01, 0.9, 0.9])
    monkeypatch.setattr(ContentionMonitor, "other_cpu_share", lambda self: next(shares))
    monkeypatch.setattr("blastscope.benchmarks.interleaved_timing.POLL_INTERVAL_S", 0.0)
    assert wait_for_idle(60.0) == 0.01
    assert wait_for_idle(0.0) == 0.9


def test_a_governor_is_given_only_where_it_can_be_read(tmp_path: Path) -> None:
    assert cpu_governor(tmp_path) is None
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("performance\n")
    assert cpu_governor(tmp_path) == "performance"
