"""`blastscope train`, `export` and `calibrate`: the road from labelled cells to a bundle, for whoever builds one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blastscope.cli.options import ConfigPath, Json


def train(
    data: Annotated[Path, typer.Argument(help="Folder with C-NMC cells, in the archive's layout or as all/ and hem/.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the run: networks, history, report.")],
    config: ConfigPath = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Where crops are kept. Default: the user's cache.")] = None,
    as_json: Json = False,
) -> None:
    """Train A, B and the combined model by the paper's recipe, or by that of a TOML file, and write the report."""
    from blastscope.cli.tables import print_training
    from blastscope.train.config import TrainConfig
    from blastscope.train.run import train_ensemble

    chosen = TrainConfig.from_toml(config) if config else TrainConfig()
    run = train_ensemble(data, chosen, out, resume=resume, cache=cache)
    print_training(run, as_json=as_json)


def crossvalidate(
    data: Annotated[Path, typer.Argument(help="Folder with C-NMC cells, in the archive's layout or as all/ and hem/.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the runs, one a fold, and of the report over all patients.")],
    config: ConfigPath = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs in --out.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Where crops are kept. Default: the user's cache.")] = None,
    as_json: Json = False,
) -> None:
    """Train once for each fold of the patients, and score each patient by the networks that never saw a cell of it."""
    from blastscope.cli.tables import print_training
    from blastscope.train.config import TrainConfig
    from blastscope.train.crossval import cross_validate

    chosen = TrainConfig.from_toml(config) if config else TrainConfig()
    print_training(cross_validate(data, chosen, out, resume=resume, cache=cache), as_json=as_json)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    *,
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    data: Annotated[
        Path | None, typer.Option(help="The run's cells: golden set and checks come from its validation part.")
    ] = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Turn a run into a bundle: fp32 and fp16 ONNX graphs, each checked against PyTorch. Without --data on drawn cells."""
    from blastscope.cli.tables import print_bundle
    from blastscope.export.bundle_maker import export_run
    from blastscope.export.config import ExportConfig

    chosen = ExportConfig.from_toml(config) if config else ExportConfig()
    print_bundle(export_run(run, out, data=data, config=chosen, tell=say), as_json=as_json)


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; it is changed in one step.")],
    *,
    data: Annotated[Path, typer.Option(help="The cells it was trained on: only validation patients are used.")],
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Make int8 graphs and let them in if the gate holds. Exits 1, and says which figures failed, if it doesn't."""
    from blastscope.calibration.calibrate import calibrate as run
    from blastscope.calibration.config import CalibrationConfig
    from blastscope.cli.tables import print_calibration

    chosen = CalibrationConfig.from_toml(config) if config else CalibrationConfig()
    report = run(bundle, data, chosen, tell=say)
    print_calibration(report, as_json=as_json)
    if not report.admitted:
        raise typer.Exit(1)


def say(text: str) -> None:
    """What long work is doing, on stderr."""
    typer.echo(text, err=True)


VERBS = (train, crossvalidate, export, calibrate)
