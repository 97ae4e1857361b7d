"""`blastscope train-detector`, `add-detector` and `calibrate-detector`: what finds white cells in frames.

Folders are looked at before PyTorch and ONNX are imported, which takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from blastscope.cli.options import ConfigPath, Json, bundle_at
from blastscope.cli.terminal import echo
from blastscope.runtime.errors import UsageError


def train_detector(
    data: Annotated[Path, typer.Argument(help="Folder with bccd, txl, pbc and cnmc.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the run: pictures' maps, heads, report.")],
    config: ConfigPath = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Train a detector of white cells on frames with boxes, and judge it on each source by one that never saw it."""
    from blastscope.train.detector.config import DetectorConfig, check_detector_place
    from blastscope.train.detector.sources import check_frames

    chosen = DetectorConfig.from_toml(config) if config else DetectorConfig()
    check_detector_place(out, resume=resume)
    check_frames(data)
    from blastscope.train.detector.run import train_detector as run

    report = run(data, chosen, out, resume=resume, console=Console(stderr=True))
    if as_json:
        echo(report.model_dump_json())
        return
    for source in report.sources:
        found = source.at(report.limit)
        figures = f"recall {found.recall.value:.3f}, precision {found.precision.value:.3f}" if found else "nothing found"
        echo(f"{source.source:10s} {'left out' if source.left_out else 'held out'}  {source.frames:4d} frames  {figures}")
    echo(f"report: {out / 'report' / 'index.html'}")


def add_detector(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; it is changed in one step.")],
    *,
    run: Annotated[Path | None, typer.Option(help="Folder of a finished run of train-detector.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Or another bundle, whose detector is copied.")] = None,
    as_json: Json = False,
) -> None:
    """Put a detector into a bundle: a trained one, as an ONNX graph that is checked against PyTorch, or another bundle's."""
    from blastscope.cli.bundle import print_bundle
    from blastscope.runtime.bundle.opening import check_changeable
    from blastscope.train.pipeline import check_is_run

    if (run is None) == (source is None):
        raise UsageError("name the detector once: by --run RUN or by --from BUNDLE")
    check_changeable(bundle)
    if run is not None:
        check_is_run(run, "train-detector")
    if source is not None:
        bundle_at(source)
    from blastscope.export.detector import add_detector as add
    from blastscope.export.detector import copy_detector

    if run is not None:
        print_bundle(add(bundle, run), as_json=as_json)
    if source is not None:
        print_bundle(copy_detector(bundle, source), as_json=as_json)


def calibrate_detector(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; it is changed in one step.")],
    *,
    data: Annotated[Path, typer.Option(help="Folder with bccd and txl, as train-detector takes it.")],
    as_json: Json = False,
) -> None:
    """Make a detector's int8 graph, and admit it where it finds the cells that the fp32 graph finds (exit code 1 if not)."""
    from blastscope.runtime.bundle.opening import check_changeable
    from blastscope.train.detector.sources import check_frames

    check_changeable(bundle)
    check_frames(data, ("bccd", "txl"))
    from blastscope.export.detector_int8 import calibrate_detector as run

    found = run(bundle, data)
    echo(found.model_dump_json() if as_json else found.text())
    if not found.admitted:
        raise typer.Exit(1)


VERBS = (train_detector, add_detector, calibrate_detector)
