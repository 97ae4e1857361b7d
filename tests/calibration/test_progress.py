"""Progress of long work: logged from time to time, never at its end."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from blastscope.calibration import evaluation as module
from blastscope.calibration.evaluation import ProgressLog
from blastscope.runtime.io.printable import format_duration


def test_the_time_left_is_logged_every_few_seconds_not_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blastscope")
    clock = iter(range(0, 1000, 4))  # seconds, each time that the clock is read
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    work = ProgressLog("cells", 60)
    for _ in range(6):
        work.step(10)
    assert caplog.messages == ["30 of 60 cells, about 12 s left"]


def test_a_duration_is_written_in_seconds_minutes_or_hours() -> None:
    seconds = (0.2, 40.4, 89, 100, 3600, 12600)
    assert [format_duration(one) for one in seconds] == ["1 s", "40 s", "89 s", "2 min", "60 min", "3.5 h"]
