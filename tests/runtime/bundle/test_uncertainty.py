"""runtime/bundle/uncertainty.py: sets of classes, and persons as two normal distributions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from blastscope.runtime.bundle.uncertainty import Interval, PredictionSets, SmearModel

FACTS = {"hem_mean": -2.0, "all_mean": 2.5, "person_deviation": 1.1, "cell_deviation": 1.4, "least_cells": 10, "right": 900}
MODEL = SmearModel.model_validate({**FACTS, "people": 10**9})  # so many that nothing is cut off


@given(st.floats(-2.5, 3), st.integers(1, 500))
def test_a_persons_probability_is_bayes_rule_on_two_normals(mean: float, cells: int) -> None:
    spread = (MODEL.person_deviation**2 + MODEL.cell_deviation**2 / cells) ** 0.5
    malignant, normal = norm(MODEL.all_mean, spread).pdf(mean), norm(MODEL.hem_mean, spread).pdf(mean)
    assert MODEL.probability(mean, cells) == pytest.approx(malignant / (malignant + normal), rel=1e-6, abs=1e-8)


@given(st.floats(-2.5, 3), st.integers(1, 500))
def test_the_interval_holds_the_probability_and_narrows(mean: float, cells: int) -> None:
    for model in (MODEL, SmearModel.model_validate({**FACTS, "people": 40, "right": 39})):
        low, high = model.interval(mean, cells)
        assert low <= model.probability(mean, cells) <= high
        assert low < high
    assert norm.ppf(0.975) == pytest.approx(1.959964, abs=1e-6)


def test_no_person_is_surer_than_the_number_of_people_allows() -> None:
    few = SmearModel.model_validate({**FACTS, "people": 40, "right": 39})
    assert few.probability(1e9, 100) == 1 - 1 / 42
    assert few.probability(-1e9, 100) == 1 / 42
    # and where that holds it back the interval says how far it could go
    assert few.interval(1e9, 100) == (1 - 1 / 42, 1)
    assert few.interval(-1e9, 100) == (0, 1 / 42)


def test_a_model_that_ranks_the_classes_the_wrong_way_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie above"):
        SmearModel.model_validate({**FACTS, "people": 4, "all_mean": -3.0})


@pytest.mark.parametrize(
    "figures", [{"cell_deviation": 1e300}, {"person_deviation": 1e-200}, {"all_mean": 1e308}, {"right": 5}]
)
def test_figures_that_nothing_can_show_are_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"less than or equal|greater than or equal|5 people called right, of 4"):
        SmearModel.model_validate({**FACTS, "people": 4, "right": 4, **figures})


@given(st.floats(-1e6, 1e6), st.integers(1, 10**6), st.sampled_from([1e-6, 1, 1e6]), st.sampled_from([1e-6, 1, 1e6]))
def test_any_model_that_is_taken_gives_a_probability(mean: float, cells: int, person: float, cell: float) -> None:
    deviations = {"person_deviation": person, "cell_deviation": cell, "hem_mean": -1e6, "all_mean": 1e6}
    low, high = SmearModel.model_validate({**FACTS, "people": 10**9, **deviations}).interval(mean, cells)
    assert 0 <= low <= high <= 1


def test_an_interval_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an interval from 0\.9 to 0\.8"):
        Interval(value=0.85, low=0.9, high=0.8)


def test_a_set_holds_each_class_that_reaches_its_threshold() -> None:
    sets = PredictionSets(level=0.9, hem=0.3, all=0.6, hem_coverage=0.9, all_coverage=0.9, both=0.1)
    assert [sets.of(score) for score in (0.1, 0.59, 0.65, 0.75)] == [("hem",), ("hem",), ("hem", "all"), ("all",)]
