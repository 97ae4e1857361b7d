"""`echo` and `say`: what the command line prints, without what a terminal would obey.

Names of files may hold escape sequences, and so may what stands in files.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator

import typer

from blastscope.runtime.io.printable import for_terminal


def echo(text: object, *, err: bool = False) -> None:
    """A result, on stdout."""
    typer.echo(for_terminal(text), err=err)


def say(text: str) -> None:
    """What long work is doing, on stderr."""
    echo(text, err=True)


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
