"""The correction of what an int8 graph's heads read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.feature_correction import find_features, fit_features, read_features
from blastscope.calibration.quantisation.quantizer import Int8Builder, QuantConfig
from blastscope.export.onnx_export import make_graph, trace
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.train.config import TrainConfig
from blastscope.train.ensemble_checkpoint import random_ensemble
from blastscope.train.trunk import make_trunk_ensemble

CONFIG = TrainConfig.model_validate(
    {
        "network": {"backbone": "test_efficientnet", "weights": "none"},
        "crop": {"side_px": 64},
        "trunk": {"stages": [1, 2], "covariances": [1], "hidden": 4, "members": 3, "directions": 4},
    }
)
RECIPE = QuantConfig(method="minmax")


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    found = [crop_cell(cell.image, CropSpecification(side_px=64)) for cell in synthetic_cells(72, seed=1)]
    return np.stack([crop.pixels for crop in found if isinstance(crop, Crop)])


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return trace(make_graph(make_trunk_ensemble(CONFIG)[0].eval(), "ensemble"), 64, "ensemble")


def test_features_are_the_trunk_s_statistics(model: onnx.ModelProto, crops: np.ndarray) -> None:
    (name,) = find_features(model)
    torch.manual_seed(0)
    ensemble = make_trunk_ensemble(CONFIG)[0].eval()
    with torch.inference_mode():
        wanted = ensemble.trunk(torch.from_numpy(crops)).features.numpy()
    np.testing.assert_allclose(read_features(model, (name,), crops)[name], wanted, rtol=1e-3, atol=1e-4)


def test_features_of_two_backbones_are_each_one_s_pooled_maps(crops: np.ndarray) -> None:
    facts = {"network": {"backbone": "test_resnet", "weights": "none"}, "crop": {"side_px": 64}, "stage2": {"hidden": 16}}
    trained = random_ensemble(TrainConfig.model_validate(facts), crops[:8])
    graph = trace(make_graph(trained.ensemble, "ensemble"), 64, "ensemble")
    found = read_features(graph, find_features(graph), crops[:4])
    with torch.inference_mode():
        wanted = [
            voter.backbone(voter.normalise(torch.from_numpy(crops[:4]))) for voter in (trained.ensemble.a, trained.ensemble.b)
        ]
    assert len(found) == 2
    for table in wanted:
        assert any(np.allclose(value, table.numpy(), rtol=1e-3, atol=1e-4) for value in found.values())


def test_corrected_features_lie_nearer_to_the_fp32_graph_s(model: onnx.ModelProto, crops: np.ndarray) -> None:
    builder = Int8Builder(model, crops[:64], CalibrationConfig(), histograms=False)
    (name,) = find_features(model)
    wanted = read_features(model, (name,), crops)[name]
    plain = read_features(builder.build(RECIPE, features=False), (name,), crops)[name]
    child = builder.build(RECIPE)
    corrected = read_features(child, (f"{name}_corrected",), crops)[f"{name}_corrected"]
    spread = wanted.std(axis=0) + 1e-6
    held_out = slice(64, None)  # cells that fitted nothing
    before, after = (np.square((each - wanted)[held_out] / spread).mean() for each in (plain, corrected))
    assert after < 0.7 * before
    assert f"{name}_corrected" in {taken for node in child.graph.node for taken in node.input}


def test_the_fit_is_the_least_squares_line() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(80, 3)).astype(np.float32)
    given = (1.2 * wanted + 0.5 + 0.1 * rng.normal(size=wanted.shape)).astype(np.float32)
    scale, offset = fit_features(given, wanted)
    for column in range(3):
        line = np.polyfit(given[:, column].astype(np.float64), wanted[:, column].astype(np.float64), 1)
        np.testing.assert_allclose([scale[column], offset[column]], line, rtol=1e-4, atol=1e-5)


def test_few_cells_and_features_that_do_not_change_get_an_offset_alone() -> None:
    wanted = np.linspace(0, 1, 20, dtype=np.float32).reshape(10, 2)
    scale, offset = fit_features(2 * wanted, wanted)
    assert (scale == 1).all()
    np.testing.assert_allclose((2 * wanted * scale + offset).mean(axis=0), wanted.mean(axis=0), rtol=1e-5)
    still = np.full((100, 1), 3, np.float32)
    scale, offset = fit_features(still, still + 1)
    assert (scale.item(), offset.item()) == (1.0, 1.0)
