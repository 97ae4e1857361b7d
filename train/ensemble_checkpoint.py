"""The trained ensemble on disk: RUN/ensemble.safetensors with its provenance, RUN/run.json."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from torch import Tensor

from blastscope.runtime.bundle.manifest import Digest, Patients
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import StrictModel, problems
from blastscope.runtime.types import ClassName
from blastscope.train.config import TrainConfig
from blastscope.train.fit_checkpoint import read_tensors, write_tensors
from blastscope.train.network import Ensemble, make_ensemble
from blastscope.train.schedule import EpochRow
from blastscope.train.trunk import TrunkEnsemble, make_trunk_ensemble

AnyEnsemble = Ensemble | TrunkEnsemble

LIBRARIES = ("blastscope", "torch", "timm", "numpy", "opencv-python-headless", "safetensors", "lightning-fabric")


class ValidationCell(StrictModel):
    """A validation cell, in the order of RUN/validation.safetensors."""

    file: str  # from the data folder, with forward slashes
    label: ClassName
    patient: str


class RunProvenance(StrictModel):
    """RUN/run.json."""

    state: Literal["running", "finished"]
    created: str  # UTC, ISO 8601
    data_sha256: Digest | None  # None: no data, random weights
    split: Literal["patient", "image", "none"]
    seed: int
    patients: Patients
    training_cells: int
    validation: tuple[ValidationCell, ...]
    duplicates: int  # byte-identical files that were dropped
    refused: tuple[tuple[str, str], ...]  # files left out, with the reason
    weights: str  # where the backbones' first weights come from
    versions: dict[str, str]
    device: str
    precision: str
    seconds: float  # of training, over all sittings
    notes: tuple[str, ...]  # what a reader of the scores must know
    config: TrainConfig


class RunHistory(StrictModel):
    """RUN/history.json: the epochs of each network."""

    a: tuple[EpochRow, ...] = ()
    b: tuple[EpochRow, ...] = ()
    combined: tuple[EpochRow, ...] = ()


@dataclass(frozen=True)
class TrainedEnsemble:
    """An ensemble in eval mode, its configuration, and where it comes from."""

    ensemble: AnyEnsemble
    config: TrainConfig
    provenance: RunProvenance


def load_ensemble(run: Path | str) -> TrainedEnsemble:
    """The trained ensemble in the folder `run`. Raises `DataError` where it isn't whole."""
    run = Path(run)
    provenance = read_provenance(run)
    if provenance.state != "finished":
        raise DataError(run, "the training isn't finished: go on with --resume")
    tensors, header = read_tensors(run / "ensemble.safetensors")
    if TrainConfig.model_validate_json(header.get("config", "{}")) != provenance.config:
        raise DataError(run, "ensemble.safetensors and run.json are of different runs")
    if (strange := next((name for name, tensor in tensors.items() if _is_not_finite(tensor)), None)) is not None:
        problem = (
            f"'{strange}' holds what is not a number: the training diverged, train anew with a smaller lr or with clip_norm"
        )
        raise DataError(run / "ensemble.safetensors", problem)
    ensemble = empty_ensemble(provenance.config)
    try:
        ensemble.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(run / "ensemble.safetensors", f"doesn't fit the network of run.json: {error}") from error
    return TrainedEnsemble(ensemble.eval(), provenance.config, provenance)


def _is_not_finite(tensor: Tensor) -> bool:
    """Holds NaN, or an infinite number beside others than zeros, which would be a mask."""
    finite = tensor.isfinite()
    return not finite.all() and bool(tensor.isnan().any() or tensor[finite].any())


def empty_ensemble(config: TrainConfig) -> AnyEnsemble:
    """An ensemble of `config`'s shape with random weights: what a checkpoint is loaded into."""
    if config.trunk is None:
        return make_ensemble(config)
    bare = config.network.model_copy(update={"weights": "none"})
    return make_trunk_ensemble(config.model_copy(update={"network": bare}))[0]


def save_ensemble(run: Path, trained: TrainedEnsemble) -> None:
    """Writes both files; run.json last, since it says that the other is whole."""
    header = {"config": trained.config.model_dump_json()}
    write_tensors(run / "ensemble.safetensors", trained.ensemble.state_dict(), header)
    write_record(run / "run.json", trained.provenance)


def read_provenance(run: Path) -> RunProvenance:
    """RUN/run.json. Raises `DataError`."""
    path = run / "run.json"
    try:
        return RunProvenance.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(run, "no run.json: not the folder of a training run") from error
    except ValidationError as error:
        raise DataError(path, "; ".join(problems(error))) from error


def write_record(path: Path, record: StrictModel) -> None:
    """The record as JSON for people and programs, at once or not at all."""
    write_content(path, record.model_dump_json(indent=1) + "\n")


def installed_versions() -> Mapping[str, str]:
    """What trained: Python and the libraries that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
