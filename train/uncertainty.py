"""Temperature, prediction sets, novelty limit and smear model, from what ensembles say of people they were not trained on.

Every figure that is told (calibration error, coverage, share refused, people right) is cross-fitted: of each tenth of the
people with what the other nine tenths gave. Each person of a class weighs alike, and so do the classes, however many cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from blastscope.runtime.bundle.manifest import Digest
from blastscope.runtime.bundle.uncertainty import NoveltyLimit, PredictionSets, SmearModel, Uncertainty
from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.evaluation.metrics import score_calls
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.strict_model import StrictModel, problems
from blastscope.runtime.types import CLASSES
from blastscope.train.config import ComputeConfig, DataConfig, TrainConfig
from blastscope.train.ensemble_checkpoint import read_provenance, write_record
from blastscope.train.fit_checkpoint import read_tensors

LEVEL = 0.9  # of the prediction sets
QUANTILE = 0.975  # of held-out cells that novelty may not refuse
FILE = "uncertainty.json"
LEAST_PEOPLE = 4  # of each class: a spread between persons can't be had from fewer
LEAST_CELLS = 10  # of a person: random tens of a held-out person's cells were called right in 95 of 100 draws, fives in 94
TOO_FEW = f"note: no {FILE}: it takes {LEAST_PEOPLE} held-out people of each class at least"
FOLDS = 10
BINS = 10

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutCells:
    """Cells judged by networks that saw no cell of their person. Row i of each array is cell i.

    Attributes
    ----------
    probabilities : (N, 3, 2) float32 array
        Of each voter and class, with temperature 1.
    labels : (N,) int64 array
        0 hem, 1 all.
    people : (N,) array of str
        The person of each cell.
    novelty : (N,) float32 array, or None
        None where the networks don't measure it.
    """

    probabilities: NDArray[np.float32]  # (N, 3, 2), with temperature 1
    labels: NDArray[np.int64]  # (N,)
    people: NDArray[np.str_]  # (N,)
    novelty: NDArray[np.float32] | None = None  # (N,)


class MeasuredUncertainty(StrictModel):
    """The content of uncertainty.json: the figures, and the recipe and cells that they were measured with.

    Attributes
    ----------
    uncertainty : Uncertainty
        The figures.
    data_sha256 : str
        Digest of the data folder, in hex.
    config : TrainConfig
        The recipe. Its `data` is of one fold where several were put together.
    """

    uncertainty: Uncertainty
    data_sha256: Digest
    config: TrainConfig

    def fits(self, config: TrainConfig, data_sha256: str) -> bool:
        """Whether it was measured by the recipe `config` on the same cells, however they were split, on any machine."""
        plain = {"data": DataConfig(), "compute": ComputeConfig()}
        same = self.config.model_copy(update=plain) == config.model_copy(update=plain)
        return same and self.data_sha256 == data_sha256


def held_out_cells(runs: Sequence[Path]) -> HeldOutCells:
    """The validation cells of finished runs, put together.

    Parameters
    ----------
    runs : sequence of Path
        The runs' folders, such as the folds of a cross validation.

    Returns
    -------
    HeldOutCells

    Raises
    ------
    DataError
        A run isn't finished, or its files don't belong together.
    """
    parts, labels, people = [], [], []
    for run in runs:
        cells = read_provenance(run).validation
        tensors, _ = read_tensors(run / "validation.safetensors")
        parts.append({name: tensor.numpy() for name, tensor in tensors.items()})
        labels += [CLASSES.index(cell.label) for cell in cells]
        people += [cell.whose for cell in cells]
        if len(parts[-1]["probabilities"]) != len(cells):
            raise DataError(run / "validation.safetensors", "holds other cells than run.json names")
    novelty = np.concatenate([part["novelty"] for part in parts]) if all("novelty" in part for part in parts) else None
    probabilities = np.concatenate([part["probabilities"] for part in parts])
    return HeldOutCells(probabilities, np.array(labels, np.int64), np.array(people, np.str_), novelty)


def write_uncertainty(folder: Path, runs: Sequence[Path]) -> Uncertainty | None:
    """Writes uncertainty.json: what the held-out people of runs show.

    Parameters
    ----------
    folder : Path
        Where the file goes.
    runs : sequence of Path
        Folders of finished runs; the recipe is that of the first.

    Returns
    -------
    Uncertainty or None
        None, and no file, where too few people were held out.

    Raises
    ------
    DataError
        A run isn't finished, or its files don't belong together.
    """
    first = read_provenance(runs[0])
    try:
        measured = measure_uncertainty(held_out_cells(runs))
    except UsageError:
        return None
    assert first.data_sha256 is not None
    write_record(folder / FILE, MeasuredUncertainty(uncertainty=measured, data_sha256=first.data_sha256, config=first.config))
    return measured


def read_uncertainty(path: Path) -> MeasuredUncertainty:
    """The content of a file that `write_uncertainty` wrote.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    MeasuredUncertainty

    Raises
    ------
    DataError
        The file can't be read, or is no such record.
    """
    try:
        return MeasuredUncertainty.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(path, f"can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(path, "; ".join(problems(error))) from error


class _Weighed(NamedTuple):
    """N held-out cells with their weights."""

    margins: NDArray[np.float64]  # (N,) of the deciding voter
    labels: NDArray[np.int64]  # (N,) 0 hem, 1 all
    weights: NDArray[np.float64]  # (N,) persons alike within a class, classes alike, summing to 1
    people: NDArray[np.str_]  # (N,)

    def at(self, rows: Rows) -> _Weighed:
        weights = self.weights[rows]
        for label in (0, 1):  # classes alike again
            mine = self.labels[rows] == label
            weights[mine] /= 2 * weights[mine].sum()
        return _Weighed(self.margins[rows], self.labels[rows], weights, self.people[rows])


def measure_uncertainty(cells: HeldOutCells) -> Uncertainty:
    """Temperature, prediction sets, novelty limit, smear model and scores, from cells of people who were held out.

    Parameters
    ----------
    cells : HeldOutCells
        At least four people of each class.

    Returns
    -------
    Uncertainty

    Raises
    ------
    UsageError
        There are fewer people of a class.
    """
    weighed = _weigh(cells)
    counts = [len(np.unique(cells.people[cells.labels == label])) for label in (0, 1)]
    if min(counts) < LEAST_PEOPLE:
        raise UsageError(
            f"{counts[0]} HEM and {counts[1]} ALL people were held out: uncertainty needs {LEAST_PEOPLE} of each class at least"
        )
    parts = _parts(cells, counts)
    temperature = fit_temperature(weighed)
    scores = _cross_fitted(parts, lambda others, rows: _score(weighed.margins[rows] / fit_temperature(weighed.at(others))))
    votes = vote(cells.probabilities)
    told = score_calls(cells.labels, votes.label, votes.score, cells.people.tolist())
    return Uncertainty(
        weighted_f1=told.weighted_f1,
        auroc=told.auroc,
        sensitivity=told.sensitivity,
        specificity=told.specificity,
        temperature=temperature,
        calibration_error=calibration_error(scores, weighed.labels, weighed.weights),
        sets=_sets(weighed, scores, _score(weighed.margins / temperature), parts),
        novelty=None if cells.novelty is None else _novelty(weighed, cells.novelty.astype(np.float64), parts),
        smear=_smear(weighed, weighed.margins / temperature, parts),
        cells=len(cells.labels),
        hem_people=counts[0],
        all_people=counts[1],
    )


def _weigh(cells: HeldOutCells) -> _Weighed:
    votes = vote(cells.probabilities)
    pairs = np.maximum(cells.probabilities[np.arange(len(votes.voter)), votes.voter], 1e-30).astype(np.float64)
    weights = np.zeros(len(cells.labels))
    for label in np.unique(cells.labels):
        mine = cells.labels == label
        _, whose, counts = np.unique(cells.people[mine], return_inverse=True, return_counts=True)
        weights[mine] = 1 / counts[whose] / len(counts) / 2
    return _Weighed(np.log(pairs[:, 1] / pairs[:, 0]), cells.labels, weights, cells.people)


def _parts(cells: HeldOutCells, counts: Sequence[int]) -> list[Rows]:
    """Rows of each tenth of the people, both classes in each."""
    folds, rng = min(FOLDS, *counts), np.random.default_rng(0)
    part = np.empty(len(cells.labels), np.int64)
    for label in (0, 1):
        mine = cells.labels == label
        names, whose = np.unique(cells.people[mine], return_inverse=True)
        part[mine] = (rng.permutation(len(names)) % folds)[whose]
    return [np.flatnonzero(part == number) for number in range(folds)]


def _cross_fitted(parts: Sequence[Rows], judge: Callable[[Rows, Rows], NDArray[np.float64]]) -> NDArray[np.float64]:
    """`judge(others, rows)` for each part, put together."""
    found = np.empty(sum(map(len, parts)))
    for rows in parts:
        others = np.concatenate([other for other in parts if other is not rows])
        found[rows] = judge(others, rows)
    return found


def fit_temperature(cells: _Weighed) -> float:
    """The temperature with the least weighted cross entropy: what margins are to be divided by. Between 0.05 and 20."""
    margins, labels, weights = (torch.from_numpy(values) for values in (cells.margins, cells.labels, cells.weights))
    signed = margins * (2 * labels - 1)
    log_inverse = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([log_inverse], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = (weights * torch.nn.functional.softplus(-signed * log_inverse.exp())).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return float((-log_inverse).exp().clamp(0.05, 20).detach())


def _score(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1 / (1 + np.exp(-margins.clip(-700, 700)))
    return found


def calibration_error(scores: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """The expected calibration error, over ten bins of equal width.

    Parameters
    ----------
    scores : (N,) float64 array
        Probabilities of ALL.
    labels : (N,) int64 array
        0 hem, 1 all.
    weights : (N,) float64 array
        How much each cell counts.

    Returns
    -------
    float
        0 to 1.
    """
    bins = (scores * BINS).astype(np.int64).clip(0, BINS - 1)
    gaps = np.bincount(bins, weights * (labels - scores), BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _sets(cells: _Weighed, crossed: NDArray[np.float64], scores: NDArray[np.float64], parts: Sequence[Rows]) -> PredictionSets:
    held = {}
    for label, name in enumerate(("hem", "all")):
        own = scores if label else 1 - scores  # calibrated probability of the true class
        own_crossed = crossed if label else 1 - crossed
        mine = cells.labels == label

        def reached(
            others: Rows, rows: Rows, own: NDArray[np.float64] = own_crossed, label: int = label
        ) -> NDArray[np.float64]:
            return (own[rows] >= _threshold(cells.at(others), own[others], label)).astype(np.float64)

        covered = _cross_fitted(parts, reached)
        held[name] = _threshold(cells, own, label)
        held[f"{name}_coverage"] = float((covered * cells.weights)[mine].sum() / cells.weights[mine].sum())
    both = (1 - scores >= held["hem"]) & (scores >= held["all"])
    return PredictionSets(level=LEVEL, both=float((both * cells.weights).sum()), **held)


def _threshold(cells: _Weighed, own: NDArray[np.float64], label: int) -> float:
    """The largest threshold that enough cells of `label` reach: persons are exchangeable, and the next is one of P + 1."""
    mine = cells.labels == label
    people = len(np.unique(cells.people[mine]))
    wanted = min(1.0, LEVEL * (people + 1) / people)
    order = np.argsort(-own[mine])
    reached = np.cumsum(cells.weights[mine][order]) / cells.weights[mine].sum()
    place = min(int(np.searchsorted(reached, wanted - 1e-9)), len(order) - 1)
    return float(own[mine][order[place]])


def _novelty(cells: _Weighed, novelty: NDArray[np.float64], parts: Sequence[Rows]) -> NoveltyLimit:
    def limit(rows: Rows) -> float:
        order = rows[np.argsort(novelty[rows])]
        below = np.cumsum(cells.weights[order]) / cells.weights[order].sum()
        return float(novelty[order[min(int(np.searchsorted(below, QUANTILE)), len(order) - 1)]])

    above = _cross_fitted(parts, lambda others, rows: (novelty[rows] > limit(others)).astype(np.float64))
    refused = float((above * cells.weights).sum())
    return NoveltyLimit(limit=limit(np.arange(len(novelty))), quantile=QUANTILE, refused=refused)


def _smear(cells: _Weighed, margins: NDArray[np.float64], parts: Sequence[Rows]) -> SmearModel | None:
    every = _people(cells, margins, np.arange(len(margins)))
    right = 0
    for rows in parts:
        others = _people(cells, margins, np.setdiff1d(np.arange(len(margins)), rows))
        fitted = _fit_smear(others, 0)
        if fitted is None:
            return None
        for label, mean, count, _ in _people(cells, margins, rows):
            right += (fitted.probability(mean, count) >= 0.5) == bool(label)
    return _fit_smear(every, right)


class _Person(NamedTuple):
    """The margins of one held-out person."""

    label: int  # 0 hem, 1 all
    mean: float  # of the margins
    cells: int
    squares: float  # sum of squared distances of its cells' margins from its mean


def _people(cells: _Weighed, margins: NDArray[np.float64], rows: Rows) -> list[_Person]:
    found = []
    for name in np.unique(cells.people[rows]):
        mine = rows[cells.people[rows] == name]
        mean = float(margins[mine].mean())
        found.append(_Person(int(cells.labels[mine[0]]), mean, len(mine), float(np.square(margins[mine] - mean).sum())))
    return found


def _fit_smear(people: Sequence[_Person], right: int) -> SmearModel | None:
    """None where persons of ALL don't lie above those of HEM: such networks can't call a person."""
    within = sum(person.squares for person in people) / max(1, sum(person.cells - 1 for person in people))
    means = [float(np.mean([person.mean for person in people if person.label == label])) for label in (0, 1)]
    if means[1] <= means[0]:
        return None
    between = sum((person.mean - means[person.label]) ** 2 for person in people) / (len(people) - 2)
    noise = float(np.mean([within / person.cells for person in people]))  # of the means themselves
    return SmearModel(
        hem_mean=means[0],
        all_mean=means[1],
        person_deviation=float(np.sqrt(max(between - noise, within / 100))),
        cell_deviation=float(np.sqrt(max(within, 1e-6))),
        least_cells=LEAST_CELLS,
        people=len(people),
        right=right,
    )
