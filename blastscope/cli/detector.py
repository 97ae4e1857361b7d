"""`blastscope train-detector` and `add-detector`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from blastscope.cli.options import ConfigPath, Json
from blastscope.cli.terminal import echo


def train_detector(
    data: Annotated[Path, typer.Argument(help="Folder with bccd, txl, pbc and cnmc.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the run: pictures' maps, heads, report.")],
    config: ConfigPath = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Train a detector of white cells on frames with boxes, and judge it on each source by one that never saw it."""
    from blastscope.train.detector.config import DetectorConfig
    from blastscope.train.detector.run import train_detector as run

    chosen = DetectorConfig.from_toml(config) if config else DetectorConfig()
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
    from blastscope.cli.tables import print_bundle
    from blastscope.export.detector import add_detector as add
    from blastscope.export.detector import copy_detector
    from blastscope.runtime.errors import UsageError

    if run is not None and source is None:
        print_bundle(add(bundle, run), as_json=as_json)
    elif source is not None and run is None:
        print_bundle(copy_detector(bundle, source), as_json=as_json)
    else:
        raise UsageError("name the detector once: by --run RUN or by --from BUNDLE")


VERBS = (train_detector, add_detector)
