"""The networks of Fig. 3: two voters with backbones, and the combined model on the features of both."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from blastscope.runtime.types import CLASSES, VOTERS, Voter
from blastscope.train.backbone import Backbone, BackboneOutput, InputNormalization, forward_features, make_backbone
from blastscope.train.config import NetworkConfig, Stage2Config, TrainConfig

# Where `colour = "standardise"` takes each cell's channels: about what C-NMC's cells have, on a range of 255. Any fixed colour
# would do; this one keeps the picture near what ImageNet's weights know.
CELL_MEAN = (114.0, 79.0, 130.0)
CELL_SPREAD = (40.0, 35.0, 24.0)
LEAST_SPREAD = 4.0  # a flat cell is not blown up to noise


class Normalise(nn.Module):
    """Raw crops (N, S, S, 3) uint8 to a backbone's input (N, 3, S, S) float32. Always computed in fp32."""

    mean: Tensor
    scale: Tensor
    cell_mean: Tensor
    cell_spread: Tensor

    def __init__(self, statistics: InputNormalization, colour: str) -> None:
        super().__init__()
        self.standardise = colour == "standardise"
        # rebuilt from the configuration, so not in the checkpoint
        self.register_buffer("mean", _channels(statistics.mean) * 255, persistent=False)
        self.register_buffer("scale", 1 / (_channels(statistics.std) * 255), persistent=False)
        self.register_buffer("cell_mean", _channels(CELL_MEAN), persistent=False)
        self.register_buffer("cell_spread", _channels(CELL_SPREAD), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """Normalised pixels; with `standardise` each cell's colour is first brought to one mean and spread, black left out."""
        # the cast comes first: TensorRT takes uint8 at a graph's edge only, and refuses to transpose it
        pixels = crops.to(torch.float32).permute(0, 3, 1, 2)
        if self.standardise:
            pixels = self._one_colour(pixels)
        return (pixels - self.mean) * self.scale

    def _one_colour(self, pixels: Tensor) -> Tensor:
        cell = (pixels.amax(dim=1, keepdim=True) > 0).to(torch.float32)  # (N, 1, S, S)
        count = cell.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        mean = pixels.sum(dim=(2, 3), keepdim=True) / count  # black adds nothing
        centred = (pixels - mean) * cell
        spread = ((centred * centred).sum(dim=(2, 3), keepdim=True) / count).sqrt().clamp(min=LEAST_SPREAD)
        return (centred * (self.cell_spread / spread) + self.cell_mean).clamp(0, 255) * cell


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1)


class VoterNetwork(nn.Module):
    """Model A or model B: normalise, backbone, dropout, FC 2. Crops (N, S, S, 3) uint8 to logits (N, 2) float32."""

    def __init__(self, backbone: Backbone, config: NetworkConfig) -> None:
        super().__init__()
        self.views = config.views
        self.normalise = Normalise(backbone.statistics, config.colour)
        self.backbone = backbone.network
        self.stages = backbone.stages
        self.combined_features = backbone.combined_features
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(backbone.features, len(CLASSES))

    def forward(self, crops: Tensor) -> Tensor:
        """In training one view, as augmented; at inference the mean of the logits over the views."""
        pixels = self.normalise(crops)
        if self.training:
            return self.logits(self.backbone(pixels)).float()
        return mean_over(self.views, self.logits(self.backbone(orientations(pixels, self.views)))).float()

    def forward_features(self, pixels: Tensor) -> BackboneOutput:
        """One pass of the backbone over normalised `pixels` (N, 3, S, S)."""
        return forward_features(self.backbone, pixels, self.stages)

    def logits(self, features: Tensor) -> Tensor:
        """(N, features) pooled to (N, 2)."""
        logits: Tensor = self.classify(self.dropout(features))
        return logits


def orientations(pixels: Tensor, views: int) -> Tensor:
    """(N, 3, S, S) to (views N, 3, S, S): as it is, mirrored, and both turned by 180, 90 and 270 degrees."""
    seen = [pixels]
    if views >= 2:
        seen.append(pixels.flip(3))
    if views >= 4:
        seen += [view.flip(2) for view in seen]
    if views == 8:
        seen += [view.transpose(2, 3) for view in seen]
    return torch.cat(seen) if views > 1 else pixels


def mean_over(views: int, logits: Tensor) -> Tensor:
    """(views N, ...) to (N, ...)."""
    if views == 1:
        return logits
    return logits.float().reshape(views, -1, *logits.shape[1:]).mean(dim=0)


class CombinedHead(nn.Module):
    """The combined model on features of A and B, each batch-normalised: FC, FC, FC 2 with ReLU and dropout."""

    def __init__(self, features: int, config: Stage2Config) -> None:
        super().__init__()
        self.features = features
        self.norm_a = nn.BatchNorm1d(features)
        self.norm_b = nn.BatchNorm1d(features)
        self.layers = nn.Sequential(
            nn.Linear(2 * features, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, len(CLASSES)),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, 2 features), A's before B's, to logits (N, 2)."""
        a, b = features[:, : self.features], features[:, self.features :]
        logits: Tensor = self.layers(torch.cat([self.norm_a(a), self.norm_b(b)], dim=1)).float()
        return logits


class CombinedNetwork(nn.Module):
    """The combined model alone, on crops: what stage 2 trains when it fine-tunes the backbones too."""

    def __init__(self, a: VoterNetwork, b: VoterNetwork, head: CombinedHead) -> None:
        super().__init__()
        self.a, self.b, self.head = a, b, head

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (N, S, S, 3) uint8 to logits (N, 2) float32."""
        pixels, views = self.a.normalise(crops), 1 if self.training else self.a.views
        seen = orientations(pixels, views)
        features = [network.forward_features(seen).combined_features for network in (self.a, self.b)]
        return mean_over(views, self.head(torch.cat(features, dim=1)))


class Ensemble(nn.Module):
    """All three voters as one network: crops (N, S, S, 3) uint8 to logits (N, 3, 2) float32, voters a, b, combined.

    Two backbone passes a view; four when stage 2 moved the backbones too, since A and B keep their own (`passes`).
    """

    def __init__(self, a: VoterNetwork, b: VoterNetwork, head: CombinedHead, *, fine_tuned: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.head = a, b, head
        self.tuned_a: VoterNetwork | None = copy.deepcopy(a) if fine_tuned else None
        self.tuned_b: VoterNetwork | None = copy.deepcopy(b) if fine_tuned else None
        self.views = a.views

    @property
    def passes(self) -> int:
        """Backbone passes that one cell costs, over all views."""
        return (2 if self.tuned_a is None else 4) * self.views

    def forward(self, crops: Tensor) -> Tensor:
        """Logits (N, 3, 2). The input is normalised once: A and B have one architecture."""
        seen = orientations(self.a.normalise(crops), self.views)
        a, b = self.a.forward_features(seen), self.b.forward_features(seen)
        features = [a.combined_features, b.combined_features]
        if self.tuned_a is not None and self.tuned_b is not None:
            features = [network.forward_features(seen).combined_features for network in (self.tuned_a, self.tuned_b)]
        logits = [self.a.logits(a.pooled).float(), self.b.logits(b.pooled).float(), self.head(torch.cat(features, dim=1))]
        return mean_over(self.views, torch.stack(logits, dim=1))

    def divide_margins(self, temperature: float) -> None:
        """Divides all logits by `temperature` for good."""
        last = self.head.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            for layer in (self.a.classify, self.b.classify, last):
                layer.weight.div_(temperature)
                layer.bias.div_(temperature)

    def voter(self, name: Voter) -> nn.Module:
        """One voter alone: crops (N, S, S, 3) uint8 to logits (N, 2). It shares its weights with the ensemble."""
        if name == "combined":
            return CombinedNetwork(self.tuned_a or self.a, self.tuned_b or self.b, self.head).train(self.training)
        return {VOTERS[0]: self.a, VOTERS[1]: self.b}[name]


def make_voter(config: TrainConfig) -> tuple[VoterNetwork, str]:
    """A voter with the weights that `config` starts from, and a sentence on where they come from."""
    backbone = make_backbone(config.network, config.crop.side_px, config.stage2.stages)
    return VoterNetwork(backbone, config.network), backbone.weights


def make_ensemble(config: TrainConfig) -> Ensemble:
    """An ensemble of `config`'s shape with random weights: what a checkpoint is loaded into."""
    bare = config.model_copy(update={"network": config.network.model_copy(update={"weights": "none"})})
    (a, _), (b, _) = make_voter(bare), make_voter(bare)
    return Ensemble(a, b, CombinedHead(a.combined_features, config.stage2), fine_tuned=config.stage2.fine_tune)
