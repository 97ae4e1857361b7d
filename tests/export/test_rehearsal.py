"""What can be exported of a network is told before it is trained."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from blastscope.export.rehearsal import rehearse
from blastscope.runtime.errors import EngineError
from blastscope.train.config import SHIPPED, TrainConfig
from blastscope.train.network import VoterNetwork, make_voter
from blastscope.train.trunk_stages import start_ensemble

CROPS = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def untrained(backbone: str) -> VoterNetwork:
    torch.manual_seed(0)
    config = TrainConfig.model_validate({"crop": {"side_px": 64}, "network": {"backbone": backbone, "weights": "none"}})
    return make_voter(config)[0]


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_a_network_that_can_have_every_precision_says_so(backbone: str) -> None:
    voter = untrained(backbone)
    before = {name: tensor.clone() for name, tensor in voter.state_dict().items()}
    assert rehearse(voter.train(), CROPS) == "export: this network can have fp32, fp16, int8"
    assert voter.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in voter.state_dict().items())


def test_the_shipped_recipes_trunk_is_rehearsed_too() -> None:
    config = TrainConfig.from_toml(SHIPPED)
    config = config.model_copy(update={"network": config.network.model_copy(update={"weights": "none"})})
    crops: NDArray[np.uint8] = np.zeros((2, config.crop.side_px, config.crop.side_px, 3), np.uint8)
    crops[:, 20:170, 30:180] = np.random.default_rng(1).integers(40, 220, (2, 150, 150, 3))
    assert rehearse(start_ensemble(config)[0], crops) == "export: this network can have fp32, fp16, int8"


def test_a_network_that_cannot_be_exported_says_why() -> None:
    class Strange(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(pixels).mean(dim=(2, 3)).repeat(1, 100)[:, :256]

    voter = untrained("test_efficientnet")
    voter.backbone = Strange()
    assert rehearse(voter, CROPS).startswith("export: this network can't be exported: PyTorch's exporter has no ONNX")


@pytest.mark.parametrize("error", [EngineError("no room"), ValueError("no room\nmore"), IndexError("no room")])
def test_a_precision_that_fails_is_named_and_the_others_stay(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("blastscope.export.onnx_writer.convert_fp16", fail)
    sentence = rehearse(untrained("test_efficientnet"), CROPS)
    assert sentence == "export: this network can have fp32, int8; not fp16: no room"


def test_without_onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("blastscope.export.onnx_", "blastscope.calibration."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    sentence = rehearse(untrained("test_efficientnet"), CROPS)
    assert sentence.startswith("export: not tried, 'onnx")
    assert "blastscope[export]" in sentence
