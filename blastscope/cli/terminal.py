"""`echo` and `say`: what the command line prints, without what a terminal would obey.

Names of files may hold escape sequences, and so may what stands in files.
"""

from __future__ import annotations

import typer

from blastscope.runtime.io.printable import for_terminal


def echo(text: object, *, err: bool = False) -> None:
    """A result, on stdout."""
    typer.echo(for_terminal(text), err=err)


def say(text: str) -> None:
    """What long work is doing, on stderr."""
    echo(text, err=True)
