"""Splits cells into training and validation: whole persons, stratified by class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import DatasetEntry
from blastscope.runtime.types import CLASSES
from blastscope.train.config import DataConfig

LEAKAGE = (
    "split by image: cells of one patient stand on both sides, so every validation score is too high; "
    "use split = 'patient' for scores that mean something"
)


class LeakageWarning(UserWarning):
    """The split is by image, so that cells of one patient may be in both parts."""


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of the cells of each part, ascending.

    Attributes
    ----------
    training, validation : int64 array
        Rows of the cells that were split.
    notes : tuple of str
        What a reader of the scores must know.
    """

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    notes: tuple[str, ...] = ()


def split_cells(cells: Sequence[DatasetEntry], config: DataConfig) -> Split:
    """The training and the validation part of cells; the same for the same cells and configuration.

    By patient, all cells of a person are in one part, and so are all ids of that person.

    Parameters
    ----------
    cells : sequence of DatasetEntry
        As `scan_dataset` gives them.
    config : DataConfig
        How to split, which share or fold to hold out, and the seed.

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        A class has fewer than two people, or too few for the folds.

    Warns
    -----
    LeakageWarning
        The split is by image.
    """
    labels = np.array([CLASSES.index(cell.label) for cell in cells])
    rng = np.random.default_rng([config.seed, 1])
    if config.split == "none":
        return Split(np.arange(len(cells)), np.empty(0, np.int64), ("trained on every patient: there is no validation part",))
    if config.split == "image":
        warnings.warn(LEAKAGE, LeakageWarning, stacklevel=2)
        chosen = [rows for label in np.unique(labels) for rows in _share(np.flatnonzero(labels == label), config, rng)]
        return _parts(np.isin(np.arange(len(cells)), chosen), LEAKAGE)
    patients = np.array([cell.person for cell in cells])  # two ids of one person are one patient
    validating: list[str] = []
    for label in range(len(CLASSES)):
        names, counts = np.unique(patients[labels == label], return_counts=True)
        if len(names) < 2:
            raise ValueError(f"a split by patient needs two patients of class '{CLASSES[label]}', the data has {len(names)}")
        if config.fold is None:
            picked = nearest_subset(counts.tolist(), config.validation_share, rng)
        else:
            picked = _fold(counts, config, rng)
        validating += [str(names[index]) for index in picked]
    return _parts(np.isin(patients, validating))


def split_dataset(folder: Path, cells: Sequence[DatasetEntry], config: DataConfig) -> Split:
    """The same, of the cells of a folder, which the error names: `DataError` instead of `ValueError`."""
    try:
        return split_cells(cells, config)
    except ValueError as error:
        raise DataError(folder, str(error)) from error


def _share(rows: NDArray[np.int64], config: DataConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.permutation(rows)[: round(len(rows) * config.validation_share)]


def _parts(validates: NDArray[np.bool_], *notes: str) -> Split:
    return Split(np.flatnonzero(~validates), np.flatnonzero(validates), notes)


def nearest_subset(counts: Sequence[int], share: float, rng: np.random.Generator) -> list[int]:
    """The patients to hold out so that their cells come as near to a share of all cells as whole patients can.

    At least one patient is left on each side. Of equally near choices the one is taken whose number of patients is nearest to
    the share, and `rng` picks which patients. Counts how many patients reach which sum, exactly: bit s of `reach[i][k]` says
    that k of the first i patients can have s cells.

    Parameters
    ----------
    counts : sequence of int
        Cells of each patient; at least two patients.
    share : float
        The share of all cells that is wanted, 0 to 1.
    rng : numpy.random.Generator
        Decides between equally good choices.

    Returns
    -------
    list of int
        Positions in `counts`, ascending.
    """
    order = rng.permutation(len(counts))
    reach = [[1] + [0] * len(counts)]
    for index in order:
        before = reach[-1]
        reach.append([before[0]] + [before[k] | (before[k - 1] << int(counts[index])) for k in range(1, len(counts) + 1)])
    target, wanted = share * sum(counts), share * len(counts)
    sums = [(abs(cells - target), abs(k - wanted), k, cells) for k in range(1, len(counts)) for cells in _bits(reach[-1][k])]
    _, _, k, cells = min(sums)
    picked = []
    for step in range(len(counts), 0, -1):
        if not reach[step - 1][k] >> cells & 1:  # this sum can't be had without this patient
            picked.append(int(order[step - 1]))
            k, cells = k - 1, cells - int(counts[order[step - 1]])
    return sorted(picked)


def _bits(number: int) -> list[int]:
    return [place for place, digit in enumerate(reversed(bin(number)[2:])) if digit == "1"]


def _fold(counts: NDArray[np.int64], config: DataConfig, rng: np.random.Generator) -> list[int]:
    """The patients of the folds that validate: largest first, each to the fold with fewest cells that still has room."""
    room = -(-len(counts) // config.folds)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order], kind="stable")]
    folds: list[list[int]] = [[] for _ in range(config.folds)]
    for index in order:
        open_folds = [fold for fold in folds if len(fold) < room]
        min(open_folds, key=lambda fold: (sum(int(counts[i]) for i in fold), len(fold))).append(int(index))
    picked = [folds[fold] for fold in config.validating_folds]
    if not all(picked):
        raise ValueError(f"{len(counts)} patients of a class do not fill {config.folds} folds")
    return sorted(index for fold in picked for index in fold)
