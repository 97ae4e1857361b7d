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
    Candidates,
    First,
    choose,
    flips_allowed,
    judge_left_out,
    smallest_threshold,
    upper_share,
)
from blastscope.runtime.inference.voting import vote

SHARES: dict[First, float] = {"a": 0.5, "b": 0.5}


def told(seed: int, cells: int = 240, *, noise: float = 0.6, steps: float = 0.0) -> NDArray[np.float32]:
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
def test_the_smallest_threshold_is_the_smallest_that_keeps_within_the_flips(seed: int, steps: float, allowed: int) -> None:
    answers = told(seed, 60, steps=steps)
    largest, flips = answers[:, 0].max(axis=1), answers[:, 0].argmax(axis=1) != vote(answers).label
    fine = [float(value) for value in np.unique(largest) if flips[largest >= value].sum() <= allowed]
    assert smallest_threshold(largest, flips, allowed) == min(fine, default=NEVER)


@pytest.mark.parametrize(("count", "cells"), [(0, 1752), (3, 1752), (0, 10), (5, 200), (199, 200)])
def test_the_upper_share_is_clopper_and_pearsons(count: int, cells: int) -> None:
    assert upper_share(count, cells) == pytest.approx(beta.ppf(0.95, count + 1, cells - count), rel=1e-6)
    assert upper_share(cells, cells) == 1


@settings(max_examples=40)
@given(st.integers(1, 20_000), st.floats(0, 0.05))
def test_the_flips_allowed_are_the_most_whose_upper_share_is_within_the_bound(cells: int, bound: float) -> None:
    count = flips_allowed(cells, bound)
    assert count == 0 or upper_share(count, cells) <= bound
    assert upper_share(count + 1, cells) > bound


def test_the_choice_keeps_its_bound_in_every_engine_and_skips_most() -> None:
    answers = {"one": told(1, 3000), "two": told(2, 3000)}
    candidates = Candidates(answers, owners(3000), {"a": 0.5, "b": 0.6})
    chosen = choose(candidates, 0.02)
    assert chosen is not None
    each = [choose(candidates, 0.02, firsts=(first,)) for first in ("a", "b")]
    assert chosen.skipped == max(one.skipped for one in each if one)
    for engine in answers:
        opinion = candidates.opinion(engine, chosen.first)
        early = opinion.largest >= np.float32(chosen.threshold)
        assert 0 < opinion.flips[early].sum() <= flips_allowed(3000, 0.02)
        assert chosen.skipped <= early.mean() * (1 - candidates.shares[chosen.first])


def test_the_cells_of_a_patient_are_called_by_what_all_others_choose() -> None:
    answers, names = told(3), owners(240)
    # one patient on whom a is sure and wrong: what the others choose changes its calls
    strange = np.flatnonzero(np.array(names) == "2")[:12]
    answers[strange, 0] = [0.01, 0.99]
    answers[strange, 1:] = [0.999, 0.001]
    candidates = Candidates({"e": answers}, names, SHARES)
    everyone = choose(candidates, 0.01, firsts=("a",))
    assert everyone is not None
    assert everyone.threshold > 0.99
    (judged,) = judge_left_out(candidates, 0.01, firsts=("a",))
    assert set(strange) <= set(np.flatnonzero(judged.call != judged.full))
    others = np.array(names) != "2"
    alone = choose(Candidates({"e": answers[others]}, [name for name in names if name != "2"], SHARES), 0.01, firsts=("a",))
    assert alone is not None
    early = ~others & (answers[:, 0].max(axis=1) >= np.float32(alone.threshold))
    np.testing.assert_array_equal(judged.early & ~others, early)


def test_where_no_voter_may_decide_every_call_stays_that_of_all() -> None:
    answers = told(5)
    answers[:, :2] = answers[::-1, :2]  # both first voters know nothing
    answers[answers[:, 0].max(axis=1).argmax(), 2] = answers[answers[:, 0].max(axis=1).argmax(), 0, ::-1]
    answers[:, 2] = np.where(answers[:, 2] > 0.5, np.float32(1), np.float32(1e-9))  # and the combined one is always surest
    for first in (0, 1):
        surest = answers[:, first].max(axis=1).argmax()
        answers[surest, 2] = np.where(answers[surest, first] > 0.5, np.float32(1e-9), np.float32(1))
    candidates = Candidates({"e": answers}, owners(240), SHARES)
    assert choose(candidates, 0.0) is None
    (judged,) = judge_left_out(candidates, 0.0)
    assert judged.skipped < 0.05


def test_calls_are_those_of_the_operating_point() -> None:
    answers = told(7)
    free, bound = (Candidates({"e": answers}, owners(240), SHARES, threshold) for threshold in (None, 0.2))
    assert (bound.full("e") == vote(answers, 0.2).label).all()
    opinion = bound.opinion("e", "b")
    assert (opinion.call == (answers[:, 1, 1] >= np.float32(0.2))).all()
    assert (free.opinion("e", "b").call == answers[:, 1].argmax(axis=1)).all()
