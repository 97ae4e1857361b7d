"""`blastscope train`, `crossvalidate`, `find-copies`, `export`, `calibrate` and `add-neighbours`.

Folders are looked at before PyTorch and ONNX are imported, which takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from blastscope.cli.options import ConfigPath, CropCache, Json, LabelledCells
from blastscope.cli.terminal import deprecations_said, echo, json_text, logged_to_terminal, say, show
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.printable import for_terminal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blastscope.calibration.config import CalibrationConfig
    from blastscope.runtime.bundle import Bundle
    from blastscope.train.network import VoterNetwork
    from blastscope.train.trunk import TrunkEnsemble


def train(
    data: LabelledCells,
    *,
    out: Annotated[Path, typer.Option(help="Folder of the run: networks, history, report.")],
    config: ConfigPath = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    cache: CropCache = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option(help="uncertainty.json of a cross validation by the same recipe, for a run that holds nobody out."),
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(help="corrections.csv or labels of a site's frames: its cells are cut out and learnt from as well."),
    ] = None,
    frame_config: Annotated[
        Path | None, typer.Option(help="With --corrections: TOML file of what is assumed of frames and cells.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train A, B and the combined model by the paper's recipe, or by that of a TOML file, and write the report.

    With --corrections the cells that are trained on lie in OUT.cells; name it as --data of export and calibrate.
    """
    from blastscope.train.config import TrainConfig
    from blastscope.train.pipeline import train_ensemble

    chosen = TrainConfig.from_toml(config) if config else TrainConfig()
    console = Console(stderr=True)
    if corrections:
        data = _with_site_cells(data, corrections, frame_config, out.with_name(f"{out.name}.cells"), resume=resume)
    elif frame_config:
        raise UsageError("--frame-config goes with --corrections")
    run = train_ensemble(
        data, chosen, out, resume=resume, cache=cache, uncertainty=uncertainty, console=console, rehearse=_rehearse
    )
    print_training(run, as_json=as_json)


def _rehearse(network: TrunkEnsemble | VoterNetwork, crops: NDArray[np.uint8]) -> str:
    """Imports PyTorch and ONNX when a run begins, and not before its folders are looked at."""
    from blastscope.export.rehearsal import rehearse

    return rehearse(network, crops)


def _with_site_cells(data: Path, corrections: Path, config: Path | None, place: Path, *, resume: bool) -> Path:
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.train.site_cells import add_site_cells

    if resume and place.is_dir():
        return place  # the run goes on with the cells that it began with
    spec = FrameSpecification.from_toml(config) if config else FrameSpecification()
    return add_site_cells(data, corrections, place, spec=spec)


def crossvalidate(
    data: LabelledCells,
    *,
    out: Annotated[Path, typer.Option(help="Folder of the runs, one a fold, and of the report over all patients.")],
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="TOML file; several: one recipe each, chosen for each fold by the others. Default: the paper's values."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs in --out.")] = False,
    cache: CropCache = None,
    as_json: Json = False,
) -> None:
    """Train once for each fold of the patients, and score each patient by the networks that never saw a cell of it.

    With several --config the best recipe is chosen for each fold by the people of the other folds (nested cross validation).
    """
    from blastscope.train.config import TrainConfig
    from blastscope.train.cross_validation import cross_validate
    from blastscope.train.nested_cross_validation import nested_cross_validate

    console = Console(stderr=True)
    if config and len(config) > 1:
        recipes = {path.stem: TrainConfig.from_toml(path) for path in config}
        if len(recipes) < len(config):
            raise UsageError("a recipe is called as its file is, without .toml: give each another name")
        choices = nested_cross_validate(data, recipes, out, resume=resume, cache=cache, console=console, rehearse=_rehearse)
        say(f"best by all folds, to be trained on everybody: {choices.best}")
    else:
        chosen = TrainConfig.from_toml(config[0]) if config else TrainConfig()
        cross_validate(data, chosen, out, resume=resume, cache=cache, console=console, rehearse=_rehearse)
    print_training(out, as_json=as_json)


def find_copies(
    data: LabelledCells,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the ids that are one person as a table: as people.csv in DATA, splits keep them together."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG file with the pairs of cells side by side.")] = None,
    cache: CropCache = None,
    as_json: Json = False,
) -> None:
    """Find cells that stand under two patient ids, cut out or coloured anew: such ids are one person.

    Byte-identical cells are found by every verb that splits; these copies are not. Look at the sheet before you believe a pair.
    """
    from blastscope.runtime.frames.report.writers import check_places
    from blastscope.runtime.io.atomic import write_content
    from blastscope.runtime.io.cnmc import scan_dataset
    from blastscope.runtime.io.paths import default_cache_dir
    from blastscope.runtime.io.people import join_ids, write_people

    folder = scan_dataset(data)
    check_places(filter(None, (out, sheet)), (cell.path for cell in folder.cells))
    from blastscope.train.near_copies import compare_cells, draw_pairs, ids_to_join
    from blastscope.train.progress import TrainingProgress

    with TrainingProgress(Console(stderr=True)) as progress:
        store, copies = compare_cells(folder, Path(cache or default_cache_dir()), progress)
    cells = store.cells
    pairs = [copy for copy in copies if cells[copy.first].person != cells[copy.second].person]
    joined = ids_to_join(cells, copies)
    if sheet:
        write_content(sheet, draw_pairs(store, pairs))
    if out:
        known = [(patient, person) for patient, person in folder.people.items() if patient in set(store.patients.tolist())]
        write_people(out, join_ids((patient for patient, _ in known), [*known, *((row[0], row[1]) for row in joined)]))
    if as_json:
        keys = ("patient", "other", "cells", "correlation")
        echo(
            json.dumps({"cells": len(cells), "pairs": len(pairs), "ids": [dict(zip(keys, row, strict=True)) for row in joined]})
        )
        return
    for one, other, count, highest in joined:
        echo(f"{one} and {other}: {count} cell{'s' if count > 1 else ''}, correlation up to {highest:.3f}")
    echo(f"{len(pairs)} copies under ids that aren't known to be one person, among {len(cells)} cells")


def export(
    source: Annotated[
        Path | None,
        typer.Argument(help="Folder of a finished run; without --out a bundle. Default: the one that is shipped."),
    ] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="The bundle's folder.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The run's cells: golden set and checks come from its validation part.")
    ] = None,
    config: ConfigPath = None,
    triton: Annotated[
        Path | None, typer.Option(help="A model repository of Triton Inference Server to write the fused ensemble into.")
    ] = None,
    ovms: Annotated[
        Path | None, typer.Option(help="A model repository of OpenVINO Model Server to write the fused ensemble into.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="With --triton or --ovms. Default: fp16 where the bundle has it."),
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(help="With --triton: an engine of `build --runtime tensorrt`, in the graph's place.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a run into a bundle: fp32 and fp16 ONNX graphs, each checked against PyTorch. Without --data on drawn cells.

    With --triton or --ovms, write the fused ensemble into a server's repository, from the bundle just made or from SOURCE.
    """
    if out is None and triton is None and ovms is None:
        raise UsageError("where to? say --out BUNDLE, --triton DIR or --ovms DIR, or several")
    if triton is None and (engine or (precision and ovms is None)):
        raise UsageError(
            "--precision goes with --triton or --ovms, --engine with --triton; what a bundle holds stands in --config"
        )
    if out is None:
        from blastscope import SHIPPED_BUNDLE
        from blastscope.runtime.bundle import read_bundle

        bundle = read_bundle(source or SHIPPED_BUNDLE)
    else:
        bundle = _export(source, out, data, config)
    places = []
    if triton is not None:
        from blastscope.export.model_repositories import write_triton_repository

        places.append(write_triton_repository(bundle, triton, precision=precision, engine=engine))
        say(f"Triton's model lies in '{places[-1]}'")
    if ovms is not None:
        from blastscope.export.model_repositories import write_openvino_repository

        places.append(write_openvino_repository(bundle, ovms, precision=precision))
        say(f"OpenVINO Model Server's model lies in '{places[-1]}'")
    if out is not None:
        from blastscope.cli.bundle import print_bundle

        print_bundle(bundle, as_json=as_json)
    else:
        for place in places:
            echo(json.dumps({"model": str(place)}) if as_json else place)


def _export(run: Path | None, out: Path, data: Path | None, config: Path | None) -> Bundle:
    from blastscope.runtime.bundle.archive import check_bundle_place
    from blastscope.runtime.io.cnmc import check_dataset_folder
    from blastscope.train.pipeline import check_is_run

    if run is None:
        raise UsageError("which run? name its folder")
    check_bundle_place(out)
    check_is_run(run)
    if data is not None:
        check_dataset_folder(data)
    from blastscope.export.exporter import export_run
    from blastscope.export.onnx_writer import ExportConfig

    chosen = ExportConfig.from_toml(config) if config else ExportConfig()
    return export_run(run, out, data=data, config=chosen)


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; it is changed in one step.")],
    *,
    data: Annotated[Path, typer.Option(help="The cells it was trained on: validation patients judge, unless --folds do.")],
    config: ConfigPath = None,
    folds: Annotated[
        Path | None,
        typer.Option(help="Of an ensemble that was trained on everybody: folder with the bundle of each fold, which judge."),
    ] = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Instead of int8: find when a first voter is sure enough to decide alone.")
    ] = False,
    cascade_flips: Annotated[
        float | None, typer.Option(min=0, max=1, help="With --cascade: share of calls that may change. Default: 0.002.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None, typer.Option(help="With --cascade: of the graph. Default: int8 if it's there.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="With --cascade: folder for cascade.json and cascade.png.")] = None,
    as_json: Json = False,
) -> None:
    """Make int8 graphs and let them in if the gate holds. Exits 1, and says which figures failed, if it doesn't.

    With --cascade the graphs stay as they are: measured is what it costs to let one voter decide alone where it is sure.
    """
    from blastscope.calibration.config import CalibrationConfig
    from blastscope.runtime.bundle.opening import check_changeable
    from blastscope.runtime.io.cnmc import check_dataset_folder

    with deprecations_said():
        chosen = CalibrationConfig.from_toml(config) if config else CalibrationConfig()
    if cascade and folds:
        raise UsageError("--folds doesn't go with --cascade")
    if not cascade and (report or precision or cascade_flips is not None):
        raise UsageError("--report, --precision and --cascade-flips go with --cascade")
    check_changeable(bundle)
    check_dataset_folder(data)
    if cascade:
        _cascade(bundle, data, chosen, report, as_json, max_flip_rate=cascade_flips, precision=precision)
        return
    from blastscope.calibration.calibrate import calibrate as run

    found = run(bundle, data, chosen, folds=folds)
    echo(json_text(found) if as_json else found.text())
    if not found.admitted:
        raise typer.Exit(1)


def _cascade(
    bundle: Path, data: Path, config: CalibrationConfig, report: Path | None, as_json: bool, **given: float | str | None
) -> None:
    from pydantic import ValidationError

    from blastscope.calibration.cascade.report import write_report
    from blastscope.calibration.cascade.run import calibrate_cascade
    from blastscope.calibration.config import CascadeConfig
    from blastscope.runtime.frames.report.writers import check_places
    from blastscope.runtime.io.strict_model import problems

    said = {key: value for key, value in given.items() if value is not None}
    try:
        wanted = CascadeConfig.model_validate({**config.cascade.model_dump(), **said})
    except ValidationError as error:  # 1 is too much, and typer's bounds can't say so
        raise UsageError("; ".join(problems(error))) from error
    if report:
        check_places([report / "cascade.json"], [])
    found = calibrate_cascade(bundle, data, wanted)
    if report:
        write_report(report, found)
        say(f"report: {report}")
    echo(json_text(found) if as_json else found.text())
    if not found.admitted:
        raise typer.Exit(1)


def print_training(run: Path, *, as_json: bool) -> None:
    """Table 1 and the intervals of a finished run."""
    path = run / "report" / "report.json"
    if as_json:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"run": str(run), "report": None}
        echo(json.dumps(found, indent=2))
        return
    if path.is_file():
        from blastscope.train.report import Report, render_table

        show(render_table(Report.model_validate_json(path.read_text(encoding="utf-8"))))
    show(Text(for_terminal(f"run: {run}")))


def add_neighbours(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; it is changed in one step.")],
    *,
    data: Annotated[Path, typer.Option(help="The cells that it was trained on.")],
    as_json: Json = False,
) -> None:
    """Put an index of the training's cells into a bundle, from which `explain` tells those most like a cell.

    It holds each cell's features, label, patient id and file name, and no picture.
    """
    from blastscope.cli.bundle import print_bundle
    from blastscope.runtime.bundle.opening import check_changeable
    from blastscope.runtime.io.cnmc import check_dataset_folder

    check_changeable(bundle)
    check_dataset_folder(data)
    from blastscope.export.neighbours import add_neighbours as add

    with logged_to_terminal():
        found = add(bundle, data)
    print_bundle(found, as_json=as_json)


VERBS = (train, crossvalidate, find_copies, export, calibrate, add_neighbours)
