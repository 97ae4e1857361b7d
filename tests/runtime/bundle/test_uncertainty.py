"""runtime/bundle/uncertainty.py: sets of classes, and persons as two normal distributions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from blastscope.runtime.bundle.uncertainty import PredictionSets, SmearModel

FACTS = {"hem_mean": -2.0, "all_mean": 2.5, "person_deviation": 1.1, "cell_deviation": 1.4, "least_cells": 10, "right": 900}
MODEL = SmearModel.model_validate({**FACTS, "people": 10**9})  # so many that nothing is cut off


@given(st.floats(-2.5, 3), st.integers(1, 500))
def test_a_persons_probability_is_bayes_rule_on_two_normals(mean: float, cells: int) -> None:
    spread = (MODEL.person_deviation**2 + MODEL.cell_deviation**2 / cells) ** 0.5
    malignant, normal = norm(MODEL.all_mean, spread).pdf(mean), norm(MODEL.hem_mean, spread).pdf(mean)
    assert MODEL.probability(mean, cells) == pytest.approx(malignant / (malignant + normal), rel=1e-6, abs=1e-8)


@given(st.floats(-2.5, 3), st.integers(1, 500))
def test_the_interval_holds_the_probability_and_narrows(mean: float, cells: int) -> None:
    low, high = MODEL.interval(mean, cells)
    assert low <= MODEL.probability(mean, cells) <= high
    assert norm.ppf(0.975) == pytest.approx(1.959964, abs=1e-6)


def test_no_person_is_surer_than_the_number_of_people_allows() -> None:
    few = SmearModel.model_validate({**FACTS, "people": 40, "right": 39})
    assert few.probability(1e9, 100) == 1 - 1 / 42
    assert few.probability(-1e9, 100) == 1 / 42


def test_a_model_that_ranks_the_classes_the_wrong_way_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie above"):
        SmearModel.model_validate({**FACTS, "people": 4, "all_mean": -3.0})


def test_a_set_holds_each_class_that_reaches_its_threshold() -> None:
    sets = PredictionSets(level=0.9, hem=0.3, all=0.6, hem_coverage=0.9, all_coverage=0.9, both=0.1)
    assert [sets.of(score) for score in (0.1, 0.59, 0.65, 0.75)] == [("hem",), ("hem",), ("hem", "all"), ("all",)]
