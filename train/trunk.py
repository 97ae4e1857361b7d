"""One frozen backbone for all three voters: statistics of its maps over the cell's own pixels, small heads on top.

A, B and the combined model read the same maps, so a cell costs one backbone pass instead of two a view. Nothing of the
backbone is trained: with the few normal persons that there are to learn from, fine-tuned layers learn those persons' cells and
stains by heart, and calls on new people get worse.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from blastscope.runtime.errors import ConfigError
from blastscope.runtime.types import CLASSES, VOTERS, Voter
from blastscope.train.backbone import LEAST_VARIANCE, UNBUILDABLE, create_backbone, unfit_error
from blastscope.train.backbone_maps import cut_off, read_maps
from blastscope.train.config import TrainConfig, TrunkConfig
from blastscope.train.network import Normalise

LEAST_DEVIATION = 1e-4  # of a feature over the training cells: one that never changes is not blown up
SIZE_SLACK = 2.0  # standard deviations of size and fill within which a cell is like those of the training


class Trunk(nn.Module):
    """A frozen backbone that gives statistics of its maps over the pixels of the cell.

    Parameters
    ----------
    network : timm model or LeadingLayers
        The backbone, with the stages that `config` names. Its weights are frozen.
    normalise : Normalise
        What brings uint8 pixels to the backbone's range.
    config : TrunkConfig
        Which stages are read, and of which the covariances, too.
    side_px : int
        Side of the crops in pixels.

    Attributes
    ----------
    first_order, second_order : int
        How many features are means and deviations, and how many are covariances.

    Raises
    ------
    ConfigError
        The side of a stage's maps doesn't divide `side_px`.
    """

    def __init__(self, network: Any, normalise: Normalise, config: TrunkConfig, side_px: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = network.requires_grad_(False).eval()
        self.stages = config.stages
        self.covariances = [place for place, stage in enumerate(config.stages) if stage in config.covariances]
        with torch.no_grad():
            maps = read_maps(self.backbone, self.stages, torch.zeros(1, 3, side_px, side_px))
        if any(side_px % each.shape[-1] or each.shape[-1] != each.shape[-2] for each in maps):
            sides = ", ".join(str(each.shape[-1]) for each in maps)
            raise ConfigError("crop", [f"side_px: maps of {sides} pixels don't divide crops of {side_px}"])
        self.first_order = 2 * sum(each.shape[1] for each in maps)
        chosen = [maps[place].shape[1] for place in self.covariances]
        self.second_order = sum(channels * (channels + 1) // 2 for channels in chosen)
        for place, channels in zip(self.covariances, chosen, strict=True):
            upper = torch.triu_indices(channels, channels)
            self.register_buffer(f"upper_{place}", upper[0] * channels + upper[1], persistent=False)

    def train(self, mode: bool = True) -> Trunk:
        """Itself, always in eval mode: the running statistics of a frozen backbone don't move."""
        return super().train(False)

    def forward(self, crops: Tensor) -> TrunkStatistics:
        """The statistics of crops.

        Parameters
        ----------
        crops : (N, S, S, 3) uint8 tensor, RGB
            Cells on black: every pixel that is not black is the cell's.

        Returns
        -------
        TrunkStatistics
        """
        cell = (crops.to(torch.float32).permute(0, 3, 1, 2).amax(dim=1, keepdim=True) > 0).to(torch.float32)  # (N, 1, S, S)
        moments, covariances = [], []
        for place, maps in enumerate(read_maps(self.backbone, self.stages, self.normalise(crops))):
            weights = functional.avg_pool2d(cell, cell.shape[-1] // maps.shape[-1]).flatten(2)  # (N, 1, pixels)
            weights = weights / (weights.sum(dim=2, keepdim=True) + 1e-6)  # sums to 1
            flat = maps.float().flatten(2)  # (N, C, pixels)
            mean = (flat * weights).sum(dim=2, keepdim=True)
            centred = flat - mean
            variance = (centred.pow(2) * weights).sum(dim=2)
            moments += [mean.flatten(1), (variance + LEAST_VARIANCE).sqrt()]
            if place in self.covariances:
                # not `@`: a MatMul in a graph is a layer of the network, which fp16 and int8 graphs round
                covariance = torch.einsum("ncp,ndp->ncd", centred * weights, centred)
                upper = covariance.flatten(1).index_select(1, self.get_buffer(f"upper_{place}"))
                covariances.append(upper / (upper.abs() + LEAST_VARIANCE).sqrt())  # the root, with its sign
        return TrunkStatistics(torch.cat([*moments, *covariances], dim=1), _shape(cell))


class TrunkStatistics(NamedTuple):
    """What a trunk gives of N crops.

    Attributes
    ----------
    features : (N, first_order + second_order) float32 tensor
        Means and standard deviations of each map, then signed square roots of covariances.
    shape : (N, 2) float32 tensor
        Natural logarithm of the area of the cell's box in pixels, and the share of the box that the cell fills.
    """

    features: Tensor  # (N, first_order + second_order) float32: means and deviations of each map, then roots of covariances
    shape: Tensor  # (N, 2) float32: log of the box's area in pixels, share of the box that the cell fills


def _shape(cell: Tensor) -> Tensor:
    wide, high = cell.amax(dim=2).sum(dim=2), cell.amax(dim=3).sum(dim=2)  # (N, 1) each
    box = wide * high + 1
    return torch.cat([box.log(), cell.sum(dim=(2, 3)) / box], dim=1)


class Head(nn.Module):
    """Small networks side by side on standardised features; at inference the mean of their logits.

    They are trained at once, on the same draws, each from its own initial weights: their mean changes less from one training to
    the next than one of them does.

    Parameters
    ----------
    features : int
        How many features a cell has.
    config : TrunkConfig
        How many networks, their width and dropout.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, config: TrunkConfig) -> None:
        super().__init__()
        self.members, self.hidden, self.limit = config.members, config.hidden, config.limit
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.widen = nn.Linear(features, config.members * config.hidden)
        self.classify = nn.Parameter(torch.empty(config.members, config.hidden, len(CLASSES)))
        self.bias = nn.Parameter(torch.zeros(len(CLASSES)))
        self.before, self.after = nn.Dropout(config.input_dropout), nn.Dropout(config.dropout)
        self.reset()

    def reset(self) -> None:
        """Draws new weights, from PyTorch's seed."""
        self.widen.reset_parameters()
        reach = 1 / math.sqrt(self.hidden)
        nn.init.uniform_(self.classify, -reach, reach)
        nn.init.zeros_(self.bias)

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Sets what is subtracted from each feature, and what it is divided by.

        Parameters
        ----------
        mean, deviation : (F,) float32 tensor
            Of the features over the training cells. A deviation below 1e-4 counts as 1e-4.
        """
        self.mean.copy_(mean)
        self.scale.copy_(1 / deviation.clamp(min=LEAST_DEVIATION))

    def forward(self, features: Tensor) -> Tensor:
        """The logits of cells.

        Parameters
        ----------
        features : (N, F) float32 tensor
            As the trunk gives them.

        Returns
        -------
        (N, members, 2) float32 tensor in training, (N, 2) at inference
        """
        inputs = ((features - self.mean) * self.scale).clamp(-self.limit, self.limit)
        hidden = self.after(functional.relu(self.widen(self.before(inputs))))
        if self.training:
            each = hidden.unflatten(1, (self.members, self.hidden)).transpose(0, 1)  # (members, N, hidden)
            by_member: Tensor = (each @ self.classify).transpose(0, 1).float() + self.bias
            return by_member
        logits: Tensor = functional.linear(hidden, self.classify.flatten(0, 1).t() / self.members, self.bias).float()
        return logits


class Novelty(nn.Module):
    """A cell's distance from those of the training: about 1 for one of theirs.

    The square root of a sum: the mean square of the features' scores on the main directions of the training cells, each in
    standard deviations (a Mahalanobis distance), plus the squares of what size and fill exceed two standard deviations by.

    Parameters
    ----------
    features : int
        How many features a cell has.
    directions : int
        How many directions are kept.
    """

    mean: Tensor
    directions: Tensor
    zeros: Tensor
    shape_mean: Tensor
    shape_scale: Tensor

    def __init__(self, features: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("directions", torch.zeros(features, directions))
        self.register_buffer("zeros", torch.zeros(directions), persistent=False)  # with them it is a Gemm, which stays in fp32
        self.register_buffer("shape_mean", torch.zeros(2))
        self.register_buffer("shape_scale", torch.ones(2))

    def forward(self, statistics: TrunkStatistics) -> Tensor:
        """The distance of each cell.

        Parameters
        ----------
        statistics : TrunkStatistics
            As the trunk gives them, of N cells.

        Returns
        -------
        (N,) float32 tensor
        """
        centred = statistics.features[:, : len(self.mean)] - self.mean
        scores: Tensor = functional.linear(centred, self.directions.t(), self.zeros)
        beyond = (((statistics.shape - self.shape_mean) * self.shape_scale).abs() - SIZE_SLACK).clamp(min=0)
        distance: Tensor = (scores.pow(2).mean(dim=1) + beyond.pow(2).sum(dim=1)).sqrt()
        return distance


class TrunkEnsemble(nn.Module):
    """All three voters on one trunk.

    Parameters
    ----------
    trunk : Trunk
        The frozen backbone.
    config : TrunkConfig
        Sizes of the heads, and directions of the novelty.
    """

    views = passes = 1

    def __init__(self, trunk: Trunk, config: TrunkConfig) -> None:
        super().__init__()
        self.trunk = trunk
        self.a, self.b = Head(trunk.first_order, config), Head(trunk.first_order, config)
        self.combined = Head(trunk.first_order + trunk.second_order, config)
        self.novelty = Novelty(trunk.first_order, config.directions)

    def forward(self, crops: Tensor) -> Tensor:
        """The logits of each voter.

        Parameters
        ----------
        crops : (N, S, S, 3) uint8 tensor, RGB
            Cells on black.

        Returns
        -------
        (N, 3, 2) float32 tensor
            Voters in the order a, b, combined; classes in the order hem, all.
        """
        return self.judge(crops)[0]

    def judge(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of each voter, and the novelty.

        Parameters
        ----------
        crops : (N, S, S, 3) uint8 tensor, RGB
            Cells on black.

        Returns
        -------
        (N, 3, 2) float32 tensor, (N,) float32 tensor
        """
        statistics = self.trunk(crops)
        return self.logits(statistics.features), self.novelty(statistics)

    def logits(self, features: Tensor) -> Tensor:
        """The logits of each voter, from features that the trunk gave.

        Parameters
        ----------
        features : (N, F) float32 tensor
            `TrunkStatistics.features`.

        Returns
        -------
        (N, 3, 2) float32 tensor
        """
        first = features[:, : self.trunk.first_order]
        return torch.stack([self.a(first), self.b(first), self.combined(features)], dim=1)

    def divide_margins(self, temperature: float) -> None:
        """Divides the logits of all voters by a temperature, for good.

        Parameters
        ----------
        temperature : float
            Above 1 makes probabilities less extreme, below 1 more.
        """
        with torch.no_grad():
            for voter in VOTERS:
                self.head(voter).classify.div_(temperature)
                self.head(voter).bias.div_(temperature)

    def head(self, voter: Voter) -> Head:
        """The head of one voter."""
        return {VOTERS[0]: self.a, VOTERS[1]: self.b}.get(voter, self.combined)

    def voter(self, name: Voter) -> nn.Module:
        """One voter alone: a module from crops (N, S, S, 3) uint8 to logits (N, 2). It shares its weights with the ensemble.

        Parameters
        ----------
        name : {'a', 'b', 'combined'}
            Which voter.

        Returns
        -------
        torch.nn.Module
        """
        return _OneVoter(self.trunk, self.head(name)).train(self.training)


class _OneVoter(nn.Module):
    def __init__(self, trunk: Trunk, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, crops: Tensor) -> Tensor:
        features = self.trunk(crops).features[:, : len(self.head.mean)]
        logits: Tensor = self.head(features)
        return logits


def make_trunk_ensemble(config: TrainConfig) -> tuple[TrunkEnsemble, str]:
    """An ensemble with untrained heads, and a sentence on where its backbone's weights come from.

    Parameters
    ----------
    config : TrainConfig
        With a section `trunk`.

    Returns
    -------
    TrunkEnsemble, str

    Raises
    ------
    ConfigError
        The backbone doesn't give its maps, has no such stage or layer, or doesn't fit the size of the crops.
    """
    assert config.trunk is not None
    network, statistics, origin = create_backbone(config.network, config.crop.side_px)
    normalise = Normalise(statistics, config.network.colour)
    try:
        backbone = cut_off(network, config.trunk.stages, config.crop.side_px, "trunk")
        trunk = Trunk(backbone, normalise, config.trunk, config.crop.side_px)
    except ConfigError:
        raise
    except UNBUILDABLE as error:
        raise unfit_error(config.network, config.crop.side_px, error) from error
    return TrunkEnsemble(trunk, config.trunk), origin
