"""The two stages (sections 2.3 and 2.4): A and B each on its bag, then the combined model on the features of both."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.atomic import clear_abandoned_files
from blastscope.runtime.io.own_files import exclusive_lock
from blastscope.runtime.io.temporary_file import sibling
from blastscope.runtime.types import VOTERS, Voter
from blastscope.train.augment import augment, draw_augmentations
from blastscope.train.bagging import Bag, Bags, make_bags, plain_bag, sampling_probabilities
from blastscope.train.config import ScheduleConfig, TrainConfig
from blastscope.train.data_loader import CropStore, Inputs, TrainingBatches, ValidationBatches, seed_of
from blastscope.train.fit_checkpoint import FitCheckpoint, Tensors, read_tensors, write_tensors
from blastscope.train.network import CombinedHead, CombinedNetwork, Ensemble, VoterNetwork, make_voter
from blastscope.train.progress import TrainingProgress
from blastscope.train.split import Split
from blastscope.train.trainer import Task, check_frozen, fit
from blastscope.train.trunk import Trunk

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CACHE_VERSION = 1  # a change of what stands in the file must raise it


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """A row for each of the N cells of a crop store, then, for each augmented repeat, a row for each cell again.

    Attributes
    ----------
    features : ((1 + copies) N, F) float32 array
        As `trunk.Statistics` has them.
    shape : ((1 + copies) N, 2) float32 array
        As `trunk.Statistics` has it.
    lightness : ((1 + copies) N,) float32 array
        Mean gray level of the cell's pixels, 0 to 255.
    """

    features: NDArray[np.float32]  # ((1 + copies) N, F), as `trunk.Statistics` has them
    shape: NDArray[np.float32]  # ((1 + copies) N, 2)
    lightness: NDArray[np.float32]  # ((1 + copies) N,) mean gray level of the cell's pixels, 0 to 255


def trunk_features(
    store: CropStore, trunk: Trunk, config: TrainConfig, cache_dir: Path, progress: TrainingProgress
) -> FeatureTable:
    """The trunk's features of every cell, from the cache where they were computed before.

    The cache's key holds the cells, the crop, the weights of the trunk and the augmentation, so a stale file is never found.

    Parameters
    ----------
    store : CropStore
        The crops of the cells.
    trunk : Trunk
        What computes the features, on the device where it lies.
    config : TrainConfig
        With a section `trunk`.
    cache_dir : Path
        Where tables are kept; only this user may read them.
    progress : TrainingProgress
        Is told how far the work is.

    Returns
    -------
    FeatureTable
    """
    place = Path(cache_dir) / f"features-{_key(store, trunk, config)}.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned_files(place.parent, prefix="features-")
    tensors = _read(place)
    if tensors is None:
        with exclusive_lock(sibling(place, "lock"), wait=True):
            tensors = _read(place)  # another process may have been faster
            if tensors is None:
                tensors = _compute(store, trunk, config, progress)
                write_tensors(place, tensors, private=True)  # of patients' cells
    return FeatureTable(*(tensors[name].numpy() for name in ("features", "shape", "lightness")))


def _read(place: Path) -> Tensors | None:
    """What is cached; None where nothing is, or where it is damaged."""
    try:
        return read_tensors(place)[0] if place.is_file() else None
    except DataError:
        return None


def _key(store: CropStore, trunk: Trunk, config: TrainConfig) -> str:
    assert config.trunk is not None
    digest = hashlib.sha256(f"{CACHE_VERSION} {store.data_sha256} {config.crop.model_dump_json()} {config.seed}".encode())
    digest.update(f"{config.augment.model_dump_json()} {config.network.model_dump_json()}".encode())
    digest.update(f"{config.trunk.stages} {config.trunk.covariances} {config.trunk.augmented_copies}".encode())
    for name, tensor in trunk.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


@torch.inference_mode()
def _compute(store: CropStore, trunk: Trunk, config: TrainConfig, progress: TrainingProgress) -> Tensors:
    assert config.trunk is not None
    cells, batch, copies = len(store.cells), config.compute.batch, config.trunk.augmented_copies
    device = next(trunk.backbone.parameters()).device
    features, shapes, lightness = [], [], []
    for repeat in range(1 + copies):
        rng = np.random.default_rng([config.seed, 4, repeat])
        # drawn for all, also in the paper's mode, which says which images of a bag are augmented
        table = draw_augmentations(config.augment, np.ones(cells, np.bool_), rng) if repeat else None
        for start in range(0, cells, batch):
            crops = np.array(store.crops[start : start + batch])  # a repeat: PyTorch takes no read-only map
            if table is not None:
                crops = augment(crops, table[start : start + batch], rng)
            statistics = trunk(torch.from_numpy(crops).to(device))
            features.append(statistics.features.cpu())
            shapes.append(statistics.shape.cpu())
            lightness.append(torch.from_numpy(_lightness(crops)))
            progress.advance("features", repeat * cells + start + len(crops), (1 + copies) * cells)
    return {"features": torch.cat(features), "shape": torch.cat(shapes), "lightness": torch.cat(lightness)}


def _lightness(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    cell = crops.max(axis=3) > 0
    gray = crops.mean(axis=3, dtype=np.float32)
    found: NDArray[np.float32] = (gray.sum(axis=(1, 2)) / cell.sum(axis=(1, 2)).clip(min=1)).astype(np.float32)
    return found


COPIES = 1_000_003  # stands where an epoch's number stands in the seed of stage 2's cached copies


@dataclass(frozen=True)
class Job:
    """What every stage needs.

    Attributes
    ----------
    config : TrainConfig
        As the TOML file gave it.
    store : CropStore
        The crops of all cells.
    split : Split
        Which of them train and which validate.
    run : Path
        The run's folder.
    machine : Fabric
        The devices and processes of the training.
    progress : TrainingProgress
        Is told how far it is.
    cache : Path
        A folder for what other runs on the same cells can use again.
    """

    config: TrainConfig
    store: CropStore
    split: Split
    run: Path
    machine: Fabric
    progress: TrainingProgress
    cache: Path

    def seed(self, voter: Voter) -> tuple[int, int]:
        """Of everything random in one network's training."""
        return self.config.seed, VOTERS.index(voter)

    @property
    def bags(self) -> Bags:
        """Sets A and B of the training part."""
        rows, labels = self.split.training, self.store.labels[self.split.training]
        return make_bags(rows[labels == 0], rows[labels == 1], self.config.seed)


@dataclass(frozen=True)
class TrainingRows:
    """Inputs with the label and the patient of each row.

    Attributes
    ----------
    inputs : (N, S, S, 3) uint8 or (N, F) float32 array
        Crops or features of all cells.
    labels : (N,) int64 array
        Class indices.
    patients : (N,) array of str
        Whose cells they are.
    training : Bag
        The rows that train.
    validation : (V,) int64 array
        The rows that validate.
    """

    inputs: Inputs
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    training: Bag
    validation: NDArray[np.int64]


def train_voters(job: Job, start: VoterNetwork) -> tuple[VoterNetwork, VoterNetwork]:
    """Models A and B, each from the weights of `start`."""
    a, b = copy.deepcopy(start), copy.deepcopy(start)
    store = job.store
    parts: tuple[tuple[Voter, VoterNetwork, Bag], ...] = (("a", a, job.bags.a), ("b", b, job.bags.b))
    for voter, network, bag in parts:
        reset_layer(network.classify, job.seed(voter))
        _fit(job, voter, network, TrainingRows(store.crops, store.labels, store.patients, bag, job.split.validation))
        apply_logit_shift(network.classify, job.config.stage1)
    return a, b


def train_combined(job: Job, a: VoterNetwork, b: VoterNetwork) -> Ensemble:
    """The combined model on A's and B's features, which move only with `fine_tune`; it completes the ensemble."""
    torch.manual_seed(seed_of(*job.seed("combined")))
    stage = job.config.stage2
    head = CombinedHead(a.combined_features, stage)
    ensemble = Ensemble(a, b, head, fine_tuned=stage.fine_tune)
    if ensemble.tuned_a is not None and ensemble.tuned_b is not None:
        for tuned in (ensemble.tuned_a, ensemble.tuned_b):
            tuned.classify.requires_grad_(False)  # not used here, and several processes wait for every gradient
        bag = Bag(job.split.training, np.ones(len(job.split.training), np.bool_))
        rows = TrainingRows(job.store.crops, job.store.labels, job.store.patients, bag, job.split.validation)
        _fit(job, "combined", CombinedNetwork(ensemble.tuned_a, ensemble.tuned_b, head), rows)
    else:
        finished = FitCheckpoint(job.run / "combined").finished
        _fit(job, "combined", head, _empty_rows(job) if finished else feature_rows(job, a, b))
    last = head.layers[-1]
    assert isinstance(last, nn.Linear)
    apply_logit_shift(last, stage)
    return ensemble.eval()


def _fit(job: Job, voter: Voter, network: nn.Module, rows: TrainingRows) -> None:
    stage: ScheduleConfig = job.config.stage2 if voter == "combined" else job.config.stage1
    training = TrainingBatches(
        rows.inputs,
        rows.labels,
        rows.training,
        stage.batch_size,
        job.seed(voter),
        chance=sampling_probabilities(rows.training, rows.labels, rows.patients, stage),
        images_per_epoch=stage.images_per_epoch,
        augment=job.config.augment if rows.inputs is job.store.crops else None,
        share=(job.machine.global_rank, job.machine.world_size),
    )
    validation = ValidationBatches(rows.inputs, rows.labels, rows.validation, job.config.compute.batch)
    fit(network, Task(voter, stage, training, validation, FitCheckpoint(job.run / voter)), job.machine, job.progress)


def feature_rows(job: Job, a: VoterNetwork, b: VoterNetwork) -> TrainingRows:
    """Features of every cell as it is, then of the training cells' augmented copies, drawn once."""
    store, training = job.store, job.split.training
    parts = [extract_features(job, a, b, np.arange(len(store.cells)))]
    for number in range(job.config.stage2.augmented_copies):
        parts.append(extract_features(job, a, b, training, augmented=number))
        job.progress.say(f"combined: features of augmented copy {number + 1} of {job.config.stage2.augmented_copies}")
    copies = np.tile(training, len(parts) - 1)
    labels = np.concatenate([store.labels, store.labels[copies]])
    patients = np.concatenate([store.patients, store.patients[copies]])
    rows = np.concatenate([training, np.arange(len(store.cells), len(labels))])
    return TrainingRows(np.concatenate(parts), labels, patients, plain_bag(rows), job.split.validation)


def _empty_rows(job: Job) -> TrainingRows:
    """The rows of a network that is finished and only read."""
    empty = np.empty((len(job.store.cells), 0), np.float32)
    return TrainingRows(empty, job.store.labels, job.store.patients, plain_bag(job.split.training), job.split.validation)


@torch.inference_mode()
def extract_features(
    job: Job, a: VoterNetwork, b: VoterNetwork, rows: NDArray[np.int64], *, augmented: int | None = None
) -> NDArray[np.float32]:
    """What the combined model reads.

    Parameters
    ----------
    job : Job
        Crops, configuration and device.
    a, b : VoterNetwork
        The voters, trained.
    rows : (n,) int64 array
        Which cells.
    augmented : int, optional
        Number of the copy: the crops are augmented then.

    Returns
    -------
    (n, 2 F) float32 array
        A's features before B's.
    """
    device, batch = job.machine.device, job.config.compute.batch
    a.to(device).eval(), b.to(device).eval()
    rng, table = np.random.default_rng([*job.seed("combined"), COPIES + (augmented or 0)]), None
    if augmented is not None:
        table = draw_augmentations(job.config.augment, np.ones(len(rows), np.bool_), rng)
    found = []
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        crops = job.store.crops[rows[part]]
        crops = crops if table is None else augment(crops, table[part], rng)
        with job.machine.autocast():
            pixels = a.normalise(torch.from_numpy(crops).to(device))
            features = [network.forward_features(pixels).combined_features for network in (a, b)]
            found.append(torch.cat(features, dim=1).float().cpu().numpy())
    return np.concatenate(found)


@torch.inference_mode()
def probabilities(job: Job, ensemble: Ensemble, rows: NDArray[np.int64]) -> NDArray[np.float32]:  # (N, 3, 2)
    """What the three voters say of the cells `rows`, in fp32: these figures are kept."""
    ensemble.to(job.machine.device).eval()
    batches = ValidationBatches(job.store.crops, job.store.labels, rows, job.config.compute.batch)
    found = [ensemble(crops).softmax(dim=2).cpu().numpy() for crops, _ in batches.all(job.machine.device)]
    return np.concatenate(found) if found else np.empty((0, 3, 2), np.float32)


def start_voter(config: TrainConfig) -> tuple[VoterNetwork, str]:
    """The network that A and B start from, and where its weights come from. Raises `ConfigError` for layers it doesn't have."""
    torch.manual_seed(seed_of(config.seed, len(VOTERS)))
    voter, origin = make_voter(config)
    for section, stage in (("stage1", config.stage1), ("stage2", config.stage2)):
        check_frozen(voter, stage, section)
    if config.compute.channels_last:
        voter = voter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return voter, origin


def reset_layer(layer: nn.Linear, seed: tuple[int, ...]) -> None:
    """New weights for A's and B's own last layers, so that they differ from the start."""
    torch.manual_seed(seed_of(*seed))
    layer.reset_parameters()


def apply_logit_shift(layer: nn.Linear, stage: ScheduleConfig) -> None:
    """Adds the stage's shift to ALL's logit for good."""
    if stage.all_logit_shift:
        with torch.no_grad():
            layer.bias[1] += stage.all_logit_shift
