"""`blastscope classify`: calls cells."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blastscope.cli.cluster import ClusterJob, RayAddress, Results, run_on_cluster
from blastscope.cli.options import (
    BundlePath,
    Json,
    LayoutName,
    OnBlack,
    PixelUm,
    SessionArguments,
    check_scale,
    named_images,
    opened,
    with_session_arguments,
)
from blastscope.cli.terminal import echo, say
from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.io.printable import printable

if TYPE_CHECKING:
    from blastscope.runtime.bundle.uncertainty import SmearModel
    from blastscope.runtime.inference.voting import SmearCall
    from blastscope.runtime.session import Scope
    from blastscope.runtime.types import Prediction

    AtWork = tuple[str, Future[Prediction]] | OSError  # a path and its call; or why no more can be read

STDIN = Path("-")
LINES_AHEAD = 64  # of stdin that may be at work
GLANCE_S = 0.5  # a wait without a limit can't be interrupted on Windows

GroupBy = Literal["none", "folder", "patient"]


@with_session_arguments
def classify(
    paths: Annotated[
        list[Path], typer.Argument(help="Images of single cells on black, and folders of them; - for lines of stdin.")
    ],
    *,
    bundle: BundlePath = None,
    engine: SessionArguments,
    layout: LayoutName = "auto",
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Let one voter decide alone where it is as sure as the bundle's record asks.")
    ] = False,
    on_black: OnBlack = False,
    pixel_um: PixelUm = None,
    group_by: Annotated[
        GroupBy,
        typer.Option(help="Call each person too: by folder, or by the patient in C-NMC's names (in others by folder)."),
    ] = "none",
    as_json: Json = False,
    ray: RayAddress = None,
    results: Results = None,
) -> None:
    """Call each image ALL or HEM, in the order given. Exits 1 when an image was refused.

    With - the paths are read from stdin, one a line, and each is answered with a line as soon as it can be, until stdin ends.
    """
    from blastscope.runtime.inference.voting import smear_model
    from blastscope.runtime.io.cnmc import patient_in_name
    from blastscope.runtime.io.paths import resolved

    check_scale(pixel_um, on_black=on_black)
    words = engine.words(layout=layout, cascade=cascade)
    if STDIN in paths:
        if len(paths) > 1 or group_by != "none" or ray:
            raise UsageError("with - all paths come from stdin: give no other, and leave --group-by and --ray out")
        with opened(bundle, **words) as scope:
            answer_lines(partial(_call_picture, scope, pixel_um) if on_black else scope.classify, as_json=as_json)
        return
    images = named_images(paths)
    if ray:
        alone = group_by == "none" and not on_black
        return run_on_cluster(ClusterJob("classify", ray, results, bundle, words), images, alone=alone, as_json=as_json)
    if group_by == "patient" and (nameless := sum(patient_in_name(path) is None for path in images)):
        say(f"{nameless} of {len(images)} images aren't named as C-NMC's: those of one folder are taken for one person's")
    refused = 0
    groups: dict[str, dict[Path, Prediction]] = {}  # a file that is given twice shows a person's cell once
    with opened(bundle, **words, workload="throughput") as scope:
        model = smear_model(scope.bundle) if group_by != "none" else None
        answers = scope.classify_pictures(images, pixel_um=pixel_um) if on_black else scope.classify_files(images)
        for path, prediction in answers:
            groups.setdefault(_group(path, group_by), {})[resolved(path)] = prediction
            refused += prediction.refusal is not None
            tell(path, prediction, as_json=as_json)
        if model:
            print_smears({name: list(cells.values()) for name, cells in groups.items()}, model, as_json=as_json)
    exit_with(refused, len(images))


def answer_lines(classify: Callable[[str], Prediction], *, as_json: bool) -> None:
    """Calls the image of each path that comes on stdin, and prints a line for each, in their order and without delay."""
    from blastscope.runtime.io.concurrency import ThreadPool

    at_work: Queue[AtWork | None] = Queue(LINES_AHEAD)
    refused = count = 0
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, OSError) as error:
        raise UsageError("stdin can't be read here: name the images instead of -") from error
    with ThreadPool(2, "blastscope-lines") as pool:

        def take_up() -> None:
            end: OSError | None = None
            try:
                for name in read_lines(descriptor):
                    at_work.put((name, pool.submit(classify, name)))
            except Closed:  # the command ends
                pass
            except OSError as error:
                end = error
            at_work.put(end)

        # a daemon: it waits for stdin, which may never end
        threading.Thread(target=take_up, name="blastscope-stdin", daemon=True).start()
        while (one := _next(at_work)) is not None:
            if isinstance(one, OSError):
                raise UsageError(f"stdin can't be read, {(one.strerror or 'not usable').lower()}") from one
            name, prediction = one[0], one[1].result()
            count, refused = count + 1, refused + (prediction.refusal is not None)
            tell(name, prediction, as_json=as_json)
    exit_with(refused, count)


def read_lines(descriptor: int) -> Iterator[str]:
    """The lines of an open file as they come, but the empty ones. Python's own reader holds a lock when the process ends."""
    rest = b""
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (os.fsdecode(text) for text in (one.rstrip(b"\r") for one in lines) if text)
    if rest:
        yield os.fsdecode(rest)


def _call_picture(scope: Scope, pixel_um: float | None, name: str) -> Prediction:
    return next(scope.classify_pictures([name], pixel_um=pixel_um))[1]


def _next(queue: Queue[AtWork | None]) -> AtWork | None:
    while True:
        try:
            return queue.get(timeout=GLANCE_S)
        except Empty:
            continue


def exit_with(refused: int, count: int) -> None:
    """Ends the command with 1 where an image was refused."""
    if refused:
        echo(f"{refused} of {count} images refused", err=True)
        raise typer.Exit(1)


def tell(path: Path | str, prediction: Prediction, *, as_json: bool) -> None:
    """Prints a line, which is flushed."""
    echo(json.dumps({"path": str(path), **prediction.row()}) if as_json else prediction_line(path, prediction))


def prediction_line(path: Path | str, prediction: Prediction) -> str:
    """One image for people: call, probability, the voter that decided, path."""
    if prediction.refusal:
        return f"--   {prediction.refusal.code:<16}{printable(path)}  ({printable(prediction.refusal.detail)})"
    assert prediction.label is not None
    return f"{prediction.label.upper()}  {prediction.probability:.3f}  {prediction.voter:<9}{printable(path)}"


def _group(path: Path, group_by: GroupBy) -> str:
    from blastscope.runtime.io.cnmc import patient_in_name

    if group_by == "patient":
        return patient_in_name(path) or str(path.parent)
    return str(path.parent) if group_by == "folder" else ""


def print_smears(groups: dict[str, list[Prediction]], model: SmearModel, *, as_json: bool) -> None:
    """A line for each person: JSON with the key `smear`, or text."""
    from blastscope.runtime.inference.voting import call_smear

    for name, predictions in groups.items():
        call = call_smear(predictions, model)
        echo(json.dumps({"smear": name, **call.row()}) if as_json else smear_line(name, call))


def smear_line(name: str, call: SmearCall) -> str:
    """One person for people: call, probability of ALL with its interval, cells, refusals, name."""
    refused = ", ".join(f"{count} {code}" for code, count in sorted(call.refused.items()))
    cells = f"{call.called_all} of {call.cells} cells ALL" + (f", {refused}" if refused else "")
    if call.label is None:
        return f"smear  --   {printable(name)}  ({call.detail}; {cells})"
    return (
        f"smear  {call.label.upper()}  {call.probability:.3f} ({call.low:.3f} to {call.high:.3f})  {printable(name)}  ({cells})"
    )


VERBS = (classify,)
