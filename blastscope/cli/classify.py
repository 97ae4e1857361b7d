"""`blastscope classify`: calls cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from blastscope.cli.options import (
    BackendName,
    BundlePath,
    DeviceName,
    Json,
    LayoutName,
    PixelUm,
    PrecisionName,
    Threads,
    UnlikeTraining,
)
from blastscope.cli.session import opened
from blastscope.cli.terminal import echo, say
from blastscope.runtime.io.printable import printable

if TYPE_CHECKING:
    from blastscope.runtime.bundle.uncertainty import SmearModel
    from blastscope.runtime.inference.smear import SmearCall
    from blastscope.runtime.types import Prediction

GroupBy = Literal["none", "folder", "patient"]


def classify(
    paths: Annotated[list[Path], typer.Argument(help="Images of single cells on black, and folders of them.")],
    *,
    bundle: BundlePath = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    backend: BackendName = "auto",
    threads: Threads = None,
    layout: LayoutName = "auto",
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Let one voter decide alone where it is as sure as the bundle's record asks.")
    ] = False,
    unlike_training: UnlikeTraining = "refuse",
    on_black: Annotated[
        bool,
        typer.Option("--on-black", help="The images show a cell with its background: cut out the one in the middle first."),
    ] = False,
    pixel_um: PixelUm = None,
    group_by: Annotated[
        GroupBy,
        typer.Option(help="Call each person too: whose cells are in one folder, or under one patient of C-NMC's names."),
    ] = "none",
    as_json: Json = False,
) -> None:
    """Call each image ALL or HEM, in the order given. Exits 1 when an image was refused."""
    from blastscope.runtime.errors import UsageError
    from blastscope.runtime.inference.smear import smear_model
    from blastscope.runtime.io.paths import PassedOver, find_images, left_out

    if pixel_um is not None and not on_black:
        raise UsageError("--pixel-um goes with --on-black: cells on black are taken at C-NMC's scale")
    passed = PassedOver()
    images = find_images(paths, passed=passed)
    for told in left_out(passed):
        say(told)
    refused = 0
    groups: dict[str, list[Prediction]] = {}
    engine = {"device": device, "precision": precision, "backend": backend, "threads": threads, "layout": layout}
    with opened(bundle, **engine, cascade=cascade, unlike_training=unlike_training, workload="throughput") as scope:
        model = smear_model(scope.bundle) if group_by != "none" else None
        answers = scope.classify_pictures(images, pixel_um=pixel_um) if on_black else scope.classify_files(images)
        for path, prediction in answers:
            groups.setdefault(_group(path, group_by), []).append(prediction)
            refused += prediction.refusal is not None
            echo(json.dumps({"path": str(path), **prediction.row()}) if as_json else line(path, prediction))
        if model:
            print_smears(groups, model, as_json=as_json)
    if refused:
        echo(f"{refused} of {len(images)} images refused", err=True)
        raise typer.Exit(1)


def line(path: Path, prediction: Prediction) -> str:
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
    from blastscope.runtime.inference.smear import call_smear

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
