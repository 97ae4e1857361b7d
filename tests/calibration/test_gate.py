"""Whether int8 may ship: the figures and the limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_builders import crops, two_towers

from blastscope.calibration.acceptance.trial import (
    EngineResult,
    PairedPredictions,
    SignedCodes,
    Trial,
    failures,
    gate,
    open_engines,
)
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import ReferenceRunner
from blastscope.runtime.errors import ConfigError
from blastscope.runtime.inference.validation import GoldenCheck
from blastscope.runtime.io.cnmc import DatasetEntry

CONFIG = CalibrationConfig(draws=100)


def judged(labels: list[int], parent: list[int], child: list[int]) -> PairedPredictions:
    cells = tuple(
        DatasetEntry(Path(f"{row}.bmp"), "all" if label else "hem", f"{'' if label else 'H'}{row % 3}", "1", "1", str(row))
        for row, label in enumerate(labels)
    )
    return PairedPredictions(
        cells=cells, refused=(), parent=probabilities_of(parent), child=probabilities_of(child), engine="openvino"
    )


def probabilities_of(calls: list[int]) -> np.ndarray:
    """Probabilities of networks that make `calls`."""
    pairs = np.array([[0.2, 0.8] if call else [0.8, 0.2] for call in calls], np.float32)
    return np.repeat(pairs[:, None], 3, axis=1)


def test_a_graph_that_calls_as_its_parent_does_passes() -> None:
    calls = [0, 1] * 50
    result = gate(judged(calls, calls, calls), CONFIG)
    assert result.passed
    assert (result.flip_rate.value, result.f1_drop_points.value) == (0, 0)
    assert (result.cells, result.patients) == (100, 6)
    assert failures(result) == ()


def test_two_flips_of_a_hundred_pass_and_three_fail() -> None:
    labels = [0, 1] * 50
    wrong = [1 - label if row < 10 else label for row, label in enumerate(labels)]
    two = [labels[row] if row < 2 else call for row, call in enumerate(wrong)]
    three = [labels[row] if row < 3 else call for row, call in enumerate(wrong)]
    at_the_limit = gate(judged(labels, wrong, two), CONFIG)
    assert at_the_limit.passed
    assert failures(at_the_limit) == ()
    result = gate(judged(labels, wrong, three), CONFIG)
    assert not result.passed
    (only,) = failures(result)
    assert only.startswith("in openvino 3.00 % of the votes flip")
    assert "at most 2 % may" in only
    assert result.flip_rate.low <= 0.03 <= result.flip_rate.high


def test_a_lost_point_fails_although_few_votes_flip() -> None:
    labels = [0, 1] * 100
    child = [1 - label if row < 2 else label for row, label in enumerate(labels)]
    result = gate(judged(labels, labels, child), CONFIG)
    assert result.flip_rate.value == 0.01
    (only,) = failures(result)
    assert only.startswith("in openvino weighted F1 loses 1.00 points")


def test_what_fails_in_one_engine_fails_and_the_worst_is_shown() -> None:
    labels, golden = [0, 1] * 50, GoldenCheck(0.1, 0, passed=True)
    fine = judged(labels, labels, labels)
    wrong = replace(judged(labels, labels, [1 - label for label in labels]), engine="onnxruntime")
    results = (EngineResult(fine, gate(fine, CONFIG), golden), EngineResult(wrong, gate(wrong, CONFIG), golden))
    for order in (results, results[::-1]):
        trial = Trial(order, draws=100)
        assert len(trial.failures) == 2
        assert all(failure.startswith("in onnxruntime") for failure in trial.failures)
        assert trial.worst.judged.engine == "onnxruntime"
        # 2 % of all may flip and half a point may go, a fifth of it to spare; a hundred points went, and all flipped
        assert trial.target_drift_ratio == pytest.approx(0.8 * 0.5 / 100)


def test_a_golden_call_that_changes_in_one_engine_fails() -> None:
    calls = [0, 1] * 50
    same = judged(calls, calls, calls)
    checks = (GoldenCheck(0.1, 0, passed=True), GoldenCheck(0.2, 1, passed=False))
    trial = Trial(tuple(EngineResult(same, gate(same, CONFIG), check) for check in checks), draws=100)
    (only,) = trial.failures
    assert "1 calls of the golden set change" in only
    assert (trial.golden_flips, trial.golden_difference) == (1, 0.2)


def test_an_operating_point_is_chosen_by_the_scores_of_the_parent() -> None:
    labels = [0, 1] * 50
    case = judged(labels, labels, [1 - label for label in labels])
    trial = Trial((EngineResult(case, gate(case, CONFIG), GoldenCheck(0.1, 0, passed=True)),), draws=100)
    found = trial.operating_point(0.9)
    assert (found.sensitivity, found.specificity) == (1, 1)


@pytest.mark.parametrize(("golden", "moved", "tolerance"), [(0.1, 0, 0.2), (0.01, 0, 0.05), (0.01, 0.3, 0.3), (0.9, 0, 1)])
def test_the_tolerance_follows_the_golden_set_and_most_of_the_cells(golden: float, moved: float, tolerance: float) -> None:
    calls = [0, 1] * 50
    same = judged(calls, calls, calls)
    child = same.child.copy()
    child[:10, 0] += np.float32([moved, -moved])
    result = EngineResult(replace(same, child=child), gate(same, CONFIG), GoldenCheck(golden, 0, passed=True))
    assert Trial((result,), draws=100).tolerance == pytest.approx(tolerance, abs=1e-6)


def test_the_limits_are_fields_of_the_configuration(tmp_path: Path) -> None:
    labels = [0, 1] * 10
    child = [1 - labels[0], *labels[1:]]
    assert gate(judged(labels, labels, child), CalibrationConfig(max_flip_rate=0.1, max_f1_drop_points=10, draws=50)).passed
    path = tmp_path / "calibration.toml"
    path.write_text("max_flip_rate = 0.1\n[operating_point]\nsensitivity = 0.95\n")
    config = CalibrationConfig.from_toml(path)
    assert config.operating_point is not None
    assert config.operating_point.sensitivity == 0.95
    path.write_text("max_flip_rtae = 0.1\n")
    with pytest.raises(ConfigError, match="max_flip_rate"):
        CalibrationConfig.from_toml(path)


def test_former_keys_of_the_configuration_are_taken_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "calibration.toml"
    path.write_text("flips_at_most = 0.1\nf1_loss_at_most = 2.0\n[cascade]\nflips_at_most = 0.01\n")
    with pytest.warns(FutureWarning, match="is deprecated and will be removed in the next version: use") as told:
        config = CalibrationConfig.from_toml(path)
    assert (config.max_flip_rate, config.max_f1_drop_points, config.cascade.max_flip_rate) == (0.1, 2.0, 0.01)
    assert len(told) == 3
    path.write_text("flips_at_most = 0.1\nmax_flip_rate = 0.1\n")
    with pytest.raises(ConfigError, match="flips_at_most: no such key"):
        CalibrationConfig.from_toml(path)


def test_signed_codes_answer_as_the_operators_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    path.write_bytes(two_towers(int8=True, trunk=True))
    cells = crops(20)
    judge = SignedCodes(path)
    plain = ReferenceRunner(path, plain=True).probabilities(cells)
    assert np.abs(judge.infer(cells) - plain).max() < 1e-4
    with open_engines(path, "int8") as found:
        for engine in found.values():  # which code finer: what they let in isn't all that must be judged
            assert np.abs(engine.infer(cells) - plain).max() > 1e-3
    judge.close()
