"""`fit` trains one network: epochs, schedule, checkpoints, early stop. It knows nothing of the other networks."""

from __future__ import annotations

import copy
import ctypes
import math
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blastscope.runtime.errors import ConfigError, DeviceError, MissingLibrary, UsageError
from blastscope.train.config import ComputeConfig, ScheduleConfig
from blastscope.train.data_loader import Batch, TrainingBatches, ValidationBatches, seed_of
from blastscope.train.fit_checkpoint import EpochRow, FitCheckpoint, FitState, TrainingState, learning_rate
from blastscope.train.progress import TrainingProgress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FABRIC_NAMES: dict[str, Literal["bf16-mixed", "16-mixed", "32-true"]] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp32": "32-true",
}


# mallopt's numbers (malloc.h), with what glibc is told: give nothing back, take fresh pages rarely and for huge blocks alone
MALLOC_OPTIONS = {-1: 2**31 - 1, -2: 1 << 26, -3: 1 << 30}


def keep_freed_memory() -> None:
    """Lets glibc keep what PyTorch frees.

    A network asks for the same hundreds of MB at every batch, and zeroing fresh pages for them costs as much time as its
    arithmetic: 98 ms an image without this and 44 ms with it, for four views of 144 x 144.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for option, value in MALLOC_OPTIONS.items():
        if mallopt is not None:
            mallopt(option, value)


def make_fabric(config: ComputeConfig) -> Fabric:
    """A launched Fabric on the device that `config` asks for.

    Raises `DeviceError` where there is no such device, `MissingLibrary` without lightning-fabric.
    """
    try:
        from lightning_fabric import Fabric
    except ModuleNotFoundError as error:
        raise MissingLibrary("lightning-fabric", "train") from error
    keep_freed_memory()
    gpu = torch.cuda.is_available() if config.device == "auto" else config.device == "cuda"
    if gpu and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is here: set [compute] device to 'auto' or 'cpu'")
    devices = config.devices or (torch.cuda.device_count() if gpu else 1)
    machine = Fabric(
        accelerator="cuda" if gpu else "cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=FABRIC_NAMES[resolve_precision(config, gpu=gpu)],
    )
    machine.launch()
    return machine


def resolve_precision(config: ComputeConfig, *, gpu: bool) -> str:
    """bf16, fp16 or fp32: what "auto" means on this machine."""
    if config.precision != "auto":
        return config.precision
    if gpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_has_bf16() else "fp32"  # emulated bf16 is slower than fp32


def _cpu_has_bf16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def describe_device(machine: Fabric) -> str:
    """The device in words, for the run's record."""
    if machine.device.type == "cuda":
        return f"{machine.world_size} x {torch.cuda.get_device_name(machine.device)}"
    return f"CPU {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


@dataclass(frozen=True, slots=True)
class Task:
    """One network's name, how and on what it is trained, and the place of its files.

    Attributes
    ----------
    name : str
        The network's.
    config : ScheduleConfig
        How it is trained.
    training : TrainingBatches
        On what.
    validation : ValidationBatches
        On what it is judged after each epoch.
    files : FitCheckpoint
        Where its files lie.
    nuisance_penalty : float
        Weight of `nuisance_covariance` in the loss, where the batches have a nuisance.
    """

    name: str
    config: ScheduleConfig
    training: TrainingBatches
    validation: ValidationBatches
    files: FitCheckpoint
    nuisance_penalty: float = 0.0


class Score(NamedTuple):
    """Loss and accuracy, as means over cells.

    Attributes
    ----------
    loss, accuracy : float
        Of the training's loss, and of calls that are right.
    """

    loss: float
    accuracy: float


def fit(network: nn.Module, task: Task, machine: Fabric, progress: TrainingProgress) -> FitState:
    """Trains one network, which ends with the kept weights, in eval mode.

    Parameters
    ----------
    network : nn.Module
        The network.
    task : Task
        How and on what. Goes on from its files where there are any; a finished network is only read.
    machine : Fabric
        Devices and processes.
    progress : TrainingProgress
        Is told of each epoch.

    Returns
    -------
    FitState
        The history.
    """
    network.to(machine.device)
    if not task.files.finished:
        _fit(network, task, machine, progress)
    state = task.files.read(network)
    network.requires_grad_(True).eval()
    return state


def _fit(network: nn.Module, task: Task, machine: Fabric, progress: TrainingProgress) -> None:
    config, keep_best = task.config, task.config.keep == "best"
    freeze_layers(network, config)
    average = copy.deepcopy(network) if config.ema_decay else None
    kept = average or network
    wrapped, optimiser = machine.setup(network, make_optimiser(network, config))
    current = TrainingState(wrapped, optimiser, average)
    state = task.files.load(current)
    load_scaler_state(machine, state)
    progress.begin(task.name, state.epoch, config.epochs, task.training.steps)
    while not state.finished(config):
        started = time.monotonic()
        batches = progress.track(task.name, task.training.epoch(state.epoch, machine.device))
        trained = train_epoch(batches, current, task, state, machine)
        validated = machine.broadcast(validation_scores(kept, task.validation, machine))  # all processes decide alike
        if not math.isfinite(trained.loss + (validated.loss if validated else 0)):
            raise UsageError(
                f"'{task.name}': the loss of epoch {state.epoch + 1} is not a number: the training diverged, "
                "take a smaller lr or set clip_norm"
            )
        row = EpochRow(
            epoch=state.epoch + 1,
            lr=last_learning_rate(task, state),
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            validation_loss=validated and validated.loss,
            validation_accuracy=validated and validated.accuracy,
            seconds=time.monotonic() - started,
        )
        state = state.update(row, config).model_copy(update={"scaler": scaler_state(machine)})
        progress.epoch(task.name, row)
        if machine.is_global_zero:
            task.files.save(state, current, kept, keep_best=keep_best)
    if machine.is_global_zero:
        task.files.finish(state, kept, keep_best=keep_best)
    machine.barrier()


def train_epoch(batches: Iterable[Batch], current: TrainingState, task: Task, state: FitState, machine: Fabric) -> Score:
    """One pass over the bag; the loss and the accuracy on the way, over all processes."""
    config, steps = task.config, task.training.steps
    torch.manual_seed(seed_of(*task.training.seed, state.epoch))  # dropout: of the epoch, not of what ran before
    current.network.train()
    freeze_batch_norm(current.network, config)
    weights = torch.tensor(config.class_weights, device=machine.device)
    totals = torch.zeros(3, device=machine.device)  # loss, right calls, images
    for step, (inputs, labels, nuisance) in enumerate(batches, start=state.epoch * steps):
        set_learning_rate(current.optimiser, learning_rate(config, step, steps, state.lr_factor))
        logits = current.network(inputs)
        loss = weighted_loss(logits, labels, weights, config.label_smoothing)
        if nuisance is not None:
            loss = loss + task.nuisance_penalty * nuisance_covariance(logits, labels, nuisance)
        current.optimiser.zero_grad()
        machine.backward(loss)
        if config.clip_norm:
            machine.clip_gradients(current.network, current.optimiser, max_norm=config.clip_norm)
        current.optimiser.step()
        if current.average is not None:
            update_ema(current.average, current.network, config.ema_decay, step)
        right = (_mean_of_members(logits.detach()).argmax(dim=1) == labels).sum()
        totals += torch.stack([loss.detach() * len(labels), right, torch.ones_like(right) * len(labels)])
    summed = machine.all_reduce(totals, reduce_op="sum")
    assert isinstance(summed, Tensor)
    loss_sum, right_sum, images = summed.tolist()
    return Score(loss_sum / images, right_sum / images)


def last_learning_rate(task: Task, state: FitState) -> float:
    """The learning rate of the last step of the epoch that `state` stands before."""
    last = (state.epoch + 1) * task.training.steps - 1
    return learning_rate(task.config, last, task.training.steps, state.lr_factor)


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Cross entropy (Eq. 1) with each cell's loss times its class's weight, averaged over cells as Keras does.

    Parameters
    ----------
    logits : (n, 2) or (n, members, 2) tensor
        The latter of networks that learn side by side: their losses are averaged.
    labels : (n,) int64 tensor
        Class indices.
    weights : (2,) tensor
        Of the classes.
    smoothing : float
        Label smoothing, 0 to 1.

    Returns
    -------
    () tensor
    """
    if logits.ndim == 3:
        labels = labels.repeat_interleave(logits.shape[1])
        logits = logits.flatten(0, 1)
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return (losses * weights[labels]).mean()


def nuisance_covariance(logits: Tensor, labels: Tensor, nuisance: Tensor) -> Tensor:
    """Squared covariance of the margin and a nuisance, standardised within each class, summed over classes.

    What varies with the stain alone can't lower the loss then: within a class a stain says nothing of the label.

    Parameters
    ----------
    logits : (n, 2) or (n, members, 2) tensor
        The margin is their difference.
    labels : (n,) int64 tensor
        Class indices.
    nuisance : (n,) float32 tensor
        What the margin is not to follow.

    Returns
    -------
    () tensor
    """
    margins = (logits[..., 1] - logits[..., 0]).reshape(len(labels), -1)  # (n, members)
    total = margins.new_zeros(())
    for label in range(logits.shape[-1]):
        mine = labels == label
        if mine.sum() < 3:
            continue
        values = nuisance[mine]
        values = (values - values.mean()) / values.std().clamp(min=1e-6)
        centred = margins[mine] - margins[mine].mean(dim=0)
        total = total + (centred * values[:, None]).mean(dim=0).pow(2).mean()
    return total


def _mean_of_members(logits: Tensor) -> Tensor:
    return logits if logits.ndim == 2 else logits.mean(dim=1)


@torch.inference_mode()
def validation_scores(network: nn.Module, batches: ValidationBatches, machine: Fabric) -> Score | None:
    """Unweighted loss and accuracy; None without validation cells. Every process validates all: the rows are few."""
    if not len(batches):
        return None
    network.eval()
    loss, right = 0.0, 0
    for inputs, labels in batches.all(machine.device):
        with machine.autocast():
            logits = network(inputs).float()
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(dim=1) == labels).sum())
    return Score(loss / len(batches), right / len(batches))


def make_optimiser(network: nn.Module, config: ScheduleConfig) -> torch.optim.Optimizer:
    """The optimiser over every parameter that moves, in groups by rate and decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = config.backbone_lr_factor if "backbone." in name else 1.0
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    options = [{"params": group, "weight_decay": decay, "factor": factor} for (factor, decay), group in groups.items()]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(options, lr=config.lr, betas=config.betas, eps=config.epsilon)
    return torch.optim.RMSprop(options, lr=config.lr, alpha=config.rho, eps=config.epsilon)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Every group's learning rate from the schedule's."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]


def freeze_layers(network: nn.Module, config: ScheduleConfig) -> None:
    """Takes the gradients from the backbone's layers that `config.frozen` names."""
    for name, parameter in network.named_parameters():
        if is_frozen(name, config):
            parameter.requires_grad_(False)


def is_frozen(name: str, config: ScheduleConfig) -> bool:
    """The parameter or module `name` belongs to one of the frozen layers."""
    layer = _backbone_layer(name)
    return any(layer.startswith(f"{prefix}.") for prefix in config.frozen)


def check_frozen(network: nn.Module, config: ScheduleConfig, section: str) -> None:
    """Raises `ConfigError` where one of the names in `config.frozen` is the beginning of no layer in the network's backbone."""
    layers = [layer for name, _ in network.named_parameters() if (layer := _backbone_layer(name))]
    strange = [prefix for prefix in config.frozen if not any(layer.startswith(f"{prefix}.") for layer in layers)]
    if strange:
        known = ", ".join(dict.fromkeys(layer.split(".")[0] for layer in layers))
        problem = f"frozen: the backbone has no layer {', '.join(map(repr, strange))}; its layers begin with {known}"
        raise ConfigError(section, [problem])


def _backbone_layer(name: str) -> str:
    """The name of a parameter or module within its backbone, with a dot behind it; nothing outside of a backbone."""
    return f".{name}.".rpartition(".backbone.")[2] if ".backbone." in f".{name}." else ""


def freeze_batch_norm(network: nn.Module, config: ScheduleConfig) -> None:
    """Puts every batch-norm with frozen statistics into eval mode. Call after `train()`."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            (config.frozen_batch_norm and "backbone." in name) or is_frozen(name, config)
        ):
            module.eval()


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves the averaged weights and statistics towards the network's; faster at first, when the average knows little."""
    decay = min(decay, (1 + step) / (10 + step))
    for own, other in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(other, 1 - decay)
        else:
            own.copy_(other)


def scaler_state(machine: Fabric) -> dict[str, float]:
    """The loss scale of fp16; nothing in other precisions."""
    return dict(machine.strategy.precision.state_dict())


def load_scaler_state(machine: Fabric, state: FitState) -> None:
    """Puts the loss scale back where it was."""
    if state.scaler:
        machine.strategy.precision.load_state_dict(state.scaler)
