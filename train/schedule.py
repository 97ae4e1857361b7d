"""Learning-rate schedules and early stopping, as pure functions of the history."""

from __future__ import annotations

import math

from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.config import ScheduleConfig

FIRST, LAST = 0.1, 0.001  # of one-cycle: the rate at the start and at the end, as parts of the highest


class EpochRow(StrictModel):
    """One epoch in RUN/history.json. The validation fields are None where there is no validation part."""

    epoch: int  # from 1
    lr: float  # at the epoch's last step
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


class FitState(StrictModel):
    """Where the fitting of one network stands after its last whole epoch."""

    history: tuple[EpochRow, ...] = ()
    best_epoch: int = 0  # 0: none yet
    best_value: float | None = None  # of what the schedule watches
    lr_factor: float = 1.0
    waited: int = 0  # epochs without a better value since the last better one or the last reduction
    scaler: dict[str, float] = {}  # fp16 only: the loss scale

    @property
    def epoch(self) -> int:
        """Whole epochs behind us."""
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
