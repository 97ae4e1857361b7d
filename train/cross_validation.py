"""`cross_validate`: trains the ensemble once a fold, so that each patient is scored by networks that never saw it.

OUT/fold-1 fold-2 ...        whole runs (train/pipeline.py), the part that they hold out being one fold of the patients
OUT/uncertainty.json         temperature, prediction sets and so on (train/uncertainty.py), by the held-out people of all folds
OUT/report/                  the page and its figures, over all patients
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.train.config import TrainConfig
from blastscope.train.pipeline import train_ensemble
from blastscope.train.split import split_dataset

if TYPE_CHECKING:
    from rich.console import Console

    from blastscope.train.pipeline import Rehearsal
    from blastscope.train.report import ReportInput


def cross_validate(
    data: Path,
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    console: Console | None = None,
    rehearse: Rehearsal | None = None,
) -> Path:
    """Trains an ensemble for each fold, on the cells of all other folds.

    OUT/report then holds the scores of all cells, each from the ensemble that was trained without its patient.

    Parameters
    ----------
    data : Path
        Folder of C-NMC cells.
    config : TrainConfig
        The recipe; `config.data.folds` is the number of folds.
    out : Path
        Gets a run for each fold, and the report.
    resume : bool
        Whether to go on where it was interrupted.
    cache : Path, optional
        Where crops are kept; by default the user's cache.
    console : rich.console.Console, optional
        Gets the progress.
    rehearse : callable, optional
        As in `train_ensemble`.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UsageError
        The configuration isn't split by patient.
    DataError, ConfigError
        As `train_ensemble`.
    """
    if config.data.split == "image":
        raise UsageError("cross validation is over patients: split = 'image' would leave cells of each on both sides")
    out = Path(out)
    runs = [fold_run(out, fold) for fold in range(config.data.folds)]
    if out.is_dir() and any(out.iterdir()) and not (resume and runs[0].is_dir()):
        raise DataError(out, "is not empty: go on with --resume, or name another folder")
    parts = [config.data.model_copy(update={"split": "patient", "fold": fold}) for fold in range(config.data.folds)]
    cells = scan_dataset(data).cells
    for part in parts:  # a fold that can't be filled is known before the first is trained
        split_dataset(data, cells, part)
    for run, part in zip(runs, parts, strict=True):
        one = config.model_copy(update={"data": part})
        train_ensemble(data, one, run, resume=resume and run.is_dir(), cache=cache, console=console, rehearse=rehearse)
        rehearse = None  # the other folds' networks are alike
    from blastscope.train.uncertainty import write_uncertainty

    write_uncertainty(out, runs)
    write_pooled(runs, out)
    return out


def fold_run(out: Path, fold: int) -> Path:
    """The run that holds out the fold `fold`, counted from 0."""
    return out / f"fold-{fold + 1}"


def write_pooled(runs: Sequence[Path], out: Path) -> None:
    """Writes OUT/report over the held-out cells of all `runs`; OUT/comparison.json, where there is one, becomes a section."""
    from blastscope.train.report import write_folder
    from blastscope.train.report.writer import read_comparison, read_run, read_run_uncertainty

    whole = replace(
        pool_folds([read_run(run) for run in runs]), comparison=read_comparison(out), uncertainty=read_run_uncertainty(out)
    )
    write_folder(whole, out / "report")


def pool_folds(folds: Sequence[ReportInput]) -> ReportInput:
    """The held-out cells of all `folds` as one. Raises `UsageError` where a patient was held out twice or never."""
    from blastscope.runtime.bundle.manifest import Patients
    from blastscope.train.report import ReportInput

    held_out = [name for fold in folds for name in fold.provenance.patients.validation]
    everybody = {name for fold in folds for name in fold.provenance.patients.training}
    if sorted(held_out) != sorted(everybody):
        raise UsageError("the runs aren't the folds of one cross validation: each patient must be held out once")
    first = folds[0]
    parts = "; ".join(
        f"{number}: {', '.join(sorted(fold.provenance.patients.validation))}" for number, fold in enumerate(folds, 1)
    )
    config = TrainConfig.model_validate(first.provenance.config)
    config = config.model_copy(update={"data": config.data.model_copy(update={"fold": None})})
    patients = Patients(training=(), validation=tuple(sorted(held_out)))
    return ReportInput(
        title=f"{first.title}, cross validation over {len(folds)} folds of patients",
        labels=np.concatenate([fold.labels for fold in folds]),
        patients=tuple(name for fold in folds for name in fold.patients),
        people=tuple(name for fold in folds for name in fold.people),
        files=tuple(name for fold in folds for name in fold.files),
        probabilities=np.concatenate([fold.probabilities for fold in folds]),
        history=first.history,
        kept=first.kept,
        provenance=first.provenance.model_copy(update={"patients": patients, "config": config.model_dump(mode="json")}),
        patient_classes={name: label for fold in folds for name, label in fold.patient_classes.items()},
        sizes=_concatenate([fold.sizes for fold in folds]),
        lightness=_concatenate([fold.lightness for fold in folds]),
        circumstances={
            **{f"fold {n}": fold.circumstances["trained"] for n, fold in enumerate(folds, 1)},
            "folds": parts,
        },
        notes=(
            f"{len(folds)} ensembles were trained; each cell is scored by the one that saw no cell of its patient",
            "the curves are those of fold 1",
        ),
    )


def _concatenate(parts: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:
    return np.concatenate([part for part in parts if part is not None]) if all(part is not None for part in parts) else None
