"""The harness of comparisons: turns, wrong answers, rows. Times themselves are never tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from blastscope.benchmarks.bench import Plan, bench, clear_cases
from blastscope.benchmarks.networks import Contender
from blastscope.benchmarks.rows import BenchResult, make_row
from blastscope.benchmarks.turns import Image, Pace, Side, WrongAnswer, time_in_turn
from blastscope.runtime.classes import ClassName

IMAGE: Image = np.zeros((4, 4, 3), np.uint8)
PACE = Pace(rounds=3, calls=2, seconds=0.0)


def test_sides_run_in_turn_and_every_call_is_kept() -> None:
    order: list[str] = []

    def answer(name: str) -> Any:
        def run(images: Sequence[Image]) -> list[ClassName]:
            order.append(name)
            return ["all"] * len(images)

        return run

    times = time_in_turn([Side("a", answer("a"), ("all",)), Side("b", answer("b"))], [IMAGE], PACE)
    assert "".join(order) == "aabb" + "aabb" * 3  # warm-up, then the turns
    assert {name: len(found) for name, found in times.items()} == {"a": 6, "b": 6}


@pytest.mark.parametrize("wrong_from", [1, 4])
def test_a_side_that_answers_wrong_is_no_result_however_late(wrong_from: int) -> None:
    calls = iter(range(1, 100))

    def answer(images: Sequence[Image]) -> list[ClassName]:
        return ["hem" if next(calls) >= wrong_from else "all"]

    with pytest.raises(WrongAnswer, match="fast answers"):
        time_in_turn([Side("fast", answer, ("all",))], [IMAGE], PACE)


def test_a_row_has_numpys_percentiles_and_the_ratio_of_the_medians() -> None:
    times = np.array([5.0, 1.0, 2.0, 100.0])
    row = make_row("net/int8/openvino", 8, times, np.array([70.0, 7.0, 14.0]))
    assert (row.p50_ms, row.max_ms, row.calls) == (3.5, 100.0, 4)
    assert row.p95_ms == pytest.approx(np.percentile(times, 95))
    assert row.ratio == 4.0
    assert make_row("net/fp32/torch", 1, times, None).ratio is None


def test_a_bench_names_precision_and_engine_and_says_what_was_left_out(tiny_bundle: Any, tmp_path: Any) -> None:
    path = tiny_bundle.make("fp32", "int8", tolerances={"fp32": {"f32": 1e-4, "bf16": 0.5}})
    contender = Contender("tiny", tmp_path, path, same_weights=True)
    told: list[str] = []
    result = bench([contender], Plan(against_torch=False, batches=(1, 2), pace=Pace(1, 1, 0.0)), told.append)
    assert BenchResult.model_validate(json.loads(result.model_dump_json())) == result
    names = {row.name for row in result.rows}
    assert {"tiny/fp32/openvino", "tiny/int8/openvino"} <= names
    assert "tiny/fp32-bf16/openvino" in names or any("tiny/fp32-bf16/openvino" in note for note in result.notes)
    assert all(row.load_s is not None and row.load_s > 0 for row in result.rows)
    assert {"processor", "features", "cores"} <= set(result.machine.model_dump())


def test_clear_cases_are_the_same_cells_each_time(tiny_bundle: Any) -> None:
    path = tiny_bundle.make("fp32")
    first, second = clear_cases(path, 2), clear_cases(path, 2)
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
