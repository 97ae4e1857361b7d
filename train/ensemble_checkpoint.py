"""The trained ensemble on disk: RUN/ensemble.safetensors with its provenance, RUN/run.json."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from blastscope.runtime.bundle.manifest import Digest, Patients, TrainingProvenance
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.people import person_of
from blastscope.runtime.io.strict_model import StrictModel, problems
from blastscope.runtime.types import ClassName
from blastscope.train.config import TrainConfig
from blastscope.train.data_loader import seed_of
from blastscope.train.fit_checkpoint import EpochRow, read_tensors, write_tensors
from blastscope.train.network import Ensemble, make_ensemble
from blastscope.train.trunk import TrunkEnsemble, make_trunk_ensemble

AnyEnsemble = Ensemble | TrunkEnsemble

LIBRARIES = ("blastscope", "torch", "timm", "numpy", "opencv-python-headless", "safetensors", "lightning-fabric")
RANDOM = "random weights: the calls mean nothing"


class ValidationCell(StrictModel):
    """A validation cell, in the order of RUN/validation.safetensors.

    Attributes
    ----------
    file : str
        The cell's file, from the data folder on, with forward slashes.
    label : ClassName
        Its class.
    patient : str
        Whose cell it is.
    person : str or None
        One id for all ids of the same person; None in runs of earlier versions.
    """

    file: str
    label: ClassName
    patient: str
    person: str | None = None

    @property
    def whose(self) -> str:
        """The person, by `TWIN_PATIENTS` where the run doesn't say."""
        return self.person or person_of(self.patient)


class RunProvenance(StrictModel):
    """The content of RUN/run.json: how a run was trained.

    Attributes
    ----------
    state : {'running', 'finished'}
        Whether the training is over.
    created : str
        UTC, ISO 8601.
    data_sha256 : str or None
        Digest of the data folder; None for random weights.
    split : {'patient', 'image', 'none'}
        What the parts were split by.
    seed : int
        The same seed gives the same result.
    patients : Patients
        Who is in which part.
    training_cells : int
        How many cells trained.
    validation : tuple of ValidationCell
        The cells that judged, in order.
    duplicates : int
        Byte-identical files that were dropped.
    refused : tuple of (str, str)
        Files left out, with the reason.
    weights : str
        Where the backbones' first weights come from.
    versions : mapping of str to str
        Libraries and their versions.
    device : str
        What it ran on.
    precision : str
        Number type of the training.
    seconds : float
        Seconds of training, over all sittings.
    notes : tuple of str
        What a reader of the scores must know.
    config : TrainConfig
        The configuration, as the TOML file gave it.
    """

    state: Literal["running", "finished"]
    created: str
    data_sha256: Digest | None
    split: Literal["patient", "image", "none"]
    seed: int
    patients: Patients
    training_cells: int
    validation: tuple[ValidationCell, ...]
    duplicates: int
    refused: tuple[tuple[str, str], ...]
    weights: str
    versions: dict[str, str]
    device: str
    precision: str
    seconds: float
    notes: tuple[str, ...]
    config: TrainConfig

    def for_manifest(self) -> TrainingProvenance:
        """The `training` entry of a bundle's manifest."""
        return TrainingProvenance(
            data_sha256=self.data_sha256,
            split=self.split,
            seed=self.seed,
            config=self.config.model_dump(mode="json"),
            versions=self.versions,
            patients=self.patients,
        )


class RunHistory(StrictModel):
    """RUN/history.json: the epochs of each network.

    Attributes
    ----------
    a : tuple of EpochRow
        Model A's.
    b : tuple of EpochRow
        Model B's.
    combined : tuple of EpochRow
        The combined model's.
    """

    a: tuple[EpochRow, ...] = ()
    b: tuple[EpochRow, ...] = ()
    combined: tuple[EpochRow, ...] = ()


@dataclass(frozen=True)
class TrainedEnsemble:
    """An ensemble in eval mode, its configuration, and where it comes from.

    Attributes
    ----------
    ensemble : AnyEnsemble
        The networks, in eval mode.
    config : TrainConfig
        The configuration, as the TOML file gave it.
    provenance : RunProvenance
        Where it comes from.
    """

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
    """The content of RUN/run.json. Raises `DataError`."""
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


def training_versions() -> Mapping[str, str]:
    """What trained: Python and the libraries that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def random_ensemble(config: TrainConfig, crops: NDArray[np.uint8]) -> TrainedEnsemble:
    """An ensemble of `config`'s shape with random weights, the same for the same seed.

    Every batch-norm's running statistics are set on `crops` (N, S, S, 3), N at least 2: with the initial ones activations would
    grow or vanish layer by layer, which no trained network does, and int8 ranges would be nonsense.
    """
    if len(crops) < 2:
        raise ValueError("batch-norm statistics need two crops at least")
    torch.manual_seed(seed_of(config.seed))
    bare = config.model_copy(update={"network": config.network.model_copy(update={"weights": "none"})})
    ensemble = empty_ensemble(bare)
    set_batch_norm_statistics(ensemble, crops, config.compute.batch)
    provenance = RunProvenance(
        state="finished",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_sha256=None,
        split="none",
        seed=config.seed,
        patients=Patients(training=(), validation=()),
        training_cells=0,
        validation=(),
        duplicates=0,
        refused=(),
        weights="random",
        versions=dict(training_versions()),
        device="cpu",
        precision="32-true",
        seconds=0.0,
        notes=(RANDOM,),
        config=bare,
    )
    return TrainedEnsemble(ensemble.eval(), bare, provenance)


@torch.inference_mode()
def set_batch_norm_statistics(ensemble: AnyEnsemble, crops: NDArray[np.uint8], batch: int) -> None:
    """Replaces the running statistics of every batch-norm by the means over crops.

    It takes two passes: the head's statistics are of features as backbones in eval mode give them.

    Parameters
    ----------
    ensemble : Ensemble or TrunkEnsemble
        Is changed in place.
    crops : (N, S, S, 3) uint8 array
        Cells on black, RGB.
    batch : int
        Crops in a pass.
    """
    ensemble.eval()
    backbones: list[nn.modules.batchnorm._BatchNorm] = []
    head: list[nn.modules.batchnorm._BatchNorm] = []
    for name, module in ensemble.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            (head if name.startswith("head.") else backbones).append(module)
    for group in (backbones, head):
        for module in group:
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
            module.train()
        parts = max(1, len(crops) // max(2, batch))  # no part of one crop, which has no spread
        for part in np.array_split(crops, parts):
            ensemble(torch.from_numpy(np.ascontiguousarray(part)))
        for module in group:
            module.momentum = 0.1
            module.eval()
