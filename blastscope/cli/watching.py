"""The progress of engine builds on stderr: a bar on a terminal, a line an engine elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from blastscope.export.engines import Planned
    from blastscope.runtime.engines.build import BuildStep


class Watcher:
    """A `Spectator` of `count` builds."""

    def __init__(self, count: int) -> None:
        self._count, self._begun = count, 0
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn())
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,  # results go to stdout by themselves: rich would lead them to stderr
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=1, phase="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        if kind is KeyboardInterrupt:
            self.say("cancelled: nothing half-built is left behind")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, planned: Planned) -> None:
        """The next engine."""
        self._begun += 1
        name = f"{planned.key.models} {planned.key.precision} for {planned.key.place}"
        self._progress.reset(self._task, description=f"{self._begun} of {self._count}: {name}", phase="", total=1)
        if not self._progress.console.is_terminal:
            self.say(f"{self._begun} of {self._count}: {name}, {planned.key.library} {planned.key.version}")

    def step(self, step: BuildStep) -> None:
        """Called from the build's thread, which rich allows."""
        if step.steps > 1:  # a phase of one step says nothing by its bar
            self._progress.update(self._task, completed=step.done, total=step.steps, phase=step.phase)
