"""`echo` and `say`: what the command line prints, without what a terminal would obey.

Names of files may hold escape sequences, and so may what stands in files.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

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
