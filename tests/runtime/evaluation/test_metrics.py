"""Scores against scikit-learn, and intervals against a bootstrap written out patient by patient."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.calibration import calibration_curve

from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.bootstrap import bootstrap_samples, group_rows
from blastscope.runtime.evaluation.metrics import (
    f1_drop_points,
    find_operating_point,
    flip_rate,
    patient_flip_rate,
    score_calls,
)
from blastscope.runtime.evaluation.rates import reliability, roc_curve


class Cells(NamedTuple):
    labels: NDArray[np.int64]
    calls: NDArray[np.int64]
    scores: NDArray[np.float32]
    patients: list[str]


def draw(seed: int, *, patients: int = 12, cells: int = 300, steps: int = 1000) -> Cells:
    """Invented calls; few `steps` make ties."""
    random = np.random.default_rng(seed)
    owner = np.r_[0, 1, random.integers(0, patients, cells - 2)]
    labels = (owner % 3 != 0).astype(np.int64)
    scores = np.clip(np.round(random.normal(0.4 + 0.25 * labels, 0.25) * steps) / steps, 0, 1).astype(np.float32)
    return Cells(labels, (scores >= 0.5).astype(np.int64), scores, [f"{one}" if one % 3 else f"H{one}" for one in owner])


drawn = st.builds(
    draw,
    st.integers(0, 2**32 - 1),
    patients=st.integers(2, 15),
    cells=st.integers(2, 80),
    steps=st.sampled_from([1, 2, 5, 1000]),
)


@settings(deadline=None, max_examples=60)
@given(drawn)
def test_every_figure_is_scikit_learns(cells: Cells) -> None:
    labels, calls, scores, patients = cells
    ours = score_calls(labels, calls, scores, patients, draws=2)
    theirs = metrics.classification_report(
        labels, calls, labels=[0, 1], target_names=["hem", "all"], output_dict=True, zero_division=0
    )
    for name, row in (("hem", ours.table1.hem), ("all", ours.table1.all), ("weighted avg", ours.table1.weighted)):
        expected = [theirs[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert [row.precision, row.recall, row.f1, row.support] == pytest.approx(expected)
    assert np.array_equal(ours.confusion, metrics.confusion_matrix(labels, calls, labels=[0, 1]))
    assert ours.accuracy.value == pytest.approx(metrics.accuracy_score(labels, calls))
    assert ours.sensitivity.value == pytest.approx(metrics.recall_score(labels, calls))
    assert ours.specificity.value == pytest.approx(metrics.recall_score(labels, calls, pos_label=0))
    assert ours.weighted_f1.value == pytest.approx(metrics.f1_score(labels, calls, average="weighted"))
    assert ours.auroc.value == pytest.approx(metrics.roc_auc_score(labels, scores))


def test_intervals_are_those_of_a_bootstrap_written_out() -> None:
    labels, calls, scores, patients = draw(3, steps=10)
    ours = score_calls(labels, calls, scores, patients, draws=40, seed=5)
    cells = group_rows(patients)
    figures = []
    for times in bootstrap_samples(cells.classes(labels), draws=40, seed=5):
        weight = times[cells.of_cell]
        figures.append(
            [
                metrics.accuracy_score(labels, calls, sample_weight=weight),
                metrics.recall_score(labels, calls, sample_weight=weight),
                metrics.recall_score(labels, calls, pos_label=0, sample_weight=weight),
                metrics.roc_auc_score(labels, scores, sample_weight=weight),
                metrics.f1_score(labels, calls, average="weighted", sample_weight=weight),
            ]
        )
    low, high = np.percentile(figures, [2.5, 97.5], axis=0)
    intervals = [ours.accuracy, ours.sensitivity, ours.specificity, ours.auroc, ours.weighted_f1]
    assert [one.low for one in intervals] == pytest.approx(low)
    assert [one.high for one in intervals] == pytest.approx(high)


def test_ids_of_one_person_are_drawn_together() -> None:
    labels, calls, scores, patients = draw(3, steps=10)
    people = {"7": "4", "8": "4", "H3": "H0"}
    ours = score_calls(labels, calls, scores, patients, people=people, draws=60, seed=5)
    joined = score_calls(labels, calls, scores, [people.get(one, one) for one in patients], draws=60, seed=5)
    apart = score_calls(labels, calls, scores, patients, draws=60, seed=5)
    for name in ("accuracy", "sensitivity", "specificity", "auroc", "weighted_f1"):
        assert getattr(ours, name).model_dump() == pytest.approx(getattr(joined, name).model_dump())
    assert ours.accuracy != apart.accuracy
    assert ours.patients == apart.patients


def test_people_who_have_one_id_each_change_nothing() -> None:
    cells = draw(4)
    assert score_calls(*cells, people={one: one for one in cells.patients}) == score_calls(*cells)


def test_a_person_of_both_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="either all or hem"):
        bootstrap_samples(np.array([0, 1, 1]), draws=2, seed=0, people=np.array([0, 0, 1]))


def test_a_draw_takes_as_many_patients_of_each_class_as_there_are() -> None:
    strata = np.array([0, 1, 1, 0, 1])
    weights = bootstrap_samples(strata, draws=200, seed=0)
    assert np.all(weights[:, strata == 0].sum(axis=1) == 2)
    assert np.all(weights[:, strata == 1].sum(axis=1) == 3)
    assert weights.max() == 3
    assert weights.min() == 0


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    cells = draw(1)
    assert score_calls(*cells, seed=1) == score_calls(*cells, seed=1)
    assert score_calls(*cells, seed=1).auroc != score_calls(*cells, seed=2).auroc


def test_the_order_of_the_cells_does_not_matter() -> None:
    cells = draw(7)
    order = np.random.default_rng(0).permutation(len(cells.labels))
    shuffled = score_calls(cells.labels[order], cells.calls[order], cells.scores[order], [cells.patients[i] for i in order])
    straight = score_calls(*cells)
    assert shuffled.auroc.model_dump() == pytest.approx(straight.auroc.model_dump())
    assert shuffled.confusion == straight.confusion


def test_patients_who_differ_widen_the_interval() -> None:
    # ten patients of 100 cells, each patient all right or all wrong: ten opinions, not a thousand
    labels = np.repeat([0, 1], 500)
    wrong = np.isin(np.repeat(np.arange(10), 100), [0, 5])
    patients = [str(i) for i in np.repeat(np.arange(10), 100)]
    calls = np.where(wrong, 1 - labels, labels)
    accuracy = score_calls(labels, calls, calls.astype(float), patients).accuracy
    assert accuracy.high - accuracy.low > 0.3  # a bootstrap over cells would say 0.05


def test_two_thousand_cells_are_scored_in_under_a_second() -> None:
    cells = draw(0, patients=60, cells=2000)
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        score_calls(*cells)
        best = min(best, time.perf_counter() - start)
    assert best < 1


def test_the_record_goes_to_json_and_back() -> None:
    scores = score_calls(*draw(2, patients=3, cells=5), draws=10)
    text = scores.model_dump_json()
    assert type(scores).model_validate_json(text) == scores
    assert "NaN" not in text
    assert json.loads(text)["table1"]["weighted"]["support"] == 5


def test_the_manifest_row_holds_the_same_intervals() -> None:
    scores = score_calls(*draw(2), draws=10)
    row = scores.summary("int8")
    assert (row.precision, row.cells, row.patients) == ("int8", 300, 12)
    assert (row.weighted_f1, row.auroc) == (scores.weighted_f1, scores.auroc)


def test_a_patient_is_called_what_most_cells_are_and_all_at_a_tie() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0])
    calls = np.array([0, 0, 1, 1, 0, 0])
    scores = np.array([0.4, 0.4, 1.0, 0.5, 0.1, 0.0])
    rows = score_calls(labels, calls, scores, ["H1", "H1", "H1", "7", "7", "H2"], draws=2).patients
    assert [row.patient for row in rows] == ["7", "H1", "H2"]
    assert [row.call for row in rows] == ["all", "hem", "hem"]
    assert [row.call_by_score for row in rows] == ["hem", "all", "hem"]
    assert [row.accuracy for row in rows] == pytest.approx([0.5, 2 / 3, 1])
    assert [row.cells for row in rows] == [2, 3, 1]


def test_no_cell_called_all_gives_a_precision_of_zero() -> None:
    scores = score_calls([0, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], ["H1", "2", "3"])
    assert scores.table1.all.precision == 0
    assert scores.auroc.value == 0.5  # all tied


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        (([], [], [], []), "no cells"),
        (([1, 1], [1, 0], [0.5, 0.5], ["1", "2"]), "only all cells"),
        (([0, 1], [1, 0], [0.5, 0.5], ["1", "1"]), "patient '1'"),
        (([0, 1], [1, 0], [0.5], ["1", "2"]), "one entry a cell"),
        (([0, 1], [1, 0], [0.5, np.nan], ["1", "2"]), "probabilities"),
        (([0, 1], [1, 0], [0.5, 1.1], ["1", "2"]), "probabilities"),
        ((["hem", "all"], [1, 0], [0.5, 0.5], ["1", "2"]), "labels must be"),
        (([0, 2], [1, 0], [0.5, 0.5], ["1", "2"]), "labels must be"),
    ],
)
def test_cells_that_can_not_be_scored_are_refused_with_the_reason(cells: tuple[list[object], ...], word: str) -> None:
    if not cells[0]:
        cells = (np.zeros(0, int), np.zeros(0, int), np.zeros(0), [])  # type: ignore[assignment]
    with pytest.raises(UsageError, match=word):
        score_calls(*cells)  # type: ignore[arg-type]


def test_an_interval_needs_a_draw() -> None:
    with pytest.raises(UsageError, match="draws is 0"):
        score_calls(*draw(0), draws=0)


def test_flips_are_the_share_of_cells_whose_call_changed() -> None:
    cells = draw(4)
    other = cells.calls.copy()
    other[:15] ^= 1
    share = flip_rate(cells.calls, other, cells.patients)
    assert share.value == 0.05
    assert 0 <= share.low <= 0.05 <= share.high <= 0.2
    assert flip_rate(other, cells.calls, cells.patients) == share
    assert flip_rate(other, other, cells.patients).high == 0


def test_the_loss_of_f1_is_scikit_learns_difference_in_points() -> None:
    cells = draw(5)
    other = (cells.scores >= 0.7).astype(np.int64)
    parent, child = (metrics.f1_score(cells.labels, calls, average="weighted") for calls in (cells.calls, other))
    loss = f1_drop_points(cells.labels, cells.calls, other, cells.patients)
    assert loss.value == pytest.approx(100 * (parent - child))
    assert loss.low <= loss.value <= loss.high
    assert f1_drop_points(cells.labels, other, cells.calls, cells.patients).value == pytest.approx(-loss.value)


def test_equal_calls_lose_nothing_in_any_draw() -> None:
    cells = draw(6)
    assert f1_drop_points(cells.labels, cells.calls, cells.calls, cells.patients).model_dump() == {
        "value": 0,
        "low": 0,
        "high": 0,
    }


def test_flips_and_loss_have_values_where_only_one_class_is_there() -> None:
    assert flip_rate([1, 1], [1, 0], ["1", "2"]).value == 0.5
    loss = f1_drop_points([1, 1], [1, 1], [1, 0], ["1", "2"])
    assert loss.value == pytest.approx(100 - 100 * 2 / 3)


@settings(deadline=None, max_examples=100)
@given(drawn, st.floats(0.001, 1))
def test_the_operating_point_is_the_largest_threshold_that_suffices(cells: Cells, wanted: float) -> None:
    labels, _, scores, _ = cells
    point = find_operating_point(labels, scores, wanted)
    sensitivities = {float(s): np.mean(scores[labels == 1] >= s) for s in scores}  # brute force over every score
    assert point.threshold == max(s for s, reached in sensitivities.items() if reached >= wanted)
    assert point.sensitivity == sensitivities[point.threshold]
    assert point.specificity == np.mean(scores[labels == 0] < point.threshold)


def test_a_threshold_means_the_same_on_single_precision_scores() -> None:
    scores = np.array([0.1, 0.3, 0.7], dtype=np.float32)
    point = find_operating_point([0, 1, 1], scores, 1.0)
    assert np.array_equal(scores >= point.threshold, [False, True, True])


def test_no_threshold_reaches_a_sensitivity_of_nothing_or_more_than_all() -> None:
    for wanted in (0.0, 1.01):
        with pytest.raises(UsageError, match="sensitivity"):
            find_operating_point([0, 1], [0.1, 0.2], wanted)


@settings(deadline=None, max_examples=60)
@given(drawn)
def test_the_roc_curve_is_scikit_learns(cells: Cells) -> None:
    ours = roc_curve(cells.labels, cells.scores)
    false_positive, true_positive, thresholds = metrics.roc_curve(cells.labels, cells.scores, drop_intermediate=False)
    assert ours.false_positive_rate == pytest.approx(false_positive)
    assert ours.true_positive_rate == pytest.approx(true_positive)
    assert ours.thresholds == pytest.approx(thresholds)


@settings(deadline=None, max_examples=60)
@given(drawn)
def test_the_reliability_curve_is_scikit_learns(cells: Cells) -> None:
    scores = cells.scores.astype(np.float64)
    share, mean = calibration_curve(cells.labels, scores, n_bins=10)
    ours = reliability(cells.labels, scores)
    filled = [one for one in ours.bins if one.cells]
    assert [one.share_all for one in filled] == pytest.approx(share)
    assert [one.mean_score for one in filled] == pytest.approx(mean)
    assert sum(one.cells for one in ours.bins) == len(scores)
    error = sum(one.cells * abs(s - m) for one, s, m in zip(filled, share, mean, strict=True)) / len(scores)
    assert ours.expected_calibration_error == pytest.approx(error)


def test_an_empty_bin_has_no_means() -> None:
    bins = reliability([0, 1], [0.0, 1.0]).bins
    assert bins[4].mean_score is None
    assert bins[4].share_all is None
    assert (bins[0].cells, bins[9].cells) == (1, 1)


def test_a_patient_flips_when_most_of_its_cells_are_called_otherwise() -> None:
    patients = ["1", "1", "1", "2", "2", "3", "3", "3"]
    before = [1, 1, 0, 1, 0, 0, 0, 1]
    after = [1, 0, 0, 0, 1, 0, 1, 0]  # 1: all to hem; 2: half and half is all both times; 3: hem both times
    share = patient_flip_rate(before, after, patients)
    assert share.value == pytest.approx(1 / 3)
    assert share.low == 0
    assert share.high == pytest.approx(1)
    assert patient_flip_rate(before, before, patients).high == 0
