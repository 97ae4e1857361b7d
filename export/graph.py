"""The networks as the graphs that leave this project: raw crops in, probabilities and the vote out.

Softmax and vote are computed in fp32 whatever the networks compute in. The vote compares logit margins, as runtime/vote.py
compares ratios of probabilities: both have one order, and neither saturates where a probability is already 1.0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blastscope.runtime.bundle.manifest import GraphModels
from blastscope.runtime.classes import VOTERS
from blastscope.runtime.vote import TINY
from blastscope.train.network import Ensemble

INPUT = "crops"
FUSED_OUTPUTS = ("probabilities", "label", "probability", "voter")
SINGLE_OUTPUTS = ("probabilities",)

# from here on the smaller probability is no normal fp32 number, and runtime/vote.py holds margins for equal
LARGEST_MARGIN = -math.log(float(TINY))


class Decision(NamedTuple):
    """What the fused graph says of each cell."""

    probabilities: Tensor  # (N, 3, 2) float32, voters a, b, combined, classes hem, all
    label: Tensor  # (N,) int32 index into CLASSES
    probability: Tensor  # (N,) float32, the deciding voter's, of the label
    voter: Tensor  # (N,) int32 index into VOTERS


class FusedGraph(nn.Module):
    """An `Ensemble` with softmax and vote: crops (N, S, S, 3) uint8 to a `Decision`."""

    def __init__(self, ensemble: nn.Module) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, crops: Tensor) -> Decision:
        """The decision on each crop."""
        return decide(self.ensemble(crops))


class SingleGraph(nn.Module):
    """One voter with softmax: crops (N, S, S, 3) uint8 to probabilities (N, 2) float32."""

    def __init__(self, voter: nn.Module) -> None:
        super().__init__()
        self.voter = voter

    def forward(self, crops: Tensor) -> Tensor:
        """The voter's probabilities of each crop."""
        return torch.softmax(self.voter(crops).float(), dim=1)


def decide(logits: Tensor) -> Decision:
    """Softmax and vote of `logits` (N, 3, 2). Equal margins: ALL before HEM, then a, b, combined.

    Written with operators that every engine has: no gather by a computed index, no sort.
    """
    logits = logits.float()
    probabilities = torch.softmax(logits, dim=2)
    margin = (logits[:, :, 1] - logits[:, :, 0]).clamp(-LARGEST_MARGIN, LARGEST_MARGIN)  # (N, 3), positive: ALL
    size = margin.abs()
    strongest = (size == size.amax(dim=1, keepdim=True)).float()
    malignant = (margin >= 0).float()
    # 2 for the strongest that say ALL, 1 for the strongest that say HEM, 0 for the rest; less a little for each place, so that
    # no two are equal and the largest is the first of equals, whatever an engine's argmax does with ties
    rank = strongest * (1 + malignant) - 0.125 * torch.arange(len(VOTERS), device=margin.device, dtype=torch.float32)
    chosen = (rank == rank.amax(dim=1, keepdim=True)).float()  # (N, 3), a single 1
    label = (chosen * malignant).sum(dim=1)
    pair = (chosen.unsqueeze(2) * probabilities).sum(dim=1)  # (N, 2), the deciding voter's
    probability = torch.where(label > 0.5, pair[:, 1], pair[:, 0])
    return Decision(probabilities, label.to(torch.int32), probability, rank.argmax(dim=1).to(torch.int32))


def graph_of(ensemble: Ensemble, models: GraphModels) -> nn.Module:
    """The graph of all three voters (`fused`) or of one, in eval mode. It shares its weights with `ensemble`."""
    graph = FusedGraph(ensemble) if models == "fused" else SingleGraph(ensemble.voter(models))
    return graph.eval()


def outputs_of(models: GraphModels) -> tuple[str, ...]:
    """Names of the outputs, in order."""
    return FUSED_OUTPUTS if models == "fused" else SINGLE_OUTPUTS
