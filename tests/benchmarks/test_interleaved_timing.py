"""Interleaved timing: the order of calls, and wrong labels. Times themselves are never tested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from blastscope.benchmarks.interleaved_timing import (
    Contender,
    Image,
    TimingConfig,
    WrongAnswer,
    interleaved_times_ms,
    time_interleaved,
)
from blastscope.runtime.types import ClassName

IMAGE: Image = np.zeros((4, 4, 3), np.uint8)
TIMING = TimingConfig(rounds=3, min_calls=2, seconds=0.0)


def test_contenders_are_interleaved_and_every_call_is_kept() -> None:
    order: list[str] = []

    def classifier(name: str) -> Any:
        def classify(images: Sequence[Image]) -> list[ClassName]:
            order.append(name)
            return ["all"] * len(images)

        return classify

    contenders = [Contender("a", classifier("a"), ("all",)), Contender("b", classifier("b"))]
    found = time_interleaved(contenders, [IMAGE], TIMING)
    assert "".join(order) == "aabb" + "aabb" * 3  # warm-up, then the rounds
    assert {name: [len(one.times_ms) for one in rounds] for name, rounds in found.items()} == {"a": [2, 2, 2], "b": [2, 2, 2]}
    assert {name: len(times) for name, times in interleaved_times_ms(contenders, [IMAGE], TIMING).items()} == {"a": 6, "b": 6}


@pytest.mark.parametrize("wrong_from", [1, 4])
def test_a_contender_with_wrong_labels_is_no_result_however_late(wrong_from: int) -> None:
    calls = iter(range(1, 100))

    def classify(images: Sequence[Image]) -> list[ClassName]:
        return ["hem" if next(calls) >= wrong_from else "all"]

    with pytest.raises(WrongAnswer, match="fast answers"):
        time_interleaved([Contender("fast", classify, ("all",))], [IMAGE], TIMING)
