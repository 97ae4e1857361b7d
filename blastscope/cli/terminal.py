"""What the command line prints, without what a terminal would obey: text (`echo`, `say`), tables (`show`), JSON, log lines.

Names of files may hold escape sequences, and so may what stands in files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer
from rich.console import Console, RenderableType

from blastscope.runtime.io.printable import for_terminal

if TYPE_CHECKING:
    from blastscope.runtime.io.strict_model import StrictModel


def echo(text: object, *, err: bool = False) -> None:
    """A result, on stdout; with `err` a line on stderr, which is left out where it can't be written: results matter more."""
    with contextlib.suppress(OSError) if err else contextlib.nullcontext():
        typer.echo(for_terminal(text), err=err)


def say(text: str) -> None:
    """What long work is doing, on stderr."""
    echo(text, err=True)


def show(*parts: RenderableType) -> None:
    """Prints `parts` to stdout, as wide as the terminal, or 100 columns where there is none."""
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    for part in parts:
        console.print(part)


def json_text(record: StrictModel) -> str:
    """`record` as indented JSON in ASCII: escapes are JSON's own, whatever encoding the output has."""
    return json.dumps(json.loads(record.model_dump_json()), indent=2)


@contextlib.contextmanager
def deprecations_said() -> Iterator[None]:
    """Says what is deprecated in a file that is read within, on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        yield
    for text in dict.fromkeys(str(one.message) for one in caught):
        say(text)


class TerminalHandler(logging.Handler):
    """Shows what the library logs, a line each, by `show`: `say`, or whatever draws on the terminal for a while."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.show: Callable[[str], None] = say

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one line."""
        self.show(record.getMessage())


log_handler = TerminalHandler()


@contextlib.contextmanager
def logged_to_terminal() -> Iterator[None]:
    """Shows on stderr what the library logs within: what was chosen, and where long work stands."""
    logger = logging.getLogger("blastscope")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(log_handler)
    try:
        yield
    finally:
        logger.removeHandler(log_handler)
        logger.setLevel(level)
