"""Writes RUN/report, file by file, the page last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from blastscope.runtime.bundle.uncertainty import Uncertainty
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import StrictModel, problems
from blastscope.runtime.types import CLASSES, VOTERS, ClassName
from blastscope.train.config import ScheduleConfig
from blastscope.train.fit_checkpoint import EpochRow, monitored_value
from blastscope.train.report.data import Comparison, Report, ReportInput, assess
from blastscope.train.report.plots import draw_pictures
from blastscope.train.report.template import render_training_report

if TYPE_CHECKING:
    from blastscope.train.ensemble_checkpoint import RunProvenance

R = TypeVar("R", bound=StrictModel)


def write_report(run: Path) -> Path:
    """Writes RUN/report (index.html, report.json, pictures as PNG and SVG) of the finished run `run`; returns the folder.

    RUN/comparison.json (`Comparison`), where there is one, becomes a section. Raises `DataError` where a file of the run is
    missing or doesn't fit the others, and `MissingLibrary` without matplotlib.
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


def read_comparison(folder: Path) -> Comparison | None:
    """What FOLDER/comparison.json says of other recipes, where there is one. Raises `DataError`."""
    path = folder / "comparison.json"
    return _record(path, Comparison) if path.is_file() else None


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
    minutes = found.seconds / 60
    return {
        "trained": f"{found.created}, in {minutes:.1f} minutes"
        if minutes < 120
        else f"{found.created}, in {minutes / 60:.1f} hours",
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
