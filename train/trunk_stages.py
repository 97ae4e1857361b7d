"""The two stages on a frozen trunk: A and B each on its bag, then the combined model on all cells, on cached features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from blastscope.runtime.types import VOTERS, Voter
from blastscope.train.bagging import Bag, plain_bag, sampling_probabilities
from blastscope.train.config import ScheduleConfig, TrainConfig, TrunkConfig
from blastscope.train.data_loader import TrainingBatches, ValidationBatches, seed_of
from blastscope.train.fit_checkpoint import FitCheckpoint
from blastscope.train.stages import FeatureTable, Job, trunk_features
from blastscope.train.trainer import Task, fit
from blastscope.train.trunk import LEAST_DEVIATION, Head, Novelty, TrunkEnsemble, TrunkStatistics, make_trunk_ensemble


class _Cells(NamedTuple):
    """What sampling needs to know of each row of a feature table.

    Attributes
    ----------
    table : FeatureTable
        The features, of N cells.
    labels : (N,) int64 array
        0 hem, 1 all.
    people : (N,) str array
        Whose cells they are.
    sizes : (N,) float64 array
        Side, in pixels, of the square with the area of the cell's box.
    """

    table: FeatureTable
    labels: NDArray[np.int64]
    people: NDArray[np.str_]
    sizes: NDArray[np.float64]


def start_ensemble(config: TrainConfig) -> tuple[TrunkEnsemble, str]:
    """The ensemble before training, and a sentence on where its backbone's weights come from.

    Parameters
    ----------
    config : TrainConfig
        With a section `trunk`. Its seed decides the initial weights.

    Returns
    -------
    TrunkEnsemble, str

    Raises
    ------
    ConfigError
        As `make_trunk_ensemble`.
    """
    torch.manual_seed(seed_of(config.seed, len(VOTERS)))
    return make_trunk_ensemble(config)


class HeldOut(NamedTuple):
    """What the ensemble says of the N validation cells.

    Attributes
    ----------
    probabilities : (N, 3, 2) float32 array
        Of each voter and class.
    novelty : (N,) float32 array
        Distance from the training cells, about 1 for one of them.
    size_px : (N,) float32 array
        Side in pixels of the square that has the area of the cell's box.
    lightness : (N,) float32 array
        Mean gray level of the cell's pixels, 0 to 255.
    """

    probabilities: NDArray[np.float32]  # (N, 3, 2)
    novelty: NDArray[np.float32]  # (N,)
    size_px: NDArray[np.float32]  # (N,) side of a square of the box's area
    lightness: NDArray[np.float32]  # (N,) mean gray level of the cell


def train_on_trunk(job: Job, ensemble: TrunkEnsemble) -> HeldOut:
    """Trains the three heads, measures the training cells for `novelty`, and judges the validation cells.

    Heads that the run's folder holds finished are not trained again.

    Parameters
    ----------
    job : Job
        Cells, split, bags, configuration, folder and machine of the run.
    ensemble : TrunkEnsemble
        As `start_ensemble` gives it. It is trained in place.

    Returns
    -------
    HeldOut
        Of the validation cells, in the order of `job.split.validation`.
    """
    config = job.config.trunk
    assert config is not None
    ensemble.to(job.machine.device)
    table = trunk_features(job.store, ensemble.trunk, job.config, job.cache, job.progress)
    copies = 1 + config.augmented_copies
    cells = _Cells(
        table,
        np.tile(job.store.labels, copies),
        np.tile(np.array([cell.person for cell in job.store.cells]), copies),
        np.tile(job.store.sizes_px, copies),
    )
    bags: dict[Voter, Bag] = {
        "a": _rows(job.bags.a, len(job.store.cells), config, [*job.seed("a"), 5]),
        "b": _rows(job.bags.b, len(job.store.cells), config, [*job.seed("b"), 5]),
        "combined": plain_bag(job.split.training),
    }
    with _one_thread():
        for voter, bag in bags.items():
            _fit_head(job, voter, ensemble.head(voter), cells, bag)
    chance = _chances(cells, plain_bag(job.split.training), job.config.stage2, config)
    fit_novelty(ensemble.novelty, table, job.split.training, chance)
    return _judge(ensemble.cpu().eval(), table, job.store.sizes_px, job.split.validation)


@torch.inference_mode()
def _judge(ensemble: TrunkEnsemble, table: FeatureTable, sizes_px: NDArray[np.float64], rows: NDArray[np.int64]) -> HeldOut:
    statistics = TrunkStatistics(torch.from_numpy(table.features[rows]), torch.from_numpy(table.shape[rows]))
    probabilities = ensemble.logits(statistics.features).softmax(dim=2)
    novelty = ensemble.novelty(statistics).numpy()
    return HeldOut(probabilities.numpy(), novelty, sizes_px[rows].astype(np.float32), table.lightness[rows])


@contextmanager
def _one_thread() -> Iterator[None]:
    """The heads' operators are so small that threads wait for each other longer than they work: up to ten times, measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rows(bag: Bag, cells: int, config: TrunkConfig, seed: list[int]) -> Bag:
    """The bag in rows of the feature table: its augmented images are rows of a copy, drawn for each image."""
    copy = np.random.default_rng(seed).integers(1, config.augmented_copies + 1, size=len(bag))
    return plain_bag(np.where(bag.augmented, copy * cells + bag.cells, bag.cells))


def _chances(cells: _Cells, bag: Bag, stage: ScheduleConfig, config: TrunkConfig) -> NDArray[np.float64]:
    found = sampling_probabilities(bag, cells.labels, cells.people, stage, sizes=cells.sizes, match_sizes=config.match_sizes)
    return np.full(len(bag), 1 / len(bag)) if found is None else found


def _fit_head(job: Job, voter: Voter, head: Head, cells: _Cells, bag: Bag) -> None:
    config, stage = job.config.trunk, job.config.stage2 if voter == "combined" else job.config.stage1
    assert config is not None
    features = cells.table.features[:, : len(head.mean)]
    files = FitCheckpoint(job.run / voter)
    torch.manual_seed(seed_of(*job.seed(voter)))
    head.reset()
    chance = _chances(cells, bag, stage, config)
    if not files.finished:
        head.standardise(*(torch.from_numpy(value) for value in moments(features[bag.cells], chance)))
    training = TrainingBatches(
        features,
        cells.labels,
        bag,
        stage.batch_size,
        job.seed(voter),
        chance=chance,
        images_per_epoch=stage.images_per_epoch,
        nuisance=cells.table.lightness if config.stain_penalty else None,
        share=(job.machine.global_rank, job.machine.world_size),
    )
    validation = ValidationBatches(features, cells.labels, job.split.validation, stage.batch_size)
    fit(head, Task(voter, stage, training, validation, files, config.stain_penalty), job.machine, job.progress)
    if stage.all_logit_shift:
        with torch.no_grad():
            head.bias[1] += stage.all_logit_shift


def moments(features: NDArray[np.float32], chance: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each feature, with a weight for each cell.

    Parameters
    ----------
    features : (M, F) float32 array
        A row for each cell.
    chance : (M,) float64 array
        How likely each cell is drawn, summing to 1.

    Returns
    -------
    (F,) float32 array, (F,) float32 array
    """
    mean = chance @ features
    deviation = np.sqrt(chance @ np.square(features - mean.astype(np.float32)))
    return mean.astype(np.float32), deviation.astype(np.float32)


def fit_novelty(novelty: Novelty, table: FeatureTable, rows: NDArray[np.int64], chance: NDArray[np.float64]) -> None:
    """Sets the directions and the spread by which `novelty` measures distances.

    Parameters
    ----------
    novelty : Novelty
        Is written to.
    table : FeatureTable
        Features of all cells.
    rows : (M,) int64 array
        The training cells' rows of the table.
    chance : (M,) float64 array
        How likely each is drawn, summing to 1.

    Raises
    ------
    ValueError
        `novelty` has more directions than features.
    """
    count = len(novelty.mean)
    features = table.features[rows, :count]
    mean, deviation = moments(features, chance)
    standard = (features - mean) / np.maximum(deviation, LEAST_DEVIATION)
    covariance = (standard * chance[:, None].astype(np.float32)).T @ standard
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    kept = novelty.directions.shape[1]
    if kept > count:
        raise ValueError(f"{kept} directions of {count} features")
    vectors, values = vectors[:, ::-1][:, :kept], values[::-1][:kept]
    directions = vectors / np.sqrt(np.maximum(values, LEAST_DEVIATION)) / np.maximum(deviation, LEAST_DEVIATION)[:, None]
    shape_mean, shape_deviation = moments(table.shape[rows], chance)
    novelty.mean.copy_(torch.from_numpy(mean))
    novelty.directions.copy_(torch.from_numpy(directions.astype(np.float32)))
    novelty.shape_mean.copy_(torch.from_numpy(shape_mean))
    novelty.shape_scale.copy_(torch.from_numpy(1 / np.maximum(shape_deviation, LEAST_DEVIATION)))
