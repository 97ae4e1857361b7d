"""The state of one network's fit: its schedule and epochs, and the checkpoint from which it is resumed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.config import ScheduleConfig

FIRST, LAST = 0.1, 0.001  # of one-cycle: the rate at the start and at the end, as parts of the highest
Tensors = dict[str, Tensor]
_DIGEST, _BLANK = "sha256", "0" * 64  # the digest is that of the file with blanks in its place
_PREFIX = 8  # bytes that tell the header's size; it is padded to their multiple


class EpochRow(StrictModel):
    """One epoch in RUN/history.json. The validation fields are None where there is no validation part.

    Attributes
    ----------
    epoch : int
        Number, from 1.
    lr : float
        Learning rate at the epoch's last step.
    train_loss : float
        Mean over the epoch.
    train_accuracy : float
        Share of training images called right, 0 to 1.
    validation_loss : float or None
        Loss on the validation part; None without one.
    validation_accuracy : float or None
        Share of validation cells called right, 0 to 1.
    seconds : float
        How long the epoch took.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


class FitState(StrictModel):
    """Where the fitting of one network stands after its last whole epoch.

    Attributes
    ----------
    history : tuple of EpochRow
        One row per epoch.
    best_epoch : int
        0: none yet.
    best_value : float or None
        Best value of what the schedule watches.
    lr_factor : float
        What the schedule has made of the learning rate, as a factor.
    waited : int
        Epochs without a better value since the last better one or the last reduction.
    scaler : mapping of str to float
        Fp16 only: the loss scale.
    """

    history: tuple[EpochRow, ...] = ()
    best_epoch: int = 0
    best_value: float | None = None
    lr_factor: float = 1.0
    waited: int = 0
    scaler: dict[str, float] = {}

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.history)

    @property
    def improved(self) -> bool:
        """The last epoch is the best so far."""
        return self.best_epoch == self.epoch > 0

    def update(self, row: EpochRow, config: ScheduleConfig) -> FitState:
        """The state once `row` is known: at the 6th epoch without a better value, as Keras counts, the rate is reduced."""
        value = monitored_value(row, config)
        change: dict[str, float | int]
        if self.best_value is None or value < self.best_value:
            change = {"best_epoch": row.epoch, "best_value": value, "waited": 0}
        elif self.waited + 1 >= config.reduce_after:
            change = {"lr_factor": self.lr_factor * config.reduce_factor, "waited": 0}
        else:
            change = {"waited": self.waited + 1}
        return self.model_copy(update={"history": (*self.history, row), **change})

    def finished(self, config: ScheduleConfig) -> bool:
        """All epochs are done, or none of the last `stop_after` brought a better value."""
        stale = self.epoch - self.best_epoch
        return self.epoch >= config.epochs or (config.schedule == "plateau" and stale >= config.stop_after and self.epoch > 0)


def monitored_value(row: EpochRow, config: ScheduleConfig) -> float:
    """What a better epoch has less of. Without a validation part the training's own value is watched."""
    validated = row.validation_loss is not None and row.validation_accuracy is not None
    if config.watch == "loss":
        return float(row.validation_loss if validated else row.train_loss)  # type: ignore[arg-type]
    return 1 - float(row.validation_accuracy if validated else row.train_accuracy)  # type: ignore[arg-type]


def learning_rate(config: ScheduleConfig, step: int, steps_per_epoch: int, lr_factor: float) -> float:
    """The rate at `step`, counted over all epochs from 0."""
    warm, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    rising = min(1.0, (step + 1) / warm) if warm else 1.0
    falling = min(1.0, max(0.0, (step - warm) / max(1.0, total - warm)))
    if config.schedule == "plateau":
        return config.lr * rising * lr_factor
    if config.schedule == "constant":
        return config.lr * rising
    if config.schedule == "cosine":
        return config.lr * rising * _half_wave(1.0, 0.0, falling)
    return config.lr * (_half_wave(FIRST, 1.0, rising) if step < warm else _half_wave(1.0, LAST, falling))


def _half_wave(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The parts that change from step to step.

    Attributes
    ----------
    network : nn.Module
        What is trained.
    optimiser : torch.optim.Optimizer
        With its moments.
    average : nn.Module or None
        Moving average of the network's weights, where one is kept.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: nn.Module | None


@dataclass(frozen=True, slots=True)
class FitCheckpoint:
    """The files of one network's fitting.

    Attributes
    ----------
    folder : Path
        Where they lie.
    """

    folder: Path

    @property
    def finished(self) -> bool:
        """The network is trained."""
        return self._network.is_file()

    def save(self, state: FitState, current: TrainingState, kept: nn.Module, *, keep_best: bool) -> None:
        """Keeps the epoch: after this returns, a kill costs at most the next epoch."""
        if keep_best and state.improved:
            write_tensors(self._best(state), kept.state_dict())
        parts = {"network": current.network.state_dict(), "optimiser": _optimiser_tensors(current.optimiser)}
        if current.average is not None:
            parts["average"] = current.average.state_dict()
        tensors = {f"{part}.{name}": tensor for part, content in parts.items() for name, tensor in content.items()}
        write_tensors(self._state, tensors, {"state": state.model_dump_json()})
        for path in self.folder.glob("best-*.safetensors"):
            if path != self._best(state):
                path.unlink()

    def load(self, current: TrainingState) -> FitState:
        """Fills `current` with the state of the last whole epoch, if there is one, and returns where the fitting stands."""
        delete_unfinished_files(self.folder)
        if not self._state.is_file():
            return FitState()
        tensors, header = read_tensors(self._state)
        current.network.load_state_dict(_part(tensors, "network"))
        if current.average is not None:
            current.average.load_state_dict(_part(tensors, "average"))
        _load_optimiser(current.optimiser, _part(tensors, "optimiser"))
        return FitState.model_validate_json(header["state"])

    def finish(self, state: FitState, kept: nn.Module, *, keep_best: bool) -> None:
        """Writes the finished network: the best epoch's weights, or the last ones in `kept`."""
        tensors = read_tensors(self._best(state))[0] if keep_best and state.best_epoch else kept.state_dict()
        write_tensors(self._network, tensors, {"state": state.model_dump_json()})
        for path in (self._state, *self.folder.glob("best-*.safetensors")):
            path.unlink(missing_ok=True)

    def read(self, network: nn.Module) -> FitState:
        """Fills `network` with the finished weights and returns how they came about."""
        tensors, header = read_tensors(self._network)
        network.load_state_dict(tensors)
        return FitState.model_validate_json(header["state"])

    def history(self) -> tuple[EpochRow, ...]:
        """The epochs of the finished network."""
        return FitState.model_validate_json(read_tensors(self._network)[1]["state"]).history

    @property
    def _state(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def _network(self) -> Path:
        return self.folder / "network.safetensors"

    def _best(self, state: FitState) -> Path:
        return self.folder / f"best-{state.best_epoch:04d}.safetensors"


def write_tensors(path: Path, tensors: Tensors, header: dict[str, str] | None = None, *, private: bool = False) -> None:
    """Writes tensors into a safetensors file, at once or not at all, with a digest of the bytes in its header.

    Parameters
    ----------
    path : Path
        The file; one that stands there is replaced.
    tensors : mapping of str to tensor
        By name.
    header : dict of str to str, optional
        What else the header says.
    private : bool
        True: nobody else may read it.

    Raises
    ------
    WriteError
        The file can't be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors' own writer makes a temporary file that a kill would leave behind
    content = save(plain)
    size = int.from_bytes(content[:_PREFIX], "little")
    table = {"__metadata__": {**(header or {}), _DIGEST: _BLANK}, **json.loads(content[_PREFIX : _PREFIX + size])}
    # written here: safetensors puts what stands in the header into another order each time
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PREFIX)
    whole = b"".join([len(text).to_bytes(_PREFIX, "little"), text, memoryview(content)[_PREFIX + size :]])
    place = whole.index(f'"{_DIGEST}":"{_BLANK}"'.encode()) + len(_DIGEST) + 4
    sealed = b"".join([whole[:place], bytes_sha256(whole).encode(), memoryview(whole)[place + len(_BLANK) :]])
    write_content(path, sealed, private=private)


def delete_unfinished_files(folder: Path) -> None:
    """Deletes what a write that was cut off has left in `folder`."""
    for leftover in folder.glob(".*.new"):
        leftover.unlink()


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of `path` and its header. Raises `DataError`, also where the bytes are not those that were written."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check_digest(path, header.pop(_DIGEST, None))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"can't be read as safetensors: {error}") from error


def _check_digest(path: Path, expected: str | None) -> None:
    if expected is None:
        return  # of an earlier version, which wrote none
    with path.open("rb") as stream:
        size = stream.read(_PREFIX)
        head = stream.read(int.from_bytes(size, "little"))  # safetensors has read it before, and bounds it
        digest = hashlib.sha256(size + head.replace(f'"{_DIGEST}":"{expected}"'.encode(), f'"{_DIGEST}":"{_BLANK}"'.encode()))
        while piece := stream.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != expected:
        raise DataError(path, "is damaged: its bytes are not those that were written; train anew, or take a copy of the run")


def _part(tensors: Tensors, part: str) -> Tensors:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """`3.square_avg` and so on: the state of parameter 3. Rates and the like come from the configuration."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()}


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
