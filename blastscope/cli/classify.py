"""`blastscope classify`: calls cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blastscope.cli.options import BackendName, BundlePath, DeviceName, Json, LayoutName, PrecisionName, Threads
from blastscope.cli.session import opened

if TYPE_CHECKING:
    from blastscope.runtime.types import Prediction


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
    as_json: Json = False,
) -> None:
    """Call each image ALL or HEM, in the order given. Exits 1 when an image was refused."""
    from blastscope.runtime.io.paths import find_images

    images = find_images(paths)
    refused = 0
    engine = {"device": device, "precision": precision, "backend": backend, "threads": threads, "layout": layout}
    with opened(bundle, **engine, cascade=cascade, workload="throughput") as scope:
        for path, prediction in scope.classify_files(images):
            refused += prediction.refusal is not None
            typer.echo(json.dumps({"path": str(path), **prediction.row()}) if as_json else line(path, prediction))
    if refused:
        typer.echo(f"{refused} of {len(images)} images refused", err=True)
        raise typer.Exit(1)


def line(path: Path, prediction: Prediction) -> str:
    """One image for people: call, probability, the voter that decided, path."""
    if prediction.refusal:
        return f"--   {prediction.refusal.code:<16}{path}  ({prediction.refusal.detail})"
    assert prediction.label is not None
    return f"{prediction.label.upper()}  {prediction.probability:.3f}  {prediction.voter:<9}{path}"


VERBS = (classify,)
