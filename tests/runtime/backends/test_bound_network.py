"""train/network.py against plain PyTorch: normalisation, views, the head, the fused forward and what stage 2 freezes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from blastscope.runtime.errors import ConfigError
from blastscope.runtime.types import VOTERS, Voter
from blastscope.train.backbone import InputNormalization
from blastscope.train.config import NetworkConfig, Stage2Config, TrainConfig
from blastscope.train.ensemble_checkpoint import random_ensemble
from blastscope.train.network import CELL_MEAN, CELL_SPREAD, Ensemble, Normalise, make_ensemble, orientations

SIDE = 32
TINY = TrainConfig.model_validate(
    {"crop": {"side_px": SIDE}, "network": {"backbone": "test_efficientnet", "weights": "none"}, "stage2": {"hidden": 16}}
)


def with_network(**change: object) -> TrainConfig:
    return TINY.model_copy(update={"network": NetworkConfig.model_validate(TINY.network.model_dump() | change)})


@pytest.fixture(scope="module")
def crops() -> NDArray[np.uint8]:
    """Coloured noise in a disc on black."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = (y**2 + x**2 < 140)[None, :, :, None]
    return np.where(disc, rng.integers(30, 220, (6, SIDE, SIDE, 3)), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def ensemble(crops: NDArray[np.uint8]) -> Ensemble:
    return random_ensemble(TINY, crops).ensemble


@torch.inference_mode()
def answer(network: torch.nn.Module, crops: NDArray[np.uint8]) -> torch.Tensor:
    out: torch.Tensor = network.eval()(torch.from_numpy(crops))
    return out


def test_the_ensemble_answers_with_three_opinions_in_fp32(ensemble: Ensemble, crops: NDArray[np.uint8]) -> None:
    logits = answer(ensemble, crops)
    assert (logits.shape, logits.dtype) == ((6, 3, 2), torch.float32)
    assert ensemble.passes == 2


@pytest.mark.parametrize("views", [1, 2, 8])
def test_each_voter_alone_says_what_the_ensemble_says_of_it(crops: NDArray[np.uint8], views: int) -> None:
    fused = random_ensemble(with_network(views=views), crops).ensemble
    logits = answer(fused, crops)
    for place, name in enumerate(VOTERS):
        torch.testing.assert_close(answer(fused.voter(name), crops), logits[:, place], atol=1e-5, rtol=1e-4)


def test_a_and_b_are_two_networks(ensemble: Ensemble, crops: NDArray[np.uint8]) -> None:
    names: tuple[Voter, Voter] = ("a", "b")
    a, b = (answer(ensemble.voter(name), crops) for name in names)
    assert (a - b).abs().max() > 1e-3
    shared = {id(p) for p in ensemble.a.parameters()} & {id(p) for p in ensemble.b.parameters()}
    assert not shared


def test_normalisation_is_the_backbones_own(ensemble: Ensemble, crops: NDArray[np.uint8]) -> None:
    pixels = ensemble.a.normalise(torch.from_numpy(crops))
    config = ensemble.a.backbone.pretrained_cfg
    wanted = (crops / 255 - np.array(config["mean"])) / np.array(config["std"])  # type: ignore[index]
    np.testing.assert_allclose(pixels.numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-5)


def test_standardised_cells_have_one_colour_and_black_stays_black(crops: NDArray[np.uint8]) -> None:
    layer = Normalise(InputNormalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)), "standardise")
    pixels = layer(torch.from_numpy(crops // 2 + crops // 4)).numpy().transpose(0, 2, 3, 1)
    cell: NDArray[np.bool_] = np.asarray(crops.any(axis=3))
    assert not pixels[~cell].any()
    for number, crop in enumerate(pixels):
        np.testing.assert_allclose(crop[cell[number]].mean(axis=0), np.array(CELL_MEAN), atol=1)
        np.testing.assert_allclose(crop[cell[number]].std(axis=0), np.array(CELL_SPREAD), rtol=0.03)


def test_a_flat_cell_is_not_blown_up_to_noise_and_a_black_crop_stays_black() -> None:
    layer = Normalise(InputNormalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)), "standardise")
    grain = np.random.default_rng(0).integers(0, 2, (1, 32, 32, 3), np.uint8)  # of one step: nothing but rounding
    flat = layer(torch.from_numpy(np.uint8(100) + grain)).numpy()
    assert flat.std(axis=(2, 3)).max() < max(CELL_SPREAD) / 4
    assert not layer(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).any()


def test_eight_views_are_the_eight_orientations() -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    views = orientations(image, 8).unflatten(0, (8, 2))  # type: ignore[no-untyped-call]
    wanted = [turned for k in range(4) for turned in (torch.rot90(image, k, (2, 3)), torch.rot90(image, k, (2, 3)).flip(3))]
    assert torch.equal(views[0], image)
    assert all(any(torch.equal(view, other) for other in wanted) for view in views)
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_eight_views_answer_alike_for_a_turned_crop(crops: NDArray[np.uint8]) -> None:
    fused = random_ensemble(with_network(views=8), crops).ensemble
    turned = np.ascontiguousarray(np.rot90(crops, axes=(1, 2)))
    torch.testing.assert_close(answer(fused, turned), answer(fused, crops), atol=1e-4, rtol=1e-4)


def test_the_head_is_the_papers(ensemble: Ensemble) -> None:
    head = ensemble.head.eval()
    features = torch.randn(5, 2 * head.features)
    a, b = features.chunk(2, dim=1)
    norm = []
    for x, layer in ((a, head.norm_a), (b, head.norm_b)):
        mean, variance = layer.state_dict()["running_mean"], layer.state_dict()["running_var"]
        norm.append((x - mean) / (variance + layer.eps).sqrt())
    fc1, fc2, fc3 = (layer for layer in head.layers if isinstance(layer, torch.nn.Linear))
    hidden = (torch.cat(norm, dim=1) @ fc1.weight.T + fc1.bias).relu()
    hidden = (hidden @ fc2.weight.T + fc2.bias).relu()
    torch.testing.assert_close(head(features), hidden @ fc3.weight.T + fc3.bias, atol=1e-4, rtol=1e-4)
    assert [layer.p for layer in head.layers if isinstance(layer, torch.nn.Dropout)] == [0.6, 0.6]


def test_with_stages_the_combined_model_sees_statistics_of_earlier_maps(crops: NDArray[np.uint8]) -> None:
    config = TINY.model_copy(update={"stage2": Stage2Config(hidden=16, stages=2)})
    fused = random_ensemble(config, crops).ensemble
    maps: list[torch.Tensor] = []
    blocks = [fused.a.backbone.get_submodule(f"blocks.{place}") for place in (2, 3)]
    hooks = [block.register_forward_hook(lambda _m, _i, out: maps.append(out)) for block in blocks]
    with torch.inference_mode():
        seen = fused.a.forward_features(fused.a.normalise(torch.from_numpy(crops)))
        alone = fused.a.backbone(fused.a.normalise(torch.from_numpy(crops)))
    for hook in hooks:
        hook.remove()
    wanted = [part for each in maps[:2] for part in (each.mean((2, 3)), each.std((2, 3), correction=0))]
    torch.testing.assert_close(seen.combined_features, torch.cat(wanted, dim=1), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(seen.pooled, alone)
    assert fused.head.features == seen.combined_features.shape[1]
    logits = answer(fused, crops)
    for place, name in enumerate(VOTERS):
        torch.testing.assert_close(answer(fused.voter(name), crops), logits[:, place], atol=1e-5, rtol=1e-4)


def test_more_stages_than_the_backbone_has_are_refused() -> None:
    config = TINY.model_copy(update={"stage2": Stage2Config(hidden=16, stages=7)})
    with pytest.raises(ConfigError, match="has 4 stages"):
        make_ensemble(config)


def test_a_fine_tuned_ensemble_makes_four_passes(crops: NDArray[np.uint8]) -> None:
    config = TINY.model_copy(update={"stage2": Stage2Config(hidden=16, fine_tune=True)})
    fused = make_ensemble(config)
    assert fused.passes == 4
    assert fused.tuned_a is not None
    with torch.no_grad():
        for parameter in fused.tuned_a.backbone.parameters():
            parameter.add_(0.05)
    logits = answer(fused, crops)
    for place, name in enumerate(VOTERS):
        torch.testing.assert_close(answer(fused.voter(name), crops), logits[:, place], atol=1e-5, rtol=1e-4)


def test_random_weights_are_the_same_for_the_same_seed_and_spread_out(crops: NDArray[np.uint8]) -> None:
    first, again = (answer(random_ensemble(TINY, crops).ensemble, crops) for _ in range(2))
    assert torch.equal(first, again)
    assert first.std(dim=0).min() > 1e-4  # statistics of real crops: cells are told apart, nothing vanished


def test_random_weights_have_batch_norm_statistics_of_the_crops(crops: NDArray[np.uint8]) -> None:
    fused = random_ensemble(TINY, crops).ensemble
    with torch.inference_mode():
        features = fused.a.backbone(fused.a.normalise(torch.from_numpy(crops)))
    torch.testing.assert_close(fused.head.norm_a.running_mean, features.mean(dim=0), atol=1e-4, rtol=1e-3)
