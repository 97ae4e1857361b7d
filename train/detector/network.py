"""The network of a detector: a small head on two maps of a frozen ImageNet backbone.

The backbone is cut off at a sixteenth of the picture's side. `encode` gives what the maps should show: bells on the middles of
cells, their boxes, and their groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from blastscope.runtime.backends.openvino.infer_request import convert_model, import_openvino
from blastscope.runtime.errors import ConfigError
from blastscope.train.backbone import InputNormalization, create_backbone
from blastscope.train.backbone_maps import cut_off, read_maps
from blastscope.train.config import NetworkConfig
from blastscope.train.detector.config import DetectorConfig, HeadConfig
from blastscope.train.detector.pictures import Sample
from blastscope.train.detector.sources import GROUPS, RED, WHITE

STRIDE = 8  # pixels of the picture to one of the finer map
PROBE_PX = 224  # side of the picture by which a trunk's maps are measured
KINDS = 3  # channels of the heat map: white cell, red cell, platelet
WIDTH = 0.09  # standard deviation of a bell, of the box's side
LEAST_WIDTH = 0.45  # pixels of the map
BOX_FROM = 0.3  # a box is learnt where its bell is at least this high
UNKNOWN_GROUP = -1
BOX_UNIT = 16.0  # pixels: what exp(0) stands for
LARGEST = 4.0  # of the logarithm of a box's reach, in `BOX_UNIT`
BACKGROUND = 215.0  # level to which a balanced picture's channels are brought
GAINS = 0.7, 4.0  # by factors of no less and no more than these
RARE = -3.5  # logit of the heat to begin with: most places hold no cell's middle


class DetectorTrunk(nn.Module):
    """Pictures (N, H, W, 3) uint8 RGB to maps (N, C, H / 8, W / 8) and (N, D, H / 16, W / 16). H and W are multiples of 16.

    Parameters
    ----------
    network : timm model
        The backbone, cut off behind the coarser map.
    statistics : InputNormalization
        Mean and deviation that the backbone's weights go with.
    stages : two int or two str
        Whose maps are read.
    white_balance : bool
        Whether pictures are brought to one light and white balance first, see `white_balanced`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self, network: Any, statistics: InputNormalization, stages: tuple[int, int] | tuple[str, str], *, white_balance: bool
    ) -> None:
        super().__init__()
        self.white_balance = white_balance
        self.network = network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self.stages = stages
        mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) * 255 for values in statistics)
        self.register_buffer("scale", 1 / deviation)
        self.register_buffer("offset", -mean / deviation)
        with torch.no_grad():
            maps = self(torch.zeros((1, PROBE_PX, PROBE_PX, 3), dtype=torch.uint8))
        sides = tuple(each.shape[-1] for each in maps)
        if sides != (PROBE_PX // STRIDE, PROBE_PX // (2 * STRIDE)):
            raise ConfigError(
                "detector", [f"stages: maps of {sides} pixels for {PROBE_PX}: an eighth and a sixteenth are wanted"]
            )
        self.channels = tuple(each.shape[1] for each in maps)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The two maps, the finer one first."""
        pixels = pictures.float().permute(0, 3, 1, 2)  # cast first: TensorRT transposes no bytes
        if self.white_balance:
            pixels = white_balanced(pixels)
        fine, coarse = read_maps(self.network, self.stages, pixels * self.scale + self.offset)
        return fine, coarse


def white_balanced(pixels: Tensor) -> Tensor:
    """Pixels (N, 3, H, W), 0 to 255, with each channel scaled so that its light stands at one level.

    Shades of gray (Finlayson and Trezzi 2004): the level of a channel is its Minkowski mean of the order 6, which lies near the
    background's, and hangs little on how many cells there are.
    """
    squares = (pixels / 255) ** 2
    level = (squares * squares * squares).mean((2, 3), keepdim=True) ** (1 / 6)
    gain = (BACKGROUND / 255 / level.clamp(min=BACKGROUND / 255 / GAINS[1])).clamp(min=GAINS[0])
    return (pixels * gain).clamp(max=255)


def make_trunk(config: DetectorConfig) -> tuple[DetectorTrunk, str]:
    """The trunk with ImageNet's weights, and where they come from.

    Parameters
    ----------
    config : DetectorConfig
        Its backbone and stages count.

    Returns
    -------
    DetectorTrunk, str

    Raises
    ------
    ConfigError
        As `create_backbone`; a stage or layer that the backbone lacks, or whose maps have another size.
    """
    network, statistics, origin = create_backbone(NetworkConfig(backbone=config.backbone), PROBE_PX)
    network = cut_off(network, config.stages, PROBE_PX, "detector")
    return DetectorTrunk(network, statistics, config.stages, white_balance=config.picture.white_balance), origin


def compiled_module(module: nn.Module, shape: tuple[int, ...]) -> Any:  # OpenVINO's CompiledModel
    """A module of pictures, compiled by OpenVINO in float32; -1 in `shape` is any side that is a multiple of 16."""
    from torch.jit import TracerWarning  # type: ignore[attr-defined]

    openvino = import_openvino()
    example = torch.zeros([side if side > 0 else 64 for side in shape], dtype=torch.uint8)
    with warnings.catch_warnings():  # of the tracer: sizes that become constants, and that it is the older one
        for category in (DeprecationWarning, FutureWarning, TracerWarning):
            warnings.simplefilter("ignore", category)
        # traced here, without the second trace that it would be compared with: tests hold the result to PyTorch's answers
        traced = torch.jit.trace(module.eval(), example, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        model = convert_model(traced, example_input=example, input=[openvino.PartialShape(list(shape))])
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


class Targets(NamedTuple):
    """What maps should show of N pictures of side S; a map has the side M = S / 8.

    Attributes
    ----------
    heat : (N, 3, M, M) float16 array
        1 on the middle of a cell, less around it; a map for each kind.
    known : (N, 3, M, M) bool array
        Where the heat is known.
    box : (N, 4, M, M) float16 array
        Pixels from the middle of this place to the box's left, top, right and bottom.
    weight : (N, M, M) float16 array
        Of the box; 0: there is none.
    group : (N, M, M) int8 array
        Index in GROUPS, or -1.
    """

    heat: NDArray[np.float16]
    known: NDArray[np.bool_]
    box: NDArray[np.float16]
    weight: NDArray[np.float16]
    group: NDArray[np.int8]


def encode(sample: Sample) -> Targets:
    """The targets of one picture, N = 1."""
    side = sample.picture.shape[0] // STRIDE
    heat = np.zeros((KINDS, side, side), np.float32)
    box, weight = np.zeros((4, side, side), np.float32), np.zeros((side, side), np.float32)
    group = np.full((side, side), UNKNOWN_GROUP, np.int8)
    middles = (np.arange(side) + 0.5) * STRIDE
    corners, labels, groups, sized = sample.boxes
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    for at in np.argsort(-areas, kind="stable"):  # the smaller box has the last word
        x0, y0, x1, y1 = (float(value) for value in corners[at])
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        across, down = (max(WIDTH * length / STRIDE, LEAST_WIDTH) * STRIDE for length in (x1 - x0, y1 - y0))
        bell = np.exp(
            -(
                ((middles - (x0 + x1) / 2) ** 2)[None] / (2 * across**2)
                + ((middles - (y0 + y1) / 2) ** 2)[:, None] / (2 * down**2)
            )
        ).astype(np.float32)
        bell /= max(float(bell.max()), 1e-6)
        heat[labels[at]] = np.maximum(heat[labels[at]], bell)
        inside = bell >= BOX_FROM
        weight[inside] = bell[inside] * (1.0 if sized[at] else 0.0) * (1.0 if labels[at] == WHITE else 0.4)
        edges = (middles[None] - x0, middles[:, None] - y0, x1 - middles[None], y1 - middles[:, None])
        for channel, edge in enumerate(edges):
            box[channel][inside] = np.broadcast_to(edge, inside.shape)[inside]
        group[inside] = groups[at] if labels[at] == WHITE else UNKNOWN_GROUP
    whole = np.stack([cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA) for plane in sample.complete]) > 0.5
    known = np.stack([whole[0], whole[1], whole[1]]) | (heat > 0.05)
    return Targets(
        heat[None].astype(np.float16), known[None], box[None].astype(np.float16), weight[None].astype(np.float16), group[None]
    )


def joined(parts: list[Targets]) -> Targets:
    """The targets of many pictures as one."""
    return Targets(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


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
        self.margin = config.margin
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
    """Trunk and heads: pictures (N, H, W, 3) uint8 RGB to maps (N, 10, H / 8, W / 8) float32.

    Channels: probabilities that here is the middle of a white cell, a red cell, a platelet; pixels from the middle of this
    place to the left, top, right and bottom of the box around it; probabilities of the groups lymphoid, myeloid and other.
    Several heads are an ensemble: the mean of their maps counts.
    """

    def __init__(self, trunk: DetectorTrunk, heads: Sequence[DetectorHead]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList(heads)
        self.margin = heads[0].margin

    def forward(self, pictures: Tensor) -> Tensor:
        """The maps."""
        maps = self.trunk(pictures)
        answers = [_answers(head(*maps)) for head in self.heads]
        heat, boxes, group = (sum(parts[1:], parts[0]) / len(parts) for parts in zip(*answers, strict=True))
        if self.margin > 1:
            white = heat[:, WHITE : WHITE + 1] > heat[:, RED : RED + 1]
            boxes = torch.where(white, widened(boxes, self.margin), boxes)
        return torch.cat([heat, boxes, group], dim=1)


def _answers(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities of kinds, reaches in pixels, and probabilities of groups, of one head's raw maps (N, 10, M, M)."""
    heat, reach, group = torch.split(raw, [KINDS, 4, len(GROUPS)], dim=1)
    return heat.sigmoid(), reaches(reach), group.softmax(dim=1)


def reaches(raw: Tensor) -> Tensor:
    """Pixels to each side of a box."""
    return raw.clamp(-LARGEST, LARGEST).exp() * BOX_UNIT


def widened(reach: Tensor, factor: float) -> Tensor:
    """The reaches (N, 4, M, M) of boxes around the same middles, whose sides are `factor` times as long."""
    opposite = reach[:, [2, 3, 0, 1]]
    return reach + (reach + opposite) * ((factor - 1) / 2)
