"""Cuts a frozen backbone off behind the last map that is read, at the end of a stage or within one, and reads its maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blastscope.runtime.errors import ConfigError

Stages = tuple[int, ...] | tuple[str, ...]  # timm's stages by number, from 0, or layers by name


def cut_off(network: Any, stages: Stages, side_px: int, section: str) -> nn.Module:
    """The part of a backbone that `read_maps` runs.

    Parameters
    ----------
    network : timm model
        The whole backbone.
    stages : tuple of int or tuple of str
        Whose maps are read.
    side_px : int
        Side of a picture in pixels.
    section : str
        Of the configuration, for errors.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ConfigError
        The backbone doesn't give its maps, or has no such stage or layer.
    """
    names = [stage for stage in stages if isinstance(stage, str)]
    if names:
        return LeadingLayers(network, names, side_px, section)
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "prune_intermediate_layers"):
        raise ConfigError(section, ["the backbone doesn't give its maps: name another one"])
    numbers = [stage for stage in stages if isinstance(stage, int)]
    known = len(network.feature_info)
    if max(numbers) >= known:
        raise ConfigError(section, [f"stages: the backbone has stages 0 to {known - 1}, not {max(numbers)}"])
    network.prune_intermediate_layers(numbers, prune_norm=True, prune_head=True)
    kept: nn.Module = network
    return kept


def read_maps(network: Any, stages: Stages, pixels: Tensor) -> list[Tensor]:
    """The maps of `stages`, of a backbone that `cut_off` gave.

    Parameters
    ----------
    network : torch.nn.Module
        As `cut_off` gives it.
    stages : tuple of int or tuple of str
        As `cut_off` took them.
    pixels : (N, 3, H, W) float32 tensor
        Normalised pictures.

    Returns
    -------
    list of (N, C, h, w) float32 tensor
    """
    found: list[Tensor]
    if isinstance(network, LeadingLayers):
        found = network(pixels)
    else:
        found = network.forward_intermediates(pixels, indices=list(stages), stop_early=True, intermediates_only=True)
    return found


class LeadingLayers(nn.Module):
    """The layers of a backbone up to the last that is named, run in turn.

    Parameters
    ----------
    network : timm model
        A backbone whose layers run one after another, such as an EfficientNet.
    names : sequence of str
        Layers whose outputs are read, as `named_modules` names them, in the order in which they run: 'blocks.1', 'blocks.3'.
    side_px : int
        Side of the crops in pixels.
    section : str
        Of the configuration, for errors.

    Raises
    ------
    ConfigError
        The network has no such layer, or its layers don't run one after another, in the order of `names`.
    """

    def __init__(self, network: Any, names: Sequence[str], side_px: int, section: str = "trunk") -> None:
        super().__init__()
        layers = dict(_layers_in_turn(network))
        missing = [name for name in names if name not in layers]
        if missing:
            raise ConfigError(section, [f"stages: the backbone has no layer {', '.join(missing)}; it has {', '.join(layers)}"])
        last = list(layers).index(names[-1])
        self.names = list(layers)[: last + 1]
        self.layers = nn.ModuleList([layers[name] for name in self.names])
        self.read = frozenset(names)
        self._compare(network, names, side_px, section)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """The maps of the named layers.

        Parameters
        ----------
        pixels : (N, 3, S, S) float32 tensor
            Normalised crops.

        Returns
        -------
        list of (N, C, H, W) float32 tensor
        """
        found = []
        for name, layer in zip(self.names, self.layers, strict=True):
            pixels = layer(pixels)
            if name in self.read:
                found.append(pixels)
        return found

    @torch.no_grad()
    def _compare(self, network: Any, names: Sequence[str], side_px: int, section: str) -> None:
        """Raises `ConfigError` where the whole network gives other maps of these layers."""
        expected: list[Tensor] = []
        pixels = torch.linspace(-1, 1, 3 * side_px * side_px).reshape(1, 3, side_px, side_px)
        hooks = [network.get_submodule(name).register_forward_hook(lambda *call: expected.append(call[2])) for name in names]
        try:
            network.eval()(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        try:
            found = self(pixels)
        except (TypeError, AttributeError, RuntimeError):  # a layer that takes something else than the output of the one before
            found = []
        if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
            text = f"stages: the backbone's layers don't run in turn up to {', '.join(names)}: name stages by numbers"
            raise ConfigError(section, [text])


def _layers_in_turn(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The children of a network by name, and those of a sequence of stages in its place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and not prefix:
            yield from _layers_in_turn(child, f"{name}.")
        else:
            yield prefix + name, child
