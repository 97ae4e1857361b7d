"""train/bagging.py: what bags A and B are made of, and what an epoch draws from them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blastscope.train.bagging import make_bags, plain_bag, sample_epoch, sampling_probabilities
from blastscope.train.config import ScheduleConfig

sizes = st.integers(2, 60)


@given(hem=sizes, malignant=sizes, seed=st.integers(0, 99))
def test_bags_are_made_as_figure_2_shows(hem: int, malignant: int, seed: int) -> None:
    hem_rows, all_rows = np.arange(hem), np.arange(hem, hem + malignant)
    a, b = make_bags(hem_rows, all_rows, seed)
    plain_a, drawn_a = set(a.cells[~a.augmented]), set(a.cells[a.augmented])
    plain_b, drawn_b = set(b.cells[~b.augmented]), set(b.cells[b.augmented])
    everything, hems, alls = set(range(hem + malignant)), set(hem_rows), set(all_rows)
    assert plain_a & plain_b == hems  # HEM stands in both bags as it is
    assert drawn_a & drawn_b == hems  # and augmented
    assert plain_a - hems == drawn_b - hems  # All-A is plain in A and augmented in B
    assert plain_b - hems == drawn_a - hems  # All-B the other way round
    assert plain_a | drawn_a == plain_b | drawn_b == everything
    assert abs(len(plain_a & alls) - len(plain_b & alls)) <= 1
    for bag in (a, b):
        assert len(bag) == malignant + 2 * hem
        copies = Counter(bag.cells.tolist())
        assert all(copies[row] == 2 for row in hems)
        assert all(copies[row] == 1 for row in alls)


@given(size=st.integers(1, 500), seed=st.integers(0, 99))
def test_without_balance_an_epoch_is_every_image_once(size: int, seed: int) -> None:
    order = sample_epoch(None, size, None, np.random.default_rng(seed))
    assert sorted(order) == list(range(size))


def test_a_balanced_epoch_has_the_shares_asked_for() -> None:
    labels = np.repeat([0, 1], [30, 270])
    patients = np.repeat(["H1", "H2", "7", "8"], [10, 20, 90, 180])
    bag = plain_bag(np.arange(300))
    config = ScheduleConfig(balance_patients=1.0, all_share=0.4, images_per_epoch=400)
    order = sample_epoch(sampling_probabilities(bag, labels, patients, config), 300, 400, np.random.default_rng(0))
    drawn = Counter(patients[order].tolist())
    assert sum(labels[order]) == pytest.approx(160, abs=8)  # each cell's copies are its expected number, rounded
    assert drawn["H1"] == pytest.approx(drawn["H2"], rel=0.15)
    assert drawn["7"] == pytest.approx(drawn["8"], rel=0.15)


def test_a_drawn_cell_has_its_expected_number_of_copies_rounded() -> None:
    chance = np.array([0.5, 0.25, 0.125, 0.125])
    for seed in range(20):
        copies = Counter(sample_epoch(chance, 4, 10, np.random.default_rng(seed)).tolist())
        assert all(abs(copies[i] - 10 * chance[i]) < 1 for i in range(4))


def test_the_paper_draws_every_image_without_weights() -> None:
    bag = plain_bag(np.arange(4))
    assert sampling_probabilities(bag, np.array([0, 0, 1, 1]), np.array(["H1", "H1", "1", "1"]), ScheduleConfig()) is None
