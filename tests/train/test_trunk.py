"""train/trunk.py: statistics over the cell's own pixels, heads that are several networks, and the distance from training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from torch import nn
from torch.nn import functional

from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.errors import ConfigError
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.train.backbone import create_backbone
from blastscope.train.backbone_maps import LeadingLayers
from blastscope.train.config import TrainConfig, TrunkConfig
from blastscope.train.stages import FeatureTable
from blastscope.train.trainer import nuisance_covariance, weighted_loss
from blastscope.train.trunk import Head, Novelty, TrunkEnsemble, TrunkStatistics, make_trunk_ensemble
from blastscope.train.trunk_stages import fit_novelty

SMALL = {
    "network": {"backbone": "test_efficientnet", "weights": "none"},
    "crop": {"side_px": 64},
    "trunk": {"stages": [1, 2], "covariances": [1], "hidden": 4, "members": 3, "directions": 4},
}


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({**SMALL, **changes})


@pytest.fixture(scope="module")
def crops() -> NDArray[np.uint8]:
    made = [crop_cell(cell.image, config().crop) for cell in synthetic_cells(4, seed=1)]
    return np.stack([crop.pixels for crop in made if isinstance(crop, Crop)])


@pytest.fixture
def ensemble() -> TrunkEnsemble:
    torch.manual_seed(0)
    return make_trunk_ensemble(config())[0].eval()


def test_statistics_are_those_of_the_cells_own_pixels(ensemble: TrunkEnsemble, crops: NDArray[np.uint8]) -> None:
    found = ensemble.trunk(torch.from_numpy(crops))
    with torch.no_grad():
        maps = ensemble.trunk.backbone.forward_intermediates(
            ensemble.trunk.normalise(torch.from_numpy(crops)), indices=[1, 2], intermediates_only=True
        )
    for row, crop in enumerate(crops):
        wanted: list[NDArray[np.float64]] = []
        roots: list[NDArray[np.float64]] = []
        for place, each in enumerate(maps):
            values = each[row].double().numpy().reshape(each.shape[1], -1)
            step = crop.shape[0] // each.shape[2]
            cell = (crop.max(axis=2) > 0).reshape(each.shape[2], step, each.shape[3], step).mean(axis=(1, 3)).ravel()
            covariance = np.atleast_2d(np.cov(values, aweights=cell, ddof=0))
            wanted += [np.average(values, axis=1, weights=cell), np.sqrt(np.diag(covariance))]
            if place == 0:
                upper = covariance[np.triu_indices(len(values))]
                roots.append(np.sign(upper) * np.sqrt(np.abs(upper)))
        np.testing.assert_allclose(found.features[row].numpy(), np.concatenate([*wanted, *roots]), atol=2e-3)


def test_what_is_black_changes_no_statistic(ensemble: TrunkEnsemble, crops: NDArray[np.uint8]) -> None:
    """Only through the backbone, whose maps see some pixels around the cell: the weights themselves are zero there."""
    box = ensemble.trunk(torch.from_numpy(crops)).shape.numpy()
    for row, crop in enumerate(crops):
        cell = crop.max(axis=2) > 0
        area = cell.any(axis=0).sum() * cell.any(axis=1).sum()
        np.testing.assert_allclose(box[row], [np.log(area + 1), cell.sum() / (area + 1)], rtol=1e-5)


def test_a_head_answers_as_the_mean_of_its_members() -> None:
    torch.manual_seed(1)
    head, inputs = Head(6, TrunkConfig(hidden=5, members=3, input_dropout=0, dropout=0)), torch.randn(7, 6)
    head.standardise(torch.randn(6), torch.rand(6) + 0.5)
    each = head.train()(inputs)
    assert each.shape == (7, 3, 2)
    assert not torch.allclose(each[:, 0], each[:, 1])
    torch.testing.assert_close(head.eval()(inputs), each.mean(dim=1))


def test_members_learn_as_each_would_alone() -> None:
    torch.manual_seed(2)
    head, inputs, labels = Head(6, TrunkConfig(hidden=5, members=2)), torch.randn(9, 6), torch.arange(9) % 2
    head.before.p = head.after.p = 0.0
    each = head.train()(inputs)
    alone = [functional.cross_entropy(each[:, member], labels, label_smoothing=0.1) for member in range(2)]
    torch.testing.assert_close(weighted_loss(each, labels, torch.ones(2), 0.1), torch.stack(alone).mean())


def test_a_backbone_without_these_stages_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="stages 0 to 4, not 9"):
        make_trunk_ensemble(config(trunk={"stages": [1, 9], "covariances": []}))


def test_layers_by_name_give_the_maps_of_the_whole_network(crops: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    ensemble = make_trunk_ensemble(config(trunk={"stages": ["blocks.1", "blocks.3"], "covariances": ["blocks.1"]}))[0].eval()
    torch.manual_seed(0)
    network = create_backbone(config().network, 64)[0].eval()
    maps: dict[str, torch.Tensor] = {}
    for name in ("blocks.1", "blocks.3"):  # blocks.3 lies within timm's stage 3, which ends with blocks.4
        network.get_submodule(name).register_forward_hook(
            lambda _layer, _inputs, output, name=name: maps.update({name: output})
        )
    pixels = ensemble.trunk.normalise(torch.from_numpy(crops))
    with torch.no_grad():
        network(pixels)
        found = ensemble.trunk.backbone(pixels)
    assert all(torch.equal(each, maps[name]) for each, name in zip(found, maps, strict=True))
    assert ensemble.trunk.first_order == 2 * sum(each.shape[1] for each in maps.values())
    assert "blocks.4" not in ensemble.trunk.backbone.names


def test_layers_that_a_backbone_lacks_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"no layer blocks\.9; it has conv_stem, bn1, blocks\.0"):
        make_trunk_ensemble(config(trunk={"stages": ["blocks.1", "blocks.9"], "covariances": []}))


def test_a_backbone_that_does_more_than_its_layers_is_refused() -> None:
    class WithPositions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 4, 1)
            self.positions = nn.Parameter(torch.ones(1, 4, 16, 16))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.block(self.stem(pixels) + self.positions)
            return found

    network = WithPositions()
    assert LeadingLayers(network, ["stem"], 32).names == ["stem"]
    with pytest.raises(ConfigError, match=r"don't run in turn up to stem, block: name stages by numbers"):
        LeadingLayers(network, ["stem", "block"], 32)
    with pytest.raises(ConfigError, match=r"don't run in turn up to block, stem: name stages by numbers"):
        LeadingLayers(network, ["block", "stem"], 32)


def test_maps_that_do_not_divide_the_crop_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="don't divide crops of 50"):
        make_trunk_ensemble(config(crop={"side_px": 50}))


def test_stages_are_checked_where_the_file_is_read() -> None:
    mixed: dict[str, object] = {"stages": [1, "blocks.2"], "covariances": []}
    cases: list[dict[str, object]] = [
        {"stages": [1, 1]},
        {"stages": [-1]},
        {"stages": [1], "covariances": [2]},
        {"stages": []},
        mixed,
    ]
    for wrong in cases:
        with pytest.raises(ValueError, match="stages"):
            TrunkConfig.model_validate(wrong)


def test_the_backbone_stays_as_it_was_while_heads_train(ensemble: TrunkEnsemble) -> None:
    ensemble.train()
    assert ensemble.a.training
    assert not any(module.training for module in ensemble.trunk.modules())
    assert not any(parameter.requires_grad for parameter in ensemble.trunk.parameters())


def test_dividing_margins_keeps_every_call(ensemble: TrunkEnsemble, crops: NDArray[np.uint8]) -> None:
    before = ensemble(torch.from_numpy(crops))
    ensemble.divide_margins(2.5)
    torch.testing.assert_close(ensemble(torch.from_numpy(crops)), before / 2.5)


def test_novelty_is_a_mahalanobis_distance() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5))).astype(np.float32)
    shape = rng.normal(size=(400, 2)).astype(np.float32)
    novelty = Novelty(5, 5)
    table = FeatureTable(features, shape, np.zeros(400, np.float32))
    fit_novelty(novelty, table, np.arange(400), np.full(400, 1 / 400))
    inverse = np.linalg.inv(np.cov(features.T, ddof=0).astype(np.float64))
    new = rng.normal(size=(6, 5)).astype(np.float32) * 4
    middle = np.repeat(shape.mean(axis=0, keepdims=True), 6, axis=0)  # of a usual size: the features alone count
    found = novelty(TrunkStatistics(torch.from_numpy(new), torch.from_numpy(middle)))
    wanted = [mahalanobis(one, features.mean(axis=0), inverse) / np.sqrt(5) for one in new]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-3)


def test_novelty_grows_with_what_size_exceeds_two_deviations_by() -> None:
    novelty = Novelty(3, 2)
    shape = torch.tensor([[0.0, 0.0], [1.9, -1.9], [5.0, 0.0], [0.0, -4.0]])
    found = novelty(TrunkStatistics(torch.zeros(4, 3), shape))
    assert found.tolist() == [0, 0, 3, 2]


def test_the_penalty_is_the_squared_covariance_within_classes() -> None:
    rng = np.random.default_rng(3)
    logits, labels, light = rng.normal(size=(40, 2)), np.arange(40) % 2, rng.normal(100, 20, size=40)
    wanted = 0.0
    for label in (0, 1):
        margin, own = (logits[:, 1] - logits[:, 0])[labels == label], light[labels == label]
        wanted += (np.cov(margin, own, ddof=0)[0, 1] / own.std(ddof=1)) ** 2
    found = nuisance_covariance(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(light))
    assert found.item() == pytest.approx(wanted)


def test_a_backbone_made_for_another_side_is_told_with_its_side() -> None:
    facts = {"crop": {"side_px": 96}, "network": {"backbone": "efficientformer_l1", "weights": "none"}, "trunk": {}}
    with pytest.raises(ConfigError, match=r"'efficientformer_l1' can't take crops of 96 px .*set \[crop\] side_px = 224"):
        make_trunk_ensemble(TrainConfig.model_validate(facts))
