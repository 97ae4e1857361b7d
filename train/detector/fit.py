"""Fitting of a detector's head on the pool, resumable after each epoch.

Its losses are focal for the heat, generalised IoU for boxes, and cross entropy for groups.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor
from torch.nn import functional

from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.detector.config import DetectorConfig, Score
from blastscope.train.detector.network import KINDS, DetectorHead, reaches
from blastscope.train.detector.pool import Shard
from blastscope.train.detector.sources import GROUPS
from blastscope.train.fit_checkpoint import read_tensors, write_tensors
from blastscope.train.progress import TrainingProgress

ON = 0.999  # of the heat: here is a cell's middle
SHARPNESS, FADE = 2.0, 4.0  # of the focal loss, as in CornerNet (Law and Deng 2018)
RED_WEIGHT = 0.5  # red cells and platelets, which nobody asks for, count so much of white cells
FINISHED, STATE = "head.safetensors", "state.safetensors"


class TargetBatch(NamedTuple):
    """`Targets` as tensors, of the same shapes.

    Attributes
    ----------
    heat, known, box, weight, group : tensor
        See `Targets`.
    """

    heat: Tensor
    known: Tensor
    box: Tensor
    weight: Tensor
    group: Tensor


class Losses(NamedTuple):
    """Of one batch, each a scalar.

    Attributes
    ----------
    heat, box, group : () tensor
        Of where cells are, of how far their boxes reach, and of their groups.
    """

    heat: Tensor
    box: Tensor
    group: Tensor


def losses_of(raw: Tensor, targets: TargetBatch, score: Score = "middle") -> Losses:
    """The losses of raw maps (N, 10, M, M)."""
    heat, reach, group = torch.split(raw, [KINDS, 4, len(GROUPS)], dim=1)
    shared, both, around = _areas(reaches(reach), targets.box)
    overlap = shared / both.clamp(min=1)
    wanted = torch.where(targets.weight > 0, overlap.detach(), 1.0)[:, None] if score == "overlap" else torch.ones(())
    box = 1 - overlap + (around - both) / around.clamp(min=1)
    box = (box * targets.weight).sum() / targets.weight.sum().clamp(min=1)
    return Losses(_focal(heat, targets, wanted), box, _group(group, targets))


def _focal(logits: Tensor, targets: TargetBatch, wanted: Tensor) -> Tensor:
    """Penalty-reduced focal loss, a cell's middle counting one; `wanted` (N, 1, M, M) or () is what its score should be."""
    on = targets.heat >= ON
    probability = logits.sigmoid()
    right = wanted * functional.logsigmoid(logits) + (1 - wanted) * functional.logsigmoid(-logits)
    right = on * (wanted - probability).abs().pow(SHARPNESS) * right
    off = ~on & targets.known
    wrong = off * (1 - targets.heat).pow(FADE) * probability.pow(SHARPNESS) * functional.logsigmoid(-logits)
    by_kind = -(right + wrong).sum(dim=(0, 2, 3)) / on.sum(dim=(0, 2, 3)).clamp(min=1)
    weights = torch.tensor([1.0] + [RED_WEIGHT] * (KINDS - 1))
    return (by_kind * weights).sum()


def _areas(reach: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of boxes around one point, given by their reach to each side: what two share, their union, and the box around both."""
    left, top, right, bottom = reach.unbind(dim=1)
    own_left, own_top, own_right, own_bottom = wanted.unbind(dim=1)
    shared = (torch.minimum(left, own_left) + torch.minimum(right, own_right)).clamp(min=0) * (
        torch.minimum(top, own_top) + torch.minimum(bottom, own_bottom)
    ).clamp(min=0)
    both = (left + right) * (top + bottom) + (own_left + own_right) * (own_top + own_bottom) - shared
    around = (torch.maximum(left, own_left) + torch.maximum(right, own_right)) * (
        torch.maximum(top, own_top) + torch.maximum(bottom, own_bottom)
    )
    return shared, both, around


def _group(logits: Tensor, targets: TargetBatch) -> Tensor:
    known = targets.group >= 0
    if not known.any():
        return logits.sum() * 0
    return functional.cross_entropy(logits.permute(0, 2, 3, 1)[known], targets.group[known].long())


class DetectorEpoch(StrictModel):
    """What one epoch showed.

    Attributes
    ----------
    epoch : int
        Its number.
    heat, box, group : float
        Means of `Losses` over its batches.
    seconds : float
        How long it took.
    """

    model_config = ConfigDict(frozen=True)

    epoch: int
    heat: float
    box: float
    group: float
    seconds: float


class FitHistory(StrictModel):
    """All epochs.

    Attributes
    ----------
    epochs : tuple of DetectorEpoch
        In order.
    """

    epochs: tuple[DetectorEpoch, ...] = ()


def mean_history(histories: Sequence[FitHistory]) -> FitHistory:
    """The means of the losses of heads that were fitted alike, and how long all of them took."""
    rows = []
    for epochs in zip(*(history.epochs for history in histories), strict=True):
        heat, box, group = (sum(getattr(row, name) for row in epochs) / len(epochs) for name in ("heat", "box", "group"))
        seconds = sum(row.seconds for row in epochs)
        rows.append(DetectorEpoch(epoch=epochs[0].epoch, heat=heat, box=box, group=group, seconds=seconds))
    return FitHistory(epochs=tuple(rows))


def fit(
    head: DetectorHead, shards: Sequence[Shard], config: DetectorConfig, folder: Path, progress: TrainingProgress, *, name: str
) -> FitHistory:
    """Fits a head, and leaves the averaged weights in it.

    The same seed, pool and number of threads give the same weights, interrupted or not.

    Parameters
    ----------
    head : DetectorHead
        The head.
    shards : sequence of Shard
        The training pictures' maps.
    config : DetectorConfig
        The recipe.
    folder : Path
        Keeps the state; it goes on where the folder shows that it was left.
    progress : TrainingProgress
        Is told of each epoch.
    name : str
        What the progress calls it.

    Returns
    -------
    FitHistory
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished, state = folder / FINISHED, folder / STATE
    if finished.is_file():
        tensors, header = read_tensors(finished)
        head.load_state_dict(tensors)
        return FitHistory.model_validate_json(header["history"])
    settings = config.fit
    sizes = [len(shard.fine) for shard in shards]
    steps = sum(sizes) // settings.batch_size
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=max(steps * settings.epochs, 2))
    average, history = copy.deepcopy(head), FitHistory()
    if state.is_file():
        saved = torch_state(state)
        head.load_state_dict(saved["head"])
        average.load_state_dict(saved["average"])
        history = FitHistory.model_validate_json(read_tensors(state)[1]["history"])
        moments = {int(key.split(".")[0]) for key in saved["optimiser"]}
        entries = {
            at: {k.split(".", 1)[1]: v for k, v in saved["optimiser"].items() if k.startswith(f"{at}.")} for at in moments
        }
        optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
        with warnings.catch_warnings():  # that the optimiser has made no step yet: it made them before
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(steps * len(history.epochs)):
                schedule.step()
    for epoch in range(len(history.epochs), settings.epochs):
        began = time.monotonic()
        head.train()
        torch.manual_seed(config.seed * 1000 + epoch)
        totals = np.zeros(3)
        for maps, targets in _batches(shards, settings.batch_size, np.random.default_rng([config.seed, 77, epoch])):
            losses = losses_of(head(*maps), targets, settings.score)
            loss = losses.heat + settings.box_weight * losses.box + settings.group_weight * losses.group
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(head.parameters(), settings.clip_norm)
            optimiser.step()
            schedule.step()
            _follow(average, head, settings.ema_decay)
            totals += _floats(losses)
        heat, box, group = (float(value) for value in totals / max(steps, 1))
        row = DetectorEpoch(epoch=epoch + 1, heat=heat, box=box, group=group, seconds=time.monotonic() - began)
        history = FitHistory(epochs=(*history.epochs, row))
        progress.say(
            f"{name} {epoch + 1}/{settings.epochs}: heat {heat:.3f}, box {box:.3f}, group {group:.3f}, {row.seconds:.0f} s"
        )
        _save(state, head, average, optimiser, history)
    head.load_state_dict(average.state_dict())
    write_tensors(finished, head.state_dict(), {"history": history.model_dump_json()})
    state.unlink(missing_ok=True)
    return history


def _batches(
    shards: Sequence[Shard], size: int, rng: np.random.Generator
) -> Iterator[tuple[tuple[Tensor, Tensor], TargetBatch]]:
    """All pictures once, in random order."""
    places = np.asarray([(at, row) for at, shard in enumerate(shards) for row in range(len(shard.fine))])
    order = rng.permutation(len(places))
    for start in range(0, len(order) - size + 1, size):
        chosen = places[np.sort(order[start : start + size])]
        parts = [(shards[at], chosen[chosen[:, 0] == at, 1]) for at in np.unique(chosen[:, 0])]
        fine = torch.from_numpy(np.concatenate([shard.fine[rows] for shard, rows in parts])).float()
        coarse = torch.from_numpy(np.concatenate([shard.coarse[rows] for shard, rows in parts])).float()
        tensors = []
        for field in range(5):
            array = np.concatenate([shard.targets[field][rows] for shard, rows in parts])
            tensors.append(torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array))
        yield (fine, coarse), TargetBatch(*tensors)


def _floats(losses: Losses) -> list[float]:
    return [float(loss.detach()) for loss in losses]


def _follow(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Moves the averaged weights a little towards the network's; its counts are taken as they are."""
    with torch.no_grad():
        for mean, own in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(own, 1 - decay)
            else:
                mean.copy_(own)


def _save(
    path: Path, head: torch.nn.Module, average: torch.nn.Module, optimiser: torch.optim.Optimizer, history: FitHistory
) -> None:
    moments = optimiser.state_dict()["state"]
    tensors = {f"head/{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    tensors |= {
        f"optimiser/{at}.{key}": torch.as_tensor(value) for at, entry in moments.items() for key, value in entry.items()
    }
    write_tensors(path, tensors, {"history": history.model_dump_json()})


def torch_state(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a state, by part."""
    parts: dict[str, dict[str, Tensor]] = {"head": {}, "average": {}, "optimiser": {}}
    for name, tensor in read_tensors(path)[0].items():
        part, _, key = name.partition("/")
        parts[part][key] = tensor
    return parts
