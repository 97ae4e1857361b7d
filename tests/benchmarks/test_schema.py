"""Rows: percentiles, ratios, busy rounds and the roofline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from blastscope.benchmarks.interleaved_timing import BUSY_THRESHOLD, Round
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import MIN_CALLS_P999, Row, make_row, with_roofline

PEAKS = (Peak(execution="f32", gmacs=50.0, kernel="fake"), Peak(execution="int8", gmacs=200.0, kernel="fake"))


def rounds_of(*rounds: Sequence[float]) -> list[Round]:
    return [Round(np.array(times, np.float64)) for times in rounds]


def test_a_row_has_numpys_percentiles_and_the_ratio_of_the_medians() -> None:
    rounds = ([5.0, 1.0], [2.0, 100.0])
    row = make_row("net/int8/openvino", 8, rounds_of(*rounds), rounds_of([70.0], [7.0, 14.0]))
    assert (row.p50_ms, row.max_ms, row.calls) == (3.5, 100.0, 4)
    assert row.p95_ms == pytest.approx(np.percentile(np.concatenate(rounds), 95))
    assert row.rounds_ms == (3.0, 51.0)
    assert row.samples_ms == ((5.0, 1.0), (2.0, 100.0))
    assert row.ratio == 4.0
    assert row.ratio_low is not None
    assert row.ratio_high is not None
    assert row.ratio_low <= 4.0 <= row.ratio_high
    assert make_row("net/fp32/torch", 1, rounds_of(*rounds)).ratio is None


def test_one_call_in_a_thousand_needs_a_thousand_calls() -> None:
    times = np.arange(MIN_CALLS_P999, dtype=np.float64)
    assert make_row("a/b/c", 1, rounds_of(list(times[:-1]))).p999_ms is None
    assert make_row("a/b/c", 1, rounds_of(list(times))).p999_ms == pytest.approx(np.percentile(times, 99.9))


def test_a_row_gives_the_load_of_others_and_the_disturbed_rounds() -> None:
    calm, disturbed = Round(np.ones(2), BUSY_THRESHOLD / 2), Round(np.ones(2), 3 * BUSY_THRESHOLD)
    late = Round(np.ones(2), None, started_busy=True)
    row = make_row("a/b/c", 1, [calm, disturbed, late])
    assert (row.other_cpu_share, row.busy_rounds, row.busy) == (3 * BUSY_THRESHOLD, 2, True)
    assert not make_row("a/b/c", 1, [calm]).busy


def test_the_roofline_of_a_row_is_its_work_at_the_peak_of_its_type() -> None:
    row = make_row("net/int8/openvino", 2, rounds_of([40.0])).model_copy(update={"gmac": 4.0, "execution": "int8"})
    found = with_roofline(row, PEAKS)
    assert (found.roofline_ms, found.peak_fraction) == (20.0, 0.5)
    assert with_roofline(row.model_copy(update={"execution": "bf16"}), PEAKS).peak_fraction is None


def test_a_row_without_the_newer_fields_is_still_read() -> None:
    old = {"name": "a/b/c", "batch": 1, "calls": 2, "p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0, "max_ms": 1.0, "ratio": None}
    assert Row.model_validate(old).scope == "pixels"
