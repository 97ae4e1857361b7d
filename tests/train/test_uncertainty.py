"""train/uncertainty.py: temperature, prediction sets, limit of novelty and smear model from held-out people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from blastscope.runtime.errors import DataError, UsageError
from blastscope.train.uncertainty import HeldOutCells, calibration_error, measure_uncertainty, read_uncertainty


def people(seed: int, *, sharpness: float = 1.0, each: int = 30, count: int = 20, spread: float = 0.5) -> HeldOutCells:
    """Drawn margins: persons differ by `spread`, and with `sharpness` 1 the margins are the true log odds."""
    rng = np.random.default_rng(seed)
    labels, names, margins = [], [], []
    for person in range(2 * count):
        label = person % 2
        own = rng.normal(
            (2.0 if label else -2.0) + rng.normal(0, spread), 2.0, size=each
        )  # odds of N(2, 2) to N(-2, 2): exp(m)
        labels += [label] * each
        names += [f"{'H' if label == 0 else ''}{person}"] * each
        margins.append(own)
    score = expit(np.concatenate(margins) * sharpness)
    probabilities = np.repeat(np.stack([1 - score, score], axis=1)[:, None], 3, axis=1).astype(np.float32)
    novelty = np.abs(rng.normal(1, 0.2, size=len(labels))).astype(np.float32)
    return HeldOutCells(probabilities, np.array(labels), np.array(names), novelty)


def test_the_temperature_is_the_one_with_least_cross_entropy() -> None:
    cells = people(0, sharpness=2.5)
    pairs = cells.probabilities[:, 2].astype(np.float64)
    signed = np.log(pairs[:, 1] / pairs[:, 0]) * (2 * cells.labels - 1)  # every person has as many cells, classes are alike
    wanted = minimize_scalar(lambda t: np.logaddexp(0, -signed / t).mean(), bounds=(0.1, 10), method="bounded").x
    found = measure_uncertainty(cells)
    assert found.temperature == pytest.approx(wanted, rel=1e-3)
    assert 2 < found.temperature < 3.2
    assert found.calibration_error < 0.04


def test_a_person_with_many_cells_weighs_no_more() -> None:
    cells = people(1, spread=1.5)
    again = np.concatenate([np.arange(len(cells.labels)), np.repeat(np.flatnonzero(cells.people == "1"), 9)])
    more = HeldOutCells(cells.probabilities[again], cells.labels[again], cells.people[again], cells.novelty[again])  # type: ignore[index]
    first, second = measure_uncertainty(cells), measure_uncertainty(more)
    assert second.temperature == pytest.approx(first.temperature, rel=1e-4)
    assert second.sets.all == pytest.approx(first.sets.all)


def test_calibration_error_is_the_mean_gap_over_bins() -> None:
    scores = np.array([0.05, 0.05, 0.95, 0.95])
    labels = np.array([0, 1, 1, 1])
    assert calibration_error(scores, labels, np.full(4, 0.25)) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_sets_cover_new_people_as_often_as_they_promise(seed: int) -> None:
    sets = measure_uncertainty(people(seed)).sets
    new = people(seed + 100, count=150)
    score = new.probabilities[:, 2, 1].astype(np.float64)
    for label, name in enumerate(("hem", "all")):
        mine = new.labels == label
        covered = np.mean([name in sets.of(one) for one in score[mine]])
        assert covered > sets.level - 0.03, name
    assert sets.hem_coverage > sets.level - 0.06
    assert sets.all_coverage > sets.level - 0.06


def test_sets_hold_both_classes_where_the_vote_is_unsure() -> None:
    sets = measure_uncertainty(people(5)).sets
    assert sets.of(0.001) == ("hem",)
    assert sets.of(0.999) == ("all",)
    assert sets.of(0.5) in (("hem", "all"), ())


def test_the_limit_of_novelty_leaves_the_stated_share_below() -> None:
    cells = people(6)
    found = measure_uncertainty(cells).novelty
    assert found is not None
    assert cells.novelty is not None
    assert (cells.novelty <= found.limit).mean() == pytest.approx(found.quantile, abs=2e-3)
    assert 0.01 < found.refused < 0.05


def test_the_smear_model_is_that_of_two_normal_distributions() -> None:
    cells = people(7, spread=1.0, each=200, count=60)
    found = measure_uncertainty(cells)
    smear = found.smear
    assert smear is not None
    assert smear.person_deviation * found.temperature == pytest.approx(1.0, abs=0.2)  # of margins as they are calibrated
    assert smear.cell_deviation * found.temperature == pytest.approx(2.0, abs=0.1)
    assert smear.people == 120
    assert smear.right > 110


def test_networks_that_rank_people_the_wrong_way_give_no_smear_model() -> None:
    cells = people(8)
    turned = HeldOutCells(cells.probabilities[:, :, ::-1].copy(), cells.labels, cells.people, None)
    found = measure_uncertainty(turned)
    assert found.smear is None
    assert found.novelty is None


def test_too_few_people_are_told() -> None:
    with pytest.raises(UsageError, match="3 HEM and 3 ALL people were held out: uncertainty needs 4 of each class"):
        measure_uncertainty(people(9, count=3))


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "uncertainty.json").write_text('{"temperature": 1}')
    with pytest.raises(DataError, match=r"uncertainty\.json"):
        read_uncertainty(tmp_path / "uncertainty.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json.*JSON"):
        read_uncertainty(tmp_path / "binary.json")
    with pytest.raises(DataError, match="can't be read"):
        read_uncertainty(tmp_path / "none.json")
