"""Training progress on stderr: a bar on a terminal, one line per epoch in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from blastscope.runtime.io.printable import for_terminal, format_duration
from blastscope.train.fit_checkpoint import EpochRow

Batch = TypeVar("Batch")


class TrainingProgress:
    """What `fit` and the stages report to. A context manager; quiet unless `console` is given."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.bars = RichProgress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.rows: dict[str, tuple[int, float, int]] = {}  # first epoch, when it began, epochs at most

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(for_terminal(text), highlight=False, markup=False, soft_wrap=True)

    def crops(self, done: int, of: int) -> None:
        """`done` of `of` cells are cropped."""
        self.advance("crops", done, of)

    def advance(self, name: str, done: int, of: int) -> None:
        """`done` of `of` steps of `name` are done."""
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=of, left="")
        self.bars.update(self.tasks[name], completed=done)

    def begin(self, name: str, epoch: int, epochs: int, steps: int) -> None:
        """Network `name` stands before epoch `epoch` (from 0) of at most `epochs`, of `steps` each."""
        self.tasks[name] = self.bars.add_task(name, total=epochs * steps, completed=epoch * steps, left="")
        self.rows[name] = (epoch, time.monotonic(), epochs)
        self.say(f"{name}: " + (f"goes on after epoch {epoch}" if epoch else f"at most {epochs} epochs of {steps} steps"))

    def track(self, name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
        """`batches`, each of them a step of `name`."""
        for batch in batches:
            yield batch
            self.bars.advance(self.tasks[name])

    def epoch(self, name: str, row: EpochRow) -> None:
        """An epoch of `name` is done; says at most how long the rest takes."""
        first, began, epochs = self.rows[name]
        left = (time.monotonic() - began) / (row.epoch - first) * (epochs - row.epoch)
        self.bars.update(self.tasks[name], left=f"at most {format_duration(left)} left")
        validated = ""
        if row.validation_loss is not None and row.validation_accuracy is not None:
            validated = f", validation {row.validation_loss:.4f} / {row.validation_accuracy:.4f}"
        self.say(
            f"{name} {row.epoch:3d}/{epochs}: loss {row.train_loss:.4f} / accuracy {row.train_accuracy:.4f}{validated}, "
            f"lr {row.lr:.1e}, {format_duration(row.seconds)}, at most {format_duration(left)} left"
        )
