"""How far a long examination is, on stderr: a bar with cells found and time left, out of the way of what is printed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from blastscope.cli.terminal import echo

if TYPE_CHECKING:
    from blastscope.runtime.frames.pipeline import TileProgress
    from blastscope.runtime.frames.types import FrameReport

STEPS = 1000  # of the bar, a frame


class ExamineProgress:
    """A bar over frames and the tiles of scans, where stderr is a terminal. With `cells` each cell's JSON as it is found.

    `watch` and `told` are for `Scope.examine_files`: the one takes each part, from many threads, the other passes reports on.
    """

    def __init__(self, frames: int, *, cells: bool = False, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[cells]} cells"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._frames, self._rows, self._lock = frames, cells, threading.Lock()
        self._shares: dict[str, float] = {}  # of each frame at work
        self._done = self._cells = 0
        self._task = self._bar.add_task("examining", total=frames * STEPS, cells=0)

    def watch(self, part: TileProgress) -> None:
        """Takes a part of a frame that is done."""
        with self._lock:
            self._shares[str(part.path)] = part.done / part.total
            self._cells += len(part.cells)
            self._show(f"tile {part.done} of {part.total}" if part.total > 1 else "")
            if self._rows and part.cells:
                self._bar.stop()
                for cell in part.cells:
                    echo(json.dumps({"path": str(part.path), "cell": cell.row()}))
                self._bar.start()

    def told(self, reports: Iterator[FrameReport]) -> Iterator[FrameReport]:
        """The reports themselves. The bar is away while whoever takes them prints."""
        for report in reports:
            with self._lock:
                self._shares.pop(str(report.path), None)
                self._done += 1
                self._show("")
                self._bar.stop()
                yield report
                self._bar.start()

    def _show(self, part: str) -> None:
        completed = STEPS * (self._done + sum(self._shares.values()))
        where = f"frame {min(self._done + 1, self._frames)} of {self._frames}" if self._frames > 1 else ""
        description = ", ".join(filter(None, ("examining", where, part)))
        self._bar.update(self._task, completed=completed, cells=self._cells, description=description)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
