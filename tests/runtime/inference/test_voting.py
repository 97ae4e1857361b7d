"""The vote against the rule read word by word, in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import first_voter_decides
from blastscope.runtime.bundle.manifest import VoteRule
from blastscope.runtime.errors import EngineError
from blastscope.runtime.inference.voting import TINY, vote
from blastscope.runtime.types import CLASSES, VOTERS

HEM, ALL = range(2)
A, B, COMBINED = range(3)

probability = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 1.0, 0.5, float(TINY), 1e-40, 0.25, 0.75, float(np.nextafter(np.float32(0.5), np.float32(1)))]),
).map(np.float32)
cells = st.lists(st.tuples(*[st.tuples(probability, probability)] * 3), min_size=1, max_size=5).map(
    lambda rows: np.array(rows, np.float32)
)


def softmax(margins: NDArray[np.float64]) -> NDArray[np.float32]:
    """Probabilities (N, 3, 2) of margins (N, 3) ln p(all) - ln p(hem), as a graph computes them."""
    return np.stack([1 / (1 + np.exp(margins)), 1 / (1 + np.exp(-margins))], axis=-1).astype(np.float32)


def decide(pairs: NDArray[np.float32]) -> tuple[int, int]:
    """Label and voter of one cell (3, 2) by the rule's words, in fractions."""

    def rank(voter: int) -> tuple[Fraction, int, int]:
        hem, all_ = (Fraction(max(float(value), float(TINY))) for value in pairs[voter])
        label = ALL if all_ >= hem else HEM
        return max(hem, all_) / min(hem, all_), label, -voter

    voter = max(range(3), key=rank)
    return rank(voter)[1], voter


@settings(deadline=None)
@given(cells)
def test_the_vote_is_the_rule_read_word_by_word(probabilities: NDArray[np.float32]) -> None:
    votes = vote(probabilities)
    assert [(int(a), int(b)) for a, b in zip(votes.label, votes.voter, strict=True)] == [decide(row) for row in probabilities]
    assert votes.score.tolist() == [float(row[voter, 1]) for row, voter in zip(probabilities, votes.voter, strict=True)]
    assert [part.dtype.name for part in votes] == ["int32", "int32", "float32"]


@settings(deadline=None)
@given(arrays(np.float64, (3, 3), elements=st.floats(-80, 80)))
def test_the_largest_margin_decides_far_beyond_where_a_softmax_is_one(margins: NDArray[np.float64]) -> None:
    sizes = np.sort(np.abs(margins), axis=1)
    clear = sizes[:, 2] - sizes[:, 1] > 1e-5 * np.maximum(1, sizes[:, 2])
    votes = vote(softmax(margins))
    deciding = np.abs(margins).argmax(axis=1)
    assert (votes.voter[clear] == deciding[clear]).all()
    assert (votes.label[clear] == (margins[np.arange(3), deciding] >= 0)[clear]).all()


@pytest.mark.parametrize("signs", list(product([-1, 1], repeat=3)))
def test_equal_margins_go_to_all_before_hem_then_a_b_combined(signs: tuple[int, int, int]) -> None:
    larger, smaller = np.float32(0.9), np.float32(0.1)
    pairs = np.array([[(smaller, larger) if sign > 0 else (larger, smaller) for sign in signs]], np.float32)
    votes = vote(pairs)
    expected = next((voter for voter in (A, B, COMBINED) if signs[voter] > 0), A)
    assert (votes.label[0], votes.voter[0]) == (ALL if 1 in signs else HEM, expected)


def test_every_order_of_three_strengths_is_decided_by_the_strongest() -> None:
    for margins in permutations([0.5, -1.0, 20.0]):
        votes = vote(softmax(np.array([margins])))
        assert (votes.label[0], votes.voter[0]) == (ALL, margins.index(20.0))


def test_two_saturated_voters_are_told_apart_by_their_smaller_probability() -> None:
    pairs = np.array([[(1.0, 1e-20), (1e-21, 1.0), (1.0, 0.9e-20)], [(1.0, 1e-22), (1e-21, 1.0), (0.5, 0.5)]], np.float32)
    assert vote(pairs).voter.tolist() == [B, A]
    assert vote(pairs).label.tolist() == [ALL, HEM]


def test_neighbouring_floats_are_not_a_tie() -> None:
    small = np.float32(1e-20)
    smaller = np.nextafter(small, np.float32(0))  # a float32 logarithm gives both the same margin
    assert vote(np.array([[(small, 1.0), (1.0, smaller), (0.5, 0.5)]], np.float32)).voter.tolist() == [B]


def test_zero_and_anything_below_tiny_are_one_strength() -> None:
    votes = vote(np.array([[(1.0, 0.0), (1e-40, 1.0), (0.0, 1.0)]], np.float32))
    assert (votes.label[0], votes.voter[0]) == (ALL, B)


@settings(deadline=None)
@given(cells, st.floats(0, 1))
def test_a_threshold_moves_the_label_and_never_the_voter(probabilities: NDArray[np.float32], threshold: float) -> None:
    free, bound = vote(probabilities), vote(probabilities, threshold)
    assert (free.voter == bound.voter).all()
    assert (free.score == bound.score).all()
    assert bound.label.tolist() == [int(score >= np.float32(threshold)) for score in free.score]


def test_a_score_on_the_threshold_is_all() -> None:
    pairs = np.array([[(0.3, 0.7), (0.4, 0.6), (0.45, 0.55)]], np.float32)
    assert vote(pairs, 0.7).label.tolist() == [ALL]
    assert vote(pairs, 0.7000001).label.tolist() == [HEM]


@settings(deadline=None)
@given(cells)
def test_turning_the_cells_round_turns_the_votes_round(probabilities: NDArray[np.float32]) -> None:
    for forth, back in zip(vote(probabilities), vote(probabilities[::-1]), strict=True):
        assert (forth == back[::-1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_is_never_taken_for_a_normal_cell(value: float) -> None:
    pairs = np.full((2, 3, 2), 0.5, np.float32)
    pairs[1, 2, 1] = value
    with pytest.raises(EngineError, match="not a number"):
        vote(pairs)


def test_no_cells_give_no_votes_and_the_input_is_left_as_it_was() -> None:
    assert [len(part) for part in vote(np.empty((0, 3, 2), np.float32))] == [0, 0, 0]
    pairs = np.zeros((1, 3, 2), np.float32)
    pairs.setflags(write=False)
    vote(pairs)


def test_the_manifest_states_the_tie_that_the_vote_keeps() -> None:
    assert VoteRule().tie == (CLASSES[ALL], *VOTERS)


@settings(deadline=None)
@given(cells, st.lists(st.booleans(), min_size=3, max_size=3).filter(any), st.one_of(st.none(), st.floats(0, 1)))
def test_voters_that_were_not_run_take_no_part_in_the_vote(
    probabilities: NDArray[np.float32], ran: list[bool], threshold: float | None
) -> None:
    there = np.flatnonzero(ran)
    seen = probabilities.copy()
    seen[:, ~np.array(ran)] = np.nan
    among = vote(seen, threshold, partial=True)
    alone = vote(probabilities[:, there], threshold)  # the same voters and no others
    assert (among.label == alone.label).all()
    assert (among.voter == there[alone.voter]).all()
    assert (among.score == alone.score).all()


def test_half_a_pair_no_voter_or_a_gap_in_a_full_vote_is_an_error() -> None:
    pairs = np.full((2, 3, 2), 0.5, np.float32)
    pairs[1, 1:] = np.nan
    assert vote(pairs, partial=True).voter.tolist() == [A, A]
    with pytest.raises(EngineError, match="not a number"):
        vote(pairs)
    half = pairs.copy()
    half[0, 1, 0] = np.nan
    with pytest.raises(EngineError, match="not a number"):
        vote(half, partial=True)
    pairs[1] = np.nan
    with pytest.raises(EngineError, match="no voter"):
        vote(pairs, partial=True)


def test_a_first_voter_on_the_threshold_decides_one_step_below_does_not() -> None:
    threshold = np.float32(0.9990234)
    below = np.nextafter(threshold, np.float32(0))
    pairs = np.array([[1 - threshold, threshold], [below, 1 - below], [1, 0]], np.float32)
    assert first_voter_decides(pairs, float(threshold)).tolist() == [True, False, True]
    assert first_voter_decides(pairs, 0.9990234).tolist() == [True, False, True]  # written in ten digits it is the same float32
    assert first_voter_decides(pairs, 1.0).tolist() == [False, False, True]
    assert first_voter_decides(np.empty((0, 2), np.float32), 0.9).tolist() == []
    with pytest.raises(EngineError, match="not a number"):
        first_voter_decides(np.full((1, 2), np.nan, np.float32), 0.9)
