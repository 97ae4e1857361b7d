"""The command line: one module for each verb or group of verbs.

Exit codes: 0 done, 1 done with refusals or a gate not passed, 2 wrong usage, 3 bad bundle, 4 missing library or device,
130 interrupted. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from blastscope import __version__
from blastscope.cli import bench, build, bundle, classify, demo, examine, explain, live, serve, train_export, validate
from blastscope.cli.options import VerbCommand
from blastscope.cli.terminal import echo, logged_to_terminal
from blastscope.runtime.errors import BlastscopeError, MissingLibrary
from blastscope.runtime.io.printable import for_terminal

EXTRAS = {
    "torch": "train",
    "ome_types": "ome",
    "highdicom": "dicom",
    "timm": "train",
    "lightning_fabric": "train",
    "matplotlib": "train",
    "onnx": "export",
    "onnxruntime": "export",
    "pymmcore_plus": "micromanager",
    "napari": "napari",
    "grpc": "serve",
    "httptools": "serve",
    "prometheus_client": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
}

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what is written to stdout, or piece by piece, has no file's name


def said(error: BlastscopeError) -> typer.Exit:
    """The exit that goes with `error`, which is told on stderr."""
    echo(f"blastscope: {error}", err=True)
    return typer.Exit(error.exit_code)


class Verbs(TyperGroup):
    """Turns what blastscope raises on purpose into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the verb that was named."""
        try:
            return super().invoke(ctx)
        except BlastscopeError as error:
            raise said(error) from error
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library not in EXTRAS:
                raise
            raise said(MissingLibrary(library, EXTRAS[library])) from error
        except OSError as error:
            if error.errno == errno.EPIPE or not (error.filename or error.errno in FULL):
                raise
            name = error.filename2 or error.filename  # of a copy the second is the one that was written
            place = f"'{name}'" if name else "the output, or a temporary file, can't be written"
            echo(f"blastscope: {place}: {(error.strerror or 'not usable').lower()}", err=True)
            raise typer.Exit(2) from error
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str):  # wrong usage, which typer tells itself
                error.message = for_terminal(message)  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Leukaemia calls on single blood cells. For research use, not a medical device.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"blastscope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options before the verb."""
    ctx.with_resource(logged_to_terminal())


for module in (
    classify,
    explain,
    examine,
    train_export,
    bundle,
    build,
    bench,
    demo,
    live,
    validate,
    serve,
):
    for verb in module.VERBS:
        app.command(cls=VerbCommand)(verb)
for name, group in {**build.GROUPS, **bundle.GROUPS}.items():
    app.add_typer(group, name=name)


def main() -> None:
    """What `blastscope` and `python -m blastscope` run."""
    escape_what_the_output_lacks()
    app()


def escape_what_the_output_lacks() -> None:
    r"""Lets stdout and stderr write letters that their encoding lacks as escapes, `\u0418`, in place of an error.

    On Windows output into a file or a pipe is in a code page of 256 letters, and on Linux a file's name may be no text at all.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
