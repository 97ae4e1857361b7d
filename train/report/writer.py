"""Writes RUN/report, file by file, the page last; and shows Table 1 and the intervals in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError
from safetensors.numpy import load_file

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.bundle.uncertainty import Uncertainty
from blastscope.runtime.errors import DataError
from blastscope.runtime.evaluation.metrics import ClassScores
from blastscope.runtime.frames.report.templates import render_template
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.printable import format_duration
from blastscope.runtime.io.strict_model import StrictModel, problems
from blastscope.runtime.types import CLASSES, VOTERS, ClassName
from blastscope.train.config import ScheduleConfig
from blastscope.train.fit_checkpoint import EpochRow, monitored_value
from blastscope.train.report.data import NAMES, SUBJECTS, VOTE, Part, RecipeComparison, Report, ReportInput, assess
from blastscope.train.report.plots import Picture, draw_pictures

if TYPE_CHECKING:
    from blastscope.train.ensemble_checkpoint import RunProvenance

R = TypeVar("R", bound=StrictModel)
ROWS = (("hem", "HEM"), ("all", "ALL"), ("weighted", "weighted"))


def write_report(run: Path) -> Path:
    """Writes RUN/report (index.html, report.json, pictures as PNG and SVG) of the finished run `run`; returns the folder.

    RUN/comparison.json (`RecipeComparison`), where there is one, becomes a section. Raises `DataError` where a file of the run
    is missing or doesn't fit the others, and `MissingLibrary` without matplotlib.
    """
    folder = Path(run) / "report"
    write_folder(read_run(Path(run)), folder)
    return folder


def write_folder(given: ReportInput, folder: Path) -> Report:
    """Writes the report of `given` into `folder`, and gives its figures back."""
    report = assess(given)
    pictures = draw_pictures(given, report)
    contents = {f"{picture.name}.png": picture.png for picture in pictures}
    contents |= {f"{picture.name}.svg": picture.svg for picture in pictures}
    contents["report.json"] = (report.model_dump_json(indent=2) + "\n").encode()
    contents["index.html"] = render_training_report(report, pictures).encode()
    for name, content in contents.items():
        write_content(folder / name, content)
    return report


def read_run(run: Path) -> ReportInput:
    """What the folder of a finished run says. Raises `DataError`."""
    from blastscope.train.ensemble_checkpoint import RunHistory, read_provenance

    found = read_provenance(run)
    if found.state != "finished":
        raise DataError(run, "the training isn't finished: go on with --resume")
    labels = {cell.patient: cell.label for cell in found.validation}
    tensors = _tensors(run / "validation.safetensors")
    histories = _record(run / "history.json", RunHistory)
    history = {voter: getattr(histories, voter) for voter in VOTERS}
    schedules = {"a": found.config.stage1, "b": found.config.stage1, "combined": found.config.stage2}
    return ReportInput(
        title=f"{found.config.network.backbone} at {found.config.crop.side_px} px",
        labels=np.array([CLASSES.index(cell.label) for cell in found.validation], dtype=np.int64),
        patients=tuple(cell.patient for cell in found.validation),
        people=tuple(cell.whose for cell in found.validation),
        files=tuple(cell.file for cell in found.validation),
        probabilities=_probabilities(run / "validation.safetensors", tensors, len(found.validation)),
        history=history,
        kept={voter: kept_epoch(rows, schedules[voter]) for voter, rows in history.items() if rows},
        provenance=found.for_manifest(),
        patient_classes=classes_by_name(labels, found.patients.training),
        circumstances=_circumstances(found),
        notes=found.notes,
        comparison=read_comparison(run),
        sizes=_floats(tensors, "size_px"),
        lightness=_floats(tensors, "lightness"),
        uncertainty=read_run_uncertainty(run),
    )


def read_comparison(folder: Path) -> RecipeComparison | None:
    """What FOLDER/comparison.json says of other recipes, where there is one. Raises `DataError`."""
    path = folder / "comparison.json"
    return _record(path, RecipeComparison) if path.is_file() else None


def kept_epoch(rows: Sequence[EpochRow], config: ScheduleConfig) -> int:
    """The epoch whose weights the network ended with: the first of the best, or the last."""
    return min(rows, key=lambda row: monitored_value(row, config)).epoch if config.keep == "best" else rows[-1].epoch


def classes_by_name(known: Mapping[str, ClassName], others: Sequence[str]) -> dict[str, ClassName]:
    """The classes of all patients: of `others` by C-NMC's names ('H49' is HEM, '57' ALL), if all `known` keep to these."""
    named = {patient: by_name(patient) for patient in (*known, *others)}
    if not known or any(named[patient] != label for patient, label in known.items()):
        return dict(known)
    return named


def by_name(patient: str) -> ClassName:
    """What a patient's name says in C-NMC."""
    return "hem" if patient.startswith("H") else "all"


def _circumstances(found: RunProvenance) -> dict[str, str]:
    return {
        "trained": f"{found.created}, in {format_duration(found.seconds)}",
        "on": f"{found.device}, {found.precision}",
        "first weights": found.weights,
        "cells": f"{found.training_cells:,} training, {len(found.validation):,} validation",
        "left out": f"{found.duplicates:,} duplicates, {len(found.refused):,} refused files",
    }


def _record(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(path, "no such file in the run") from error
    except ValidationError as error:
        raise DataError(path, "; ".join(problems(error))) from error


def read_run_uncertainty(folder: Path) -> Uncertainty | None:
    """What FOLDER/uncertainty.json says, where there is one. Raises `DataError`."""
    from blastscope.train.uncertainty import FILE, read_uncertainty

    path = folder / FILE
    return read_uncertainty(path).uncertainty if path.is_file() else None


def _tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"can't be read as safetensors: {error}") from error


def _floats(tensors: Mapping[str, NDArray[np.float32]], name: str) -> NDArray[np.float64] | None:
    return tensors[name].astype(np.float64) if name in tensors else None


def _probabilities(path: Path, tensors: Mapping[str, NDArray[np.float32]], cells: int) -> NDArray[np.float32]:
    found = tensors.get("probabilities")
    if found is None or found.shape != (cells, len(VOTERS), len(CLASSES)):
        shape = "nothing" if found is None else found.shape
        raise DataError(path, f"holds probabilities of shape {shape}, run.json names {cells} validation cells")
    return found.astype(np.float32)


def render_training_report(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole page as HTML."""
    key_figures = [(name, getattr(report.scores[VOTE], key)) for key, name in FIGURES[:4]] if report.scores else []
    return render_template(
        "training.html",
        title=report.title,
        report=report,
        plots={picture.name: picture.svg for picture in pictures},
        figures=[(name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", "") for name, one in key_figures],
        classes=ROWS,
        scores=FIGURES,
        names={subject: NAMES[subject] for subject in SUBJECTS},
        subjects=[("", ""), *((NAMES[subject], "") for subject in SUBJECTS)],
        parts=[
            *(_part("training", report.training) if report.provenance.patients.training else ()),
            *_part("validation", report.validation),
        ],
        config=json.dumps(report.provenance.config, indent=2, ensure_ascii=False, default=str),
    )


def _part(name: str, part: Part) -> list[tuple[str, str, tuple[str, ...]]]:
    """One row per class: the part's name in the first, the class, who is in it."""
    groups = [("ALL", part.all), ("HEM", part.hem), ("not known", part.unknown)]
    filled = [(label, names) for label, names in groups if names] or [("", ())]
    return [("" if place else name, label, names) for place, (label, names) in enumerate(filled)]


FIGURES = (
    ("weighted_f1", "weighted F1"),
    ("auroc", "AUROC"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("accuracy", "accuracy"),
)


def render_table(report: Report) -> Group:
    """Both tables and the report's notes, for `rich.print`."""
    notes = [Text(f"! {note}", style="yellow") for note in report.notes]
    if not report.scores:
        return Group(*notes)
    patients, cells = len(report.scores[VOTE].patients), report.scores[VOTE].cells
    return Group(
        *notes,
        Text(f"{cells:,} validation cells of {patients} patients", style="bold"),
        _table1_text(report),
        Text("with 95 % intervals by bootstrap over patients", style="bold"),
        _intervals_text(report),
    )


def _table1_text(report: Report) -> Table:
    table = Table("", "class", "precision", "recall", "F1", "support", box=SIMPLE_HEAD)
    for subject in SUBJECTS:
        for place, (key, name) in enumerate(ROWS):
            row: ClassScores = getattr(report.scores[subject].table1, key)
            figures = [f"{value:.3f}" for value in (row.precision, row.recall, row.f1)]
            table.add_row("" if place else NAMES[subject], name, *figures, f"{row.support:,}", end_section=key == "weighted")
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _intervals_text(report: Report) -> Table:
    table = Table("", *(NAMES[subject] for subject in SUBJECTS), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, name in FIGURES:
        found: list[Interval] = [getattr(report.scores[subject], key) for subject in SUBJECTS]
        table.add_row(name, *(f"{one.value:.3f}\n{one.low:.3f} to {one.high:.3f}" for one in found))
    return table
