"""How far long work is: told from time to time, never at its end."""

from __future__ import annotations

import pytest

from blastscope.calibration import progress as pace
from blastscope.calibration.progress import Pace, lasting


def test_what_is_left_is_told_every_few_seconds_and_not_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))  # seconds, each time that somebody looks
    monkeypatch.setattr(pace.time, "monotonic", lambda: float(next(clock)))
    told: list[str] = []
    work = Pace("cells", 60, told.append)
    for _ in range(6):
        work.step(10)
    assert told == ["30 of 60 cells, about 12 s left"]
    Pace("cells", 1, None).step()  # nobody listens


def test_a_time_is_told_as_people_say_it() -> None:
    assert [lasting(seconds) for seconds in (0.2, 40.4, 89, 100, 3600)] == ["1 s", "40 s", "89 s", "2 min", "60 min"]
