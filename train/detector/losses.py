"""Losses of a detector's maps: focal for the heat, generalised IoU for boxes, cross entropy for groups."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from blastscope.train.detector.network import reaches
from blastscope.train.detector.sources import GROUPS
from blastscope.train.detector.targets import KINDS

ON = 0.999  # of the heat: here is a cell's middle
SHARPNESS, FADE = 2.0, 4.0  # of the focal loss, as in CornerNet (Law and Deng 2018)
RED_WEIGHT = 0.5  # red cells and platelets, which nobody asks for, count so much of white cells


class TargetBatch(NamedTuple):
    """As `targets.Targets`, as tensors."""

    heat: Tensor
    known: Tensor
    box: Tensor
    weight: Tensor
    group: Tensor


class Losses(NamedTuple):
    """Of one batch, each a scalar."""

    heat: Tensor
    box: Tensor
    group: Tensor


def losses_of(raw: Tensor, targets: TargetBatch) -> Losses:
    """The losses of raw maps (N, 10, M, M)."""
    heat, reach, group = torch.split(raw, [KINDS, 4, len(GROUPS)], dim=1)
    return Losses(_focal(heat, targets), _giou(reaches(reach), targets.box, targets.weight), _group(group, targets))


def _focal(logits: Tensor, targets: TargetBatch) -> Tensor:
    """Penalty-reduced focal loss, a cell's middle counting one."""
    on = targets.heat >= ON
    probability = logits.sigmoid()
    right = on * (1 - probability).pow(SHARPNESS) * functional.logsigmoid(logits)
    off = ~on & targets.known
    wrong = off * (1 - targets.heat).pow(FADE) * probability.pow(SHARPNESS) * functional.logsigmoid(-logits)
    by_kind = -(right + wrong).sum(dim=(0, 2, 3)) / on.sum(dim=(0, 2, 3)).clamp(min=1)
    weights = torch.tensor([1.0] + [RED_WEIGHT] * (KINDS - 1))
    return (by_kind * weights).sum()


def _giou(reach: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """1 - generalised IoU (Rezatofighi et al. 2019) of boxes around the same point, given by their reach to each side."""
    left, top, right, bottom = reach.unbind(dim=1)
    own_left, own_top, own_right, own_bottom = wanted.unbind(dim=1)
    shared = (torch.minimum(left, own_left) + torch.minimum(right, own_right)).clamp(min=0) * (
        torch.minimum(top, own_top) + torch.minimum(bottom, own_bottom)
    ).clamp(min=0)
    both = (left + right) * (top + bottom) + (own_left + own_right) * (own_top + own_bottom) - shared
    around = (torch.maximum(left, own_left) + torch.maximum(right, own_right)) * (
        torch.maximum(top, own_top) + torch.maximum(bottom, own_bottom)
    )
    score = shared / both.clamp(min=1) - (around - both) / around.clamp(min=1)
    return ((1 - score) * weight).sum() / weight.sum().clamp(min=1)


def _group(logits: Tensor, targets: TargetBatch) -> Tensor:
    known = targets.group >= 0
    if not known.any():
        return logits.sum() * 0
    return functional.cross_entropy(logits.permute(0, 2, 3, 1)[known], targets.group[known].long())
