"""Graphs against PyTorch, and the tolerances that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blastscope.calibration.evaluation import signed_vote_margins
from blastscope.export.exporter import choose_golden
from blastscope.export.onnx_export import FusedGraph, trace
from blastscope.export.parity import (
    bf16_probabilities,
    check_fp32,
    fp16_tolerances,
    fp32_tolerances,
    max_difference,
    torch_probabilities,
)
from blastscope.runtime.errors import DataError, EngineError
from blastscope.runtime.inference.voting import vote

SIDE = 16


class Voters(nn.Module):
    """Three voters of one architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.voters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 2)) for _ in range(3)
        )

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        pixels = (crops.permute(0, 3, 1, 2).float() - 127.5) / 32
        return torch.stack([voter(pixels) for voter in self.voters], dim=1)


@pytest.fixture(scope="module")
def graph() -> nn.Module:
    torch.manual_seed(0)
    return FusedGraph(Voters()).eval()


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)


def test_a_right_graph_repeats_pytorch(graph: nn.Module, crops: np.ndarray) -> None:
    content = trace(graph, SIDE, "ensemble").SerializeToString()
    assert check_fp32(content, "ensemble", crops, torch_probabilities(graph, crops)) < 1e-5


def test_voters_swapped_in_the_graph_are_caught(graph: nn.Module, crops: np.ndarray) -> None:
    swapped = Voters()
    swapped.load_state_dict(graph.ensemble.state_dict())  # type: ignore[union-attr, arg-type]
    swapped.voters = nn.ModuleList([swapped.voters[1], swapped.voters[0], swapped.voters[2]])
    content = trace(FusedGraph(swapped).eval(), SIDE, "ensemble").SerializeToString()
    with pytest.raises(EngineError, match="'ensemble' differs from PyTorch"):
        check_fp32(content, "ensemble", crops, torch_probabilities(graph, crops))


def test_bf16_is_close_to_pytorchs_own_and_leaves_the_weights_alone(graph: nn.Module, crops: np.ndarray) -> None:
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    ours = bf16_probabilities(graph, crops)
    for name, value in graph.state_dict().items():
        assert torch.equal(value, before[name]), name
    reference = torch_probabilities(graph, crops)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = graph(torch.from_numpy(crops)).probabilities.numpy()
    moved, expected = max_difference(ours, reference), max_difference(theirs, reference)
    assert moved > 1e-3
    assert expected / 3 < moved < 3 * expected


def test_the_tolerances_follow_the_rule_and_have_floors() -> None:
    assert fp32_tolerances(1e-6, 0.001, 0.0001) == {"f32": 1e-4, "bf16": 0.02, "f16": 0.005}
    assert fp32_tolerances(1e-4, 0.03, 0.002) == pytest.approx({"f32": 4e-4, "bf16": 0.06, "f16": 0.008})
    assert set(fp32_tolerances(0, 0, None)) == {"f32", "bf16"}
    assert fp16_tolerances(0.01, 0.03) == pytest.approx({"f32": 0.04, "f16": 0.04, "bf16": 0.07})
    assert max(fp32_tolerances(0, 0.9, None).values()) == 1.0  # a difference of probabilities can't be more


def test_an_answer_that_is_no_number_is_no_answer() -> None:
    answers = np.full((2, 3, 2), 0.5, np.float32)
    answers[1, 2, 0] = np.nan
    with pytest.raises(EngineError, match="not a number"):
        max_difference(answers, np.full((2, 3, 2), 0.5, np.float32))


def pairs(margins: np.ndarray) -> np.ndarray:
    all_ = 1 / (1 + np.exp(-margins))
    return np.stack([1 - all_, all_], axis=2).astype(np.float32)


def test_a_golden_set_holds_both_calls_and_nothing_near_a_tie(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    answers = pairs(rng.normal(0, 3, (90, 3)))
    crops = rng.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8)
    golden = choose_golden(crops, answers, count=16, seed=0, source=tmp_path)
    labels = vote(golden.probabilities).label
    assert (labels == 0).sum() == (labels == 1).sum() == 8
    assert np.abs(signed_vote_margins(golden.probabilities)).min() >= 1
    again = choose_golden(crops, answers, count=16, seed=0, source=tmp_path)
    np.testing.assert_array_equal(golden.crops, again.crops)


@pytest.mark.parametrize(("least", "most"), [(0.6, 8.0), (0.05, 0.65)])
def test_a_golden_set_is_of_each_calls_clearer_half_and_clear_cells_alone(tmp_path: Path, least: float, most: float) -> None:
    sizes = np.linspace(least, most, 40)
    margins = np.repeat(np.concatenate([sizes, -sizes])[:, None], 3, axis=1)
    golden = choose_golden(np.zeros((80, 8, 8, 3), np.uint8), pairs(margins), count=16, seed=0, source=tmp_path)
    assert np.abs(signed_vote_margins(golden.probabilities)).min() >= max(1, 2 * np.median(sizes)) - 1e-5


def test_the_sign_of_a_lead_is_the_call() -> None:
    answers = pairs(np.random.default_rng(1).normal(0, 2, (200, 3)))
    np.testing.assert_array_equal(signed_vote_margins(answers) >= 0, vote(answers).label == 1)


def test_one_call_makes_no_golden_set(tmp_path) -> None:  # type: ignore[no-untyped-def]
    answers = pairs(np.full((20, 3), 2.0))
    crops = np.zeros((20, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match="all 20 cells 'all': a golden set needs both calls"):
        choose_golden(crops, answers, count=16, seed=0, source=tmp_path)


def test_a_rare_call_is_made_up_for_by_the_other(tmp_path) -> None:  # type: ignore[no-untyped-def]
    margins = np.full((20, 3), 2.0)
    margins[4] = -3
    golden = choose_golden(np.zeros((20, 8, 8, 3), np.uint8), pairs(margins), count=16, seed=0, source=tmp_path)
    assert len(golden.crops) == 16
    assert (vote(golden.probabilities).label == 0).sum() == 1


def test_clear_cells_of_one_call_come_before_unclear_ones_of_the_other(tmp_path: Path) -> None:
    margins = np.concatenate([np.full((30, 3), -2.0), np.full((3, 3), 2.0), np.full((20, 3), 0.2)])
    golden = choose_golden(np.zeros((53, 8, 8, 3), np.uint8), pairs(margins), count=16, seed=0, source=tmp_path)
    assert (vote(golden.probabilities).label == 1).sum() == 3
    assert len(golden.crops) == 16
    assert np.abs(signed_vote_margins(golden.probabilities)).min() >= 1
