"""Which voter may decide alone, and from where on: against the rule tried out value by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta  # type: ignore[import-untyped]

from blastscope.calibration.cascade.threshold_selection import (
    NEVER,
    EnginePredictions,
    FirstVoter,
    choose_threshold,
    clopper_pearson_upper,
    evaluate_left_out,
    max_flips,
    smallest_threshold,
)
from blastscope.runtime.inference.voting import vote

SHARES: dict[FirstVoter, float] = {"a": 0.5, "b": 0.5}


def voter_probabilities(seed: int, cells: int = 240, *, noise: float = 0.6, steps: float = 0.0) -> NDArray[np.float32]:
    """Three voters that look at one margin through noise; `steps` rounds margins, which makes ties."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 3, (cells, 1)) + rng.normal(0, noise, (cells, 3))
    if steps:
        margins = np.round(margins / steps) * steps
    return np.stack([1 / (1 + np.exp(margins)), 1 / (1 + np.exp(-margins))], axis=-1).astype(np.float32)


def owners(cells: int, patients: int = 6) -> list[str]:
    return [str(cell % patients) for cell in range(cells)]


@settings(max_examples=60)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.5, 2.0]), st.integers(0, 9))
def test_the_smallest_threshold_keeps_within_the_allowed_flips(seed: int, steps: float, allowed: int) -> None:
    answers = voter_probabilities(seed, 60, steps=steps)
    largest, flips = answers[:, 0].max(axis=1), answers[:, 0].argmax(axis=1) != vote(answers).label
    fine = [float(value) for value in np.unique(largest) if flips[largest >= value].sum() <= allowed]
    assert smallest_threshold(largest, flips, allowed) == min(fine, default=NEVER)


@pytest.mark.parametrize(("count", "cells"), [(0, 1752), (3, 1752), (0, 10), (5, 200), (199, 200)])
def test_the_upper_share_is_clopper_and_pearsons(count: int, cells: int) -> None:
    assert clopper_pearson_upper(count, cells) == pytest.approx(beta.ppf(0.95, count + 1, cells - count), rel=1e-6)
    assert clopper_pearson_upper(cells, cells) == 1


@settings(max_examples=40)
@given(st.integers(1, 20_000), st.floats(0, 0.05))
def test_max_flips_is_the_largest_count_within_the_upper_bound(cells: int, bound: float) -> None:
    count = max_flips(cells, bound)
    assert count == 0 or clopper_pearson_upper(count, cells) <= bound
    assert clopper_pearson_upper(count + 1, cells) > bound


def test_the_choice_keeps_its_bound_in_every_engine_and_skips_most() -> None:
    answers = {"one": voter_probabilities(1, 3000), "two": voter_probabilities(2, 3000)}
    predictions = EnginePredictions(answers, owners(3000), {"a": 0.5, "b": 0.6})
    chosen = choose_threshold(predictions, 0.02)
    assert chosen is not None
    each = [choose_threshold(predictions, 0.02, firsts=(first,)) for first in ("a", "b")]
    assert chosen.skipped == max(one.skipped for one in each if one)
    for engine in answers:
        calls = predictions.first_voter_calls(engine, chosen.first)
        early = calls.largest >= np.float32(chosen.threshold)
        assert 0 < calls.flips[early].sum() <= max_flips(3000, 0.02)
        assert chosen.skipped <= early.mean() * (1 - predictions.shares[chosen.first])


def test_the_cells_of_a_patient_are_called_by_what_all_others_choose() -> None:
    answers, names = voter_probabilities(3), owners(240)
    # one patient on whom a is sure and wrong: what the others choose changes its calls
    strange = np.flatnonzero(np.array(names) == "2")[:12]
    answers[strange, 0] = [0.01, 0.99]
    answers[strange, 1:] = [0.999, 0.001]
    predictions = EnginePredictions({"e": answers}, names, SHARES)
    everyone = choose_threshold(predictions, 0.01, firsts=("a",))
    assert everyone is not None
    assert everyone.threshold > 0.99
    (judged,) = evaluate_left_out(predictions, 0.01, firsts=("a",))
    assert set(strange) <= set(np.flatnonzero(judged.call != judged.full))
    others = np.array(names) != "2"
    alone = choose_threshold(
        EnginePredictions({"e": answers[others]}, [name for name in names if name != "2"], SHARES), 0.01, firsts=("a",)
    )
    assert alone is not None
    early = ~others & (answers[:, 0].max(axis=1) >= np.float32(alone.threshold))
    np.testing.assert_array_equal(judged.early & ~others, early)


def test_where_no_voter_may_decide_every_call_stays_that_of_all() -> None:
    answers = voter_probabilities(5)
    answers[:, :2] = answers[::-1, :2]  # both first voters know nothing
    answers[answers[:, 0].max(axis=1).argmax(), 2] = answers[answers[:, 0].max(axis=1).argmax(), 0, ::-1]
    answers[:, 2] = np.where(answers[:, 2] > 0.5, np.float32(1), np.float32(1e-9))  # and the combined one is always surest
    for first in (0, 1):
        surest = answers[:, first].max(axis=1).argmax()
        answers[surest, 2] = np.where(answers[surest, first] > 0.5, np.float32(1e-9), np.float32(1))
    predictions = EnginePredictions({"e": answers}, owners(240), SHARES)
    assert choose_threshold(predictions, 0.0) is None
    (judged,) = evaluate_left_out(predictions, 0.0)
    assert judged.skipped < 0.05


def test_calls_are_those_of_the_operating_point() -> None:
    answers = voter_probabilities(7)
    free, bound = (EnginePredictions({"e": answers}, owners(240), SHARES, threshold) for threshold in (None, 0.2))
    assert (bound.full("e") == vote(answers, 0.2).label).all()
    calls = bound.first_voter_calls("e", "b")
    assert (calls.call == (answers[:, 1, 1] >= np.float32(0.2))).all()
    assert (free.first_voter_calls("e", "b").call == answers[:, 1].argmax(axis=1)).all()
