"""Whether int8 may ship: the figures and the limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.gate import JudgedCells, failures, gate
from blastscope.runtime.cells import Cell
from blastscope.runtime.errors import ConfigError

CONFIG = CalibrationConfig(draws=100)


def judged(labels: list[int], parent: list[int], child: list[int]) -> JudgedCells:
    cells = tuple(
        Cell(Path(f"{row}.bmp"), "all" if label else "hem", f"{'' if label else 'H'}{row % 3}", "1", "1", str(row))
        for row, label in enumerate(labels)
    )
    return JudgedCells(cells, said(parent), said(child), (), "openvino")


def said(calls: list[int]) -> np.ndarray:
    """Probabilities of networks that make `calls`."""
    pairs = np.array([[0.2, 0.8] if call else [0.8, 0.2] for call in calls], np.float32)
    return np.repeat(pairs[:, None], 3, axis=1)


def test_a_graph_that_calls_as_its_parent_does_passes() -> None:
    calls = [0, 1] * 50
    result = gate(judged(calls, calls, calls), CONFIG)
    assert result.passed
    assert (result.flips.value, result.f1_loss.value) == (0, 0)
    assert (result.cells, result.patients) == (100, 6)
    assert failures(result) == ()


def test_two_flips_of_a_hundred_pass_and_three_fail() -> None:
    labels = [0, 1] * 50
    wrong = [1 - label if row < 10 else label for row, label in enumerate(labels)]
    two = [labels[row] if row < 2 else call for row, call in enumerate(wrong)]
    three = [labels[row] if row < 3 else call for row, call in enumerate(wrong)]
    assert gate(judged(labels, wrong, two), CONFIG).passed
    result = gate(judged(labels, wrong, three), CONFIG)
    assert not result.passed
    (only,) = failures(result)
    assert only.startswith("in openvino 3.00 % of the votes flip")
    assert "at most 2 % may" in only
    assert result.flips.low <= 0.03 <= result.flips.high


def test_a_lost_point_fails_although_few_votes_flip() -> None:
    labels = [0, 1] * 100
    child = [1 - label if row < 2 else label for row, label in enumerate(labels)]
    result = gate(judged(labels, labels, child), CONFIG)
    assert result.flips.value == 0.01
    (only,) = failures(result)
    assert only.startswith("in openvino weighted F1 loses 1.00 points")


def test_the_limits_are_fields_of_the_configuration(tmp_path: Path) -> None:
    labels = [0, 1] * 10
    child = [1 - labels[0], *labels[1:]]
    assert gate(judged(labels, labels, child), CalibrationConfig(flips_at_most=0.1, f1_loss_at_most=10, draws=50)).passed
    path = tmp_path / "calibration.toml"
    path.write_text("flips_at_most = 0.1\n[operating_point]\nsensitivity = 0.95\n")
    config = CalibrationConfig.from_toml(path)
    assert config.operating_point is not None
    assert config.operating_point.sensitivity == 0.95
    path.write_text("flips_at_mots = 0.1\n")
    with pytest.raises(ConfigError, match="flips_at_most"):
        CalibrationConfig.from_toml(path)
