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
    run: Annotated[Path, typer.Option(help="Folder of a finished run of train-detector.")],
    as_json: Json = False,
) -> None:
    """Put a trained detector into a bundle: an ONNX graph that is checked against PyTorch, and golden pictures."""
    from blastscope.cli.tables import print_bundle
    from blastscope.export.detector import add_detector as add

    print_bundle(add(bundle, run), as_json=as_json)


VERBS = (train_detector, add_detector)
