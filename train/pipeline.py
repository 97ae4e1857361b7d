"""`train_ensemble`: a folder of cells in, a run folder out.

RUN/run.json                 where it comes from; "running" until all is done
RUN/a/ b/ combined/          the fitting of each network (train/fit_checkpoint.py)
RUN/history.json             losses, accuracies and rates of every epoch
RUN/ensemble.safetensors     the three voters as one network
RUN/validation.safetensors   probabilities (N, 3, 2) of the validation cells, in the order of run.json; with [trunk] novelty
RUN/uncertainty.json         what held-out people say of the answers (train/uncertainty.py), where there are enough of them
RUN/report/                  the page and its figures
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from blastscope.runtime.errors import DataError, MissingLibrary, UsageError
from blastscope.runtime.io.atomic import check_place
from blastscope.runtime.io.cnmc import Dataset, scan_dataset
from blastscope.runtime.io.own_files import exclusive_lock
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from torch import Tensor

    from blastscope.train.ensemble_checkpoint import AnyEnsemble, RunHistory, RunProvenance
    from blastscope.train.network import VoterNetwork
    from blastscope.train.progress import TrainingProgress
    from blastscope.train.stages import Job
    from blastscope.train.trunk import TrunkEnsemble
    from blastscope.train.uncertainty import MeasuredUncertainty

    # the untrained network and some crops (N, S, S, 3) in, a sentence out
    Rehearsal = Callable[[TrunkEnsemble | VoterNetwork, NDArray[np.uint8]], str]

REQUIRED_LIBRARIES = {"torch": "torch", "timm": "timm", "safetensors": "safetensors", "lightning_fabric": "lightning-fabric"}
REHEARSAL_CROPS = 2  # crops


def train_ensemble(
    data: Path,
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    uncertainty: Path | None = None,
    report: bool = True,
    console: Console | None = None,
    rehearse: Rehearsal | None = None,
) -> Path:
    """Trains A, B and the combined model, and writes the report.

    Parameters
    ----------
    data : Path
        Folder of C-NMC cells.
    config : TrainConfig
        The recipe.
    out : Path
        The run's folder.
    resume : bool
        Goes on after the last whole epoch, with the result that an uninterrupted run would have had.
    cache : Path, optional
        Where crops are kept; by default the user's cache.
    uncertainty : Path, optional
        uncertainty.json of a cross validation by the same recipe on the same cells, for a run that holds nobody out. Without
        it a run with enough validation people measures its own.
    report : bool
        Measures the uncertainty and writes the report, where people are held out.
    console : rich.console.Console, optional
        Gets the progress.
    rehearse : callable, optional
        Is asked of the untrained network when a run begins; what it says is told first.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    DataError
        The data can't be used, `out` has files when not resuming or is of another run when resuming, or is being trained.
    ConfigError
        The network can't be had as `config` says.
    """
    _check_libraries()
    out = Path(out)
    if uncertainty and config.data.split != "none":
        raise UsageError("this run holds people out and measures its own uncertainty: another's goes with split = 'none'")
    check_run_folder(out, resume=resume)
    folder = scan_dataset(data)
    from blastscope.train.data_loader import cache_crops  # and PyTorch, once the folders are known to serve
    from blastscope.train.progress import TrainingProgress
    from blastscope.train.split import split_dataset
    from blastscope.train.stages import Job
    from blastscope.train.trainer import make_fabric

    with TrainingProgress(console) as progress:
        check_same_run(out, config, folder)
        given = _read_fitting(Path(uncertainty), config, folder) if uncertainty else None
        start = _start(out, config)
        check_place(out / "run.json")  # before the crops, which take minutes
        cache_dir = Path(cache or default_cache_dir())
        store = cache_crops(folder, config.crop, cache_dir, workers=config.compute.workers, progress=progress.crops)
        machine = make_fabric(config.compute)
        progress.console.quiet |= not machine.is_global_zero
        split = split_dataset(data, store.cells, config.data)
        job = Job(config, store, split, out, machine, progress, cache_dir)
        out.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(out / ".lock", wait=False) if machine.is_global_zero else nullcontext():
            if rehearse is not None and machine.is_global_zero and not (out / "run.json").is_file():
                progress.say(rehearse(start[0], store.crops[:REHEARSAL_CROPS]))
            _train(job, folder, start, given)
            if report and machine.is_global_zero:
                _finish(job)
            machine.barrier()
    return out


def _finish(job: Job) -> None:
    """Measures the uncertainty where nobody else did, and writes the report, where people are held out."""
    from blastscope.train.uncertainty import FILE, TOO_FEW, write_uncertainty

    if not len(job.split.validation):
        return
    if not (job.run / FILE).is_file() and write_uncertainty(job.run, [job.run]) is None:
        job.progress.say(TOO_FEW)
    _report(job.run, job.progress)


def _check_libraries() -> None:
    for module, library in REQUIRED_LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingLibrary(library, "train")


def _read_fitting(uncertainty: Path, config: TrainConfig, folder: Dataset) -> MeasuredUncertainty:
    from blastscope.train.uncertainty import read_uncertainty

    given = read_uncertainty(uncertainty)
    if not given.fits(config, folder.sha256):
        raise DataError(uncertainty, "was measured by another recipe or on other cells: cross-validate this one first")
    return given


def _start(run: Path, config: TrainConfig) -> tuple[TrunkEnsemble | VoterNetwork, str]:
    """What the training starts from, and where its weights come from; none are fetched for what is trained already."""
    from blastscope.train.ensemble_checkpoint import read_provenance
    from blastscope.train.fit_checkpoint import FitCheckpoint
    from blastscope.train.stages import start_voter
    from blastscope.train.trunk_stages import start_ensemble

    finished = (run / "run.json").is_file() and read_provenance(run).state == "finished"
    if finished or (not config.trunk and all(FitCheckpoint(run / voter).finished for voter in ("a", "b"))):
        config = config.model_copy(update={"network": config.network.model_copy(update={"weights": "none"})})
    return start_ensemble(config) if config.trunk else start_voter(config)


def _train(
    job: Job, folder: Dataset, start: tuple[TrunkEnsemble | VoterNetwork, str], uncertainty: MeasuredUncertainty | None
) -> None:
    """Both stages, and everything of the run folder but the report and the uncertainty that the run itself measures."""
    from blastscope.train.ensemble_checkpoint import TrainedEnsemble, read_provenance, save_ensemble, write_record
    from blastscope.train.fit_checkpoint import delete_unfinished_files, write_tensors
    from blastscope.train.uncertainty import FILE as UNCERTAINTY_FILE

    network, origin = start
    writes = job.machine.is_global_zero
    if writes:
        delete_unfinished_files(job.run)
    if (job.run / "run.json").is_file():
        provenance = read_provenance(job.run)
        validating = sorted(set(job.store.patients[job.split.validation].tolist()))
        if provenance.split == "patient" and validating != list(provenance.patients.validation):
            raise DataError(
                job.run, "can't go on: it was split by patient ids that are one person, and now these stay together; begin anew"
            )
    else:
        provenance = initial_provenance(job, folder, origin)
        if writes:
            write_record(job.run / "run.json", provenance)
    if writes and uncertainty:  # before the work: a run that is resumed needn't be given it again
        write_record(job.run / UNCERTAINTY_FILE, uncertainty)
    log_dataset(provenance, job.progress)
    if provenance.state == "finished":
        job.progress.say("this run is finished already")
        return
    ensemble, held_out = _fit_all(job, network)
    if writes:
        write_tensors(job.run / "validation.safetensors", held_out)
        history = read_history(job.run)
        write_record(job.run / "history.json", history)
        seconds = sum(row.seconds for rows in (history.a, history.b, history.combined) for row in rows)
        finished = provenance.model_copy(update={"state": "finished", "seconds": round(seconds, 1)})
        save_ensemble(job.run, TrainedEnsemble(ensemble.cpu(), job.config, finished))


def _fit_all(job: Job, start: TrunkEnsemble | VoterNetwork) -> tuple[AnyEnsemble, dict[str, Tensor]]:
    """The trained ensemble, and what it says of the validation cells."""
    import torch

    from blastscope.train.stages import probabilities, train_combined, train_voters
    from blastscope.train.trunk import TrunkEnsemble
    from blastscope.train.trunk_stages import train_on_trunk

    if isinstance(start, TrunkEnsemble):
        judged = train_on_trunk(job, start)
        return start, {name: torch.from_numpy(values) for name, values in judged._asdict().items()}
    a, b = train_voters(job, start)
    ensemble = train_combined(job, a, b).cpu()
    return ensemble, {"probabilities": torch.from_numpy(probabilities(job, ensemble, job.split.validation))}


def read_history(run: Path) -> RunHistory:
    """The epochs of the three finished networks."""
    from blastscope.train.ensemble_checkpoint import RunHistory
    from blastscope.train.fit_checkpoint import FitCheckpoint

    return RunHistory(**{name: FitCheckpoint(run / name).history() for name in ("a", "b", "combined")})


def _report(run: Path, progress: TrainingProgress) -> None:
    from blastscope.train.report import write_report

    write_report(run)
    progress.say(f"report: {run / 'report' / 'index.html'}")


def check_is_run(run: Path, verb: str = "train") -> None:
    """Raises `DataError` where `run` isn't the folder of a run of `verb`. What lies in it is not read."""
    if not (run / "run.json").is_file():
        raise DataError(run, f"no run.json: not the folder of a run of '{verb}'")


def check_run_folder(out: Path, *, resume: bool) -> None:
    """Raises `DataError` unless `out` is empty or not there yet, or to be resumed."""
    try:
        os.fspath(out).encode()
    except UnicodeEncodeError as error:
        raise DataError(out, "its name is not UTF-8, and safetensors opens no other: name another folder") from error
    if out.exists() and not out.is_dir():
        raise DataError(out, "is a file: a run needs a folder")
    # a hidden file is a write of run.json that was cut off
    if not out.is_dir() or not any(not path.name.startswith(".") for path in out.iterdir()):
        return
    if not resume:
        raise DataError(out, "is not empty: go on with --resume, or name another folder")
    if not (out / "run.json").is_file():
        raise DataError(out, "has files and no run.json: not a run to go on with")


def check_same_run(out: Path, config: TrainConfig, folder: Dataset) -> None:
    """Raises `DataError`, which says what differs, unless the run in `out` is of this configuration and these cells."""
    from blastscope.train.ensemble_checkpoint import read_provenance

    if not (out / "run.json").is_file():
        return
    before = read_provenance(out)
    differing = list(config_differences(before.config, config))
    if before.data_sha256 != folder.sha256:
        differing.append(f"the data: digest {before.data_sha256} then, {folder.sha256} now")
    if differing:
        raise DataError(out, f"can't go on, this differs from the run: {'; '.join(differing)}")


def config_differences(before: StrictModel, now: StrictModel, *, prefix: str = "") -> list[str]:
    """Each field that differs, by its name in the TOML file. How many devices and threads work is left out."""
    found = []
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(now, name)
        if isinstance(old, StrictModel):
            found += config_differences(old, new, prefix=f"{prefix}{name}.")
        elif old != new and f"{prefix}{name}" not in ("compute.devices", "compute.workers"):
            found.append(f"{prefix}{name} was {old!r}, is {new!r}")
    return found


def initial_provenance(job: Job, folder: Dataset, origin: str) -> RunProvenance:
    """What is known before the first step."""
    from blastscope.runtime.bundle.manifest import Patients
    from blastscope.train.ensemble_checkpoint import RunProvenance, ValidationCell, training_versions
    from blastscope.train.trainer import describe_device

    cells, patients = job.store.cells, job.store.patients

    validation = [cells[row] for row in job.split.validation]
    return RunProvenance(
        state="running",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_sha256=folder.sha256,
        split=job.config.data.split,
        seed=job.config.seed,
        patients=Patients(
            training=tuple(sorted(set(patients[job.split.training].tolist()))),
            validation=tuple(sorted(set(patients[job.split.validation].tolist()))),
        ),
        training_cells=len(job.split.training),
        validation=tuple(
            ValidationCell(
                file=relative_name(cell.path, folder.root), label=cell.label, patient=cell.patient, person=cell.person
            )
            for cell in validation
        ),
        duplicates=len(folder.duplicates),
        refused=tuple((relative_name(path, folder.root), reason) for path, reason in (*folder.rejected, *job.store.refused)),
        weights=origin,
        versions=dict(training_versions()),
        device=describe_device(job.machine),
        precision=str(job.machine.strategy.precision.precision),
        seconds=0.0,
        notes=(
            *job.split.notes,
            *_copy_notes(job, folder),
            *((f"backbone weights: {origin}",) if origin.startswith("random:") else ()),
        ),
        config=job.config,
    )


def _copy_notes(job: Job, folder: Dataset) -> list[str]:
    """What is said of ids under which the same cell seems to stand, and that nobody joined."""
    from blastscope.train.near_copies import compare_cells, ids_to_join

    compared = compare_cells(folder, job.cache, job.progress)
    return [
        f"patients {one} and {other} seem to share {count} cell{'s' if count > 1 else ''} (correlation up to {highest:.2f}): "
        "if they are one person, the scores are too high; see `blastscope find-copies`"
        for one, other, count, highest in ids_to_join(compared.store.cells, compared.copies)
    ]


def relative_name(path: Path, root: Path) -> str:
    """`path` from `root`, with forward slashes. Bytes that are no UTF-8 become escapes, since JSON holds text alone."""
    return os.fsencode(path.relative_to(root).as_posix()).decode(errors="backslashreplace")


def log_dataset(provenance: RunProvenance, progress: TrainingProgress) -> None:
    """What goes in and what was left out, by name."""
    progress.say(
        f"{provenance.training_cells} cells of {len(provenance.patients.training)} patients train, "
        f"{len(provenance.validation)} of {len(provenance.patients.validation)} validate; "
        f"{provenance.duplicates} duplicates dropped"
    )
    for file, reason in provenance.refused:
        progress.say(f"left out: {file}: {reason}")
    for note in provenance.notes:
        progress.say(f"note: {note}")
