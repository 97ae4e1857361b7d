"""The command line: one module for each verb or group of verbs.

Exit codes: 0 done, 1 done with refusals or a gate not passed, 2 wrong usage, 3 bad bundle, 4 missing library or device,
130 interrupted. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from blastscope import __version__
from blastscope.cli import bench, build, bundle, classify, demo, detector, examine, explain, live, serve, train_export, validate
from blastscope.cli.options import VerbCommand
from blastscope.cli.terminal import echo, logged_to_terminal
from blastscope.runtime.errors import FULL, BlastscopeError, MissingLibrary, UnavailableError
from blastscope.runtime.io.printable import for_terminal, printable

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

NATIVE = (".so", ".pyd", ".dll", ".dylib")


def said(error: BlastscopeError) -> typer.Exit:
    """The exit that goes with `error`, which is told on stderr."""
    echo(f"blastscope: {error}", err=True)
    return typer.Exit(error.exit_code)


def problem_of(error: OSError) -> str | None:
    """What the system's error means, for people; None for one that is a fault of ours, or a reader that ended."""
    if error.errno == errno.EPIPE:
        return None
    if name := error.filename2 or error.filename:  # of a copy the second is the one that was written
        return f"'{printable(name)}': {(error.strerror or 'not usable').lower()}"
    if error.errno in FULL:  # what is written to stdout, or piece by piece, has no file's name
        return f"the output, or a temporary file, can't be written: {(error.strerror or 'no room').lower()}"
    if error.errno == errno.EMFILE:
        return "this process may open no more files: raise its limit (ulimit -n)"
    return None if _started_in_a_folder() else "the folder that this command was started in is gone: start it in another one"


def _started_in_a_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


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
        except ImportError as error:
            if not (error.path or "").endswith(NATIVE) and not str(error).startswith("/"):
                raise  # a name that a module lacks: a fault of ours
            raise said(UnavailableError(f"a library can't be loaded: {error}")) from error
        except MemoryError as error:
            raise said(
                UnavailableError("memory doesn't suffice: close other programs, or raise this process's limit")
            ) from error
        except OSError as error:
            if (problem := problem_of(error)) is None:
                raise
            echo(f"blastscope: {problem}", err=True)
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
    detector,
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
    hold_standard_streams()
    end_as_by_control_c()
    escape_what_the_output_lacks()
    try:
        app()
    except OSError as error:  # of --help and --version
        if (problem := problem_of(error)) is None:
            raise
        echo(f"blastscope: {problem}", err=True)
        sys.exit(2)
    finally:
        drop_what_cannot_be_written()


def end_as_by_control_c() -> None:
    """Lets the signals by which schedulers, containers and closed terminals end a command clear up as Ctrl-C does.

    Else its temporary folders would stay. A signal that is ignored, as under `nohup`, stays so; the server has ways of its own.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows lacks the second
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def hold_standard_streams() -> None:
    """Opens the null device in the place of stdin, stdout and stderr where one is closed.

    The next file that is opened would take its number, and get what a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def drop_what_cannot_be_written() -> None:
    """Empties the buffers of streams whose disk is full: Python would tell it once more, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):  # there is none, or it is closed
            continue
        except OSError:
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def escape_what_the_output_lacks() -> None:
    r"""Lets stdout and stderr write letters that their encoding lacks as escapes, `\u0418`, in place of an error.

    On Windows output into a file or a pipe is in a code page of 256 letters, and on Linux a file's name may be no text at all.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
