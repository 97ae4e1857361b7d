"""The first layers of a backbone, up to one that can lie within a stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blastscope.runtime.errors import ConfigError


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

    Raises
    ------
    ConfigError
        The network has no such layer, or its layers don't run one after another, in the order of `names`.
    """

    def __init__(self, network: Any, names: Sequence[str], side_px: int) -> None:
        super().__init__()
        layers = dict(_layers_in_turn(network))
        missing = [name for name in names if name not in layers]
        if missing:
            raise ConfigError("trunk", [f"stages: the backbone has no layer {', '.join(missing)}; it has {', '.join(layers)}"])
        last = list(layers).index(names[-1])
        self.names = list(layers)[: last + 1]
        self.layers = nn.ModuleList([layers[name] for name in self.names])
        self.read = frozenset(names)
        self._compare(network, names, side_px)

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
    def _compare(self, network: Any, names: Sequence[str], side_px: int) -> None:
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
            raise ConfigError("trunk", [text])


def _layers_in_turn(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The children of a network by name, and those of a sequence of stages in its place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and not prefix:
            yield from _layers_in_turn(child, f"{name}.")
        else:
            yield prefix + name, child
