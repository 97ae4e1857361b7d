"""The trunk of a detector: a frozen ImageNet backbone, cut off at a sixteenth of the picture's side."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blastscope.train.backbone import Statistics, create_backbone
from blastscope.train.config import NetworkConfig

STAGES = (2, 3)  # timm's, whose maps are an eighth and a sixteenth of the picture's side
STRIDE = 8  # pixels of the picture to one of the finer map


class DetectorTrunk(nn.Module):
    """Pictures (N, H, W, 3) uint8 RGB to maps (N, C, H / 8, W / 8) and (N, D, H / 16, W / 16). H and W are multiples of 16."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: Any, statistics: Statistics) -> None:
        super().__init__()
        self.network = network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self.channels = tuple(int(network.feature_info[stage]["num_chs"]) for stage in STAGES)
        mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) * 255 for values in statistics)
        self.register_buffer("scale", 1 / deviation)
        self.register_buffer("offset", -mean / deviation)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The two maps, the finer one first."""
        pixels = pictures.permute(0, 3, 1, 2).float() * self.scale + self.offset
        fine, coarse = self.network.forward_intermediates(pixels, indices=list(STAGES), intermediates_only=True)
        return fine, coarse


def make_trunk(backbone: str) -> tuple[DetectorTrunk, str]:
    """The trunk with ImageNet's weights, and where they come from. Raises `ConfigError` as `create_backbone` does."""
    network, statistics, origin = create_backbone(NetworkConfig(backbone=backbone), 224)
    network.prune_intermediate_layers(list(STAGES), prune_norm=True, prune_head=True)
    return DetectorTrunk(network, statistics), origin


def compiled_module(module: nn.Module, shape: tuple[int, ...]) -> Any:  # OpenVINO's CompiledModel
    """A module of pictures, compiled by OpenVINO in float32; -1 in `shape` is any side that is a multiple of 16."""
    import openvino
    from torch.jit import TracerWarning  # type: ignore[attr-defined]

    example = torch.zeros([side if side > 0 else 64 for side in shape], dtype=torch.uint8)
    with warnings.catch_warnings():  # of the tracer: sizes that become constants, and that it is the older one
        for category in (DeprecationWarning, FutureWarning, TracerWarning):
            warnings.simplefilter("ignore", category)
        model = openvino.convert_model(module.eval(), example_input=example, input=[openvino.PartialShape(list(shape))])
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(model, "CPU", settings)


class TrunkRunner:
    """Runs a trunk in OpenVINO, on a CPU several times as fast as PyTorch does.

    Parameters
    ----------
    trunk : DetectorTrunk
        With its weights.
    side_px : int
        Side of the pictures.
    batch : int
        How many are run at once.
    """

    def __init__(self, trunk: DetectorTrunk, side_px: int, batch: int = 8) -> None:
        self.batch = batch
        self._compiled = compiled_module(trunk, (batch, side_px, side_px, 3))

    def maps(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """The maps of pictures (N, S, S, 3) uint8 RGB: (N, C, S / 8, S / 8) and (N, D, S / 16, S / 16)."""
        parts: list[tuple[NDArray[np.float16], NDArray[np.float16]]] = []
        for start in range(0, len(pictures), self.batch):
            some = pictures[start : start + self.batch]
            full = np.zeros((self.batch, *pictures.shape[1:]), np.uint8)
            full[: len(some)] = some
            fine, coarse = self._compiled(full).to_tuple()
            parts.append((fine[: len(some)].astype(np.float16), coarse[: len(some)].astype(np.float16)))
        return np.concatenate([fine for fine, _ in parts]), np.concatenate([coarse for _, coarse in parts])
