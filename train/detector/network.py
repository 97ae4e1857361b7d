"""The network of a detector: a small head on the frozen trunk's two maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from blastscope.train.detector.config import HeadConfig
from blastscope.train.detector.sources import GROUPS
from blastscope.train.detector.targets import KINDS
from blastscope.train.detector.trunk_maps import DetectorTrunk

BOX_UNIT = 16.0  # pixels: what exp(0) stands for
LARGEST = 4.0  # of the logarithm of a box's reach, in `BOX_UNIT`
RARE = -3.5  # logit of the heat to begin with: most places hold no cell's middle


class DetectorHead(nn.Module):
    """From the trunk's maps (N, C, M, M) and (N, D, M / 2, M / 2) to (N, 10, M, M): heat logits, log reaches, group logits."""

    def __init__(self, channels: tuple[int, ...], config: HeadConfig) -> None:
        super().__init__()
        fine, coarse = channels
        width = config.channels
        self.fine_norm, self.coarse_norm = nn.BatchNorm2d(fine), nn.BatchNorm2d(coarse)
        self.fine, self.coarse = nn.Conv2d(fine, width, 1), nn.Conv2d(coarse, width, 1, bias=False)
        self.drop = nn.Dropout2d(config.dropout)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)) for _ in range(config.depth)
        )
        self.out = nn.Conv2d(width, KINDS + 4 + len(GROUPS), 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]  # it has one
            nn.init.constant_(self.out.bias[:KINDS], RARE)  # type: ignore[index]

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """The raw maps."""
        finer = self.fine(self.drop(self.fine_norm(fine)))
        coarser = self.coarse(self.drop(self.coarse_norm(coarse)))
        hidden = functional.relu(finer + functional.interpolate(coarser, scale_factor=2.0, mode="nearest"))
        for layer in self.layers:
            hidden = functional.relu(hidden + layer(hidden))
        raw: Tensor = self.out(hidden)
        return raw


class Detector(nn.Module):
    """Trunk and head: pictures (N, H, W, 3) uint8 RGB to maps (N, 10, H / 8, W / 8) float32.

    Channels: probabilities that here is the middle of a white cell, a red cell, a platelet; pixels from the middle of this
    place to the left, top, right and bottom of the box around it; probabilities of the groups lymphoid, myeloid and other.
    """

    def __init__(self, trunk: DetectorTrunk, head: DetectorHead) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, pictures: Tensor) -> Tensor:
        """The maps."""
        raw = self.head(*self.trunk(pictures))
        heat, reach, group = raw.split((KINDS, 4, len(GROUPS)), dim=1)
        return torch.cat([heat.sigmoid(), reaches(reach), group.softmax(dim=1)], dim=1)


def reaches(raw: Tensor) -> Tensor:
    """Pixels to each side of a box."""
    return raw.clamp(-LARGEST, LARGEST).exp() * BOX_UNIT
