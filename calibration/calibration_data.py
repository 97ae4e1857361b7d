"""Calibration cells and gate cells: disjoint, both from validation patients."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import TrainingProvenance
from blastscope.runtime.crop import Crop, CropSpecification
from blastscope.runtime.crop.reference import crop_dataset
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import Dataset, DatasetEntry
from blastscope.runtime.types import CLASSES, ClassName

logger = logging.getLogger(__name__)

READERS = 4


@dataclass(frozen=True, slots=True)
class CroppedCells:
    """Cells with their crops.

    Attributes
    ----------
    cells : tuple of DatasetEntry
        The N cells.
    crops : (N, S, S, 3) uint8 array
        RGB.
    refused : tuple of (DatasetEntry, str)
        Those that the crop refused, with the reason.
    """

    cells: tuple[DatasetEntry, ...]
    crops: NDArray[np.uint8]
    refused: tuple[tuple[DatasetEntry, str], ...]


def log_dataset_mismatch(folder: Dataset, trained_on: str | None) -> None:
    """Logs where `folder` isn't the one with the digest `trained_on`: cells and patients are then known by name alone."""
    if trained_on and folder.sha256 != trained_on:
        logger.info(
            "'%s' isn't what was trained on, by its digest: patients and cells are taken for those of that name", folder.root
        )


def validation_cells(folder: Dataset, training: TrainingProvenance) -> tuple[DatasetEntry, ...]:
    """The cells of `folder` of validation patients, none of whose other ids is in the training part.

    Raises `DataError` where there are none, and where patients of the training part would have to judge: after a split by
    image, or none.
    """
    if training.split != "patient":
        raise DataError(
            folder.root,
            f"the ensemble was trained with split = '{training.split}', so no patient is in the validation part alone: "
            "calibration and gate need a bundle trained with split = 'patient'",
        )
    trained = folder.people_of(training.patients.training)
    cells = tuple(cell for cell in folder.cells if cell.patient in training.patients.validation and cell.person not in trained)
    missing = [label for label in CLASSES if not any(cell.label == label for cell in cells)]
    if missing:
        raise DataError(folder.root, f"no cells of class {', '.join(missing)} of the bundle's validation patients are here")
    return cells


def named_cells(
    cells: Sequence[DatasetEntry], names: Sequence[str], folder: Dataset, training: TrainingProvenance
) -> tuple[DatasetEntry, ...]:
    """The validation `cells` whose file names are `names`. Raises `DataError`, which names those that can't calibrate."""
    people = folder.people_of(training.patients.training)
    by_name = {cell.path.name: cell for cell in folder.cells}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise DataError(folder.root, f"calibration cells that are not here: {_listed(unknown)}")
    trained = [name for name in names if by_name[name].person in people]
    if trained:
        raise DataError(folder.root, f"cells of training patients can't calibrate: {_listed(trained)}")
    known = {cell.path.name: cell for cell in cells}
    strangers = [name for name in names if name not in known]
    if strangers:
        raise DataError(folder.root, f"cells of patients that the bundle doesn't know can't calibrate: {_listed(strangers)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def choose_calibration_cells(cells: Sequence[DatasetEntry], count: int, seed: int) -> tuple[DatasetEntry, ...]:
    """Draws cells so that both classes, and within a class all patients, have as equal parts as can be.

    Parameters
    ----------
    cells : sequence of DatasetEntry
        In any order: it changes nothing.
    count : int
        How many are drawn; of fewer cells all are taken.
    seed : int
        Of the draw.

    Returns
    -------
    tuple of DatasetEntry
    """
    rng = np.random.default_rng([seed, 5])
    queues: dict[ClassName, list[list[DatasetEntry]]] = {}
    for label in CLASSES:
        by_patient: dict[str, list[DatasetEntry]] = defaultdict(list)
        for cell in sorted((cell for cell in cells if cell.label == label), key=lambda cell: cell.sha256):
            by_patient[cell.patient].append(cell)
        groups = [by_patient[name] for name in sorted(by_patient)]
        shuffled = [[group[index] for index in rng.permutation(len(group))] for group in groups]
        queues[label] = [shuffled[index] for index in rng.permutation(len(shuffled))]
    in_turn = {label: list(_round_robin(groups)) for label, groups in queues.items()}
    return tuple(islice(_round_robin(list(in_turn.values())), count))


def _round_robin(groups: Sequence[Sequence[DatasetEntry]]) -> Iterator[DatasetEntry]:
    """The first of each group, then the second of each, and so on."""
    for place in range(max(map(len, groups), default=0)):
        yield from (group[place] for group in groups if place < len(group))


def crop_cells(cells: Sequence[DatasetEntry], spec: CropSpecification) -> CroppedCells:
    """The crops of `cells`, in their order."""
    kept: list[DatasetEntry] = []
    crops: list[NDArray[np.uint8]] = []
    refused: list[tuple[DatasetEntry, str]] = []
    for cell, result in crop_dataset(cells, spec, workers=READERS):
        if isinstance(result, Crop):
            kept.append(cell)
            crops.append(result.pixels)
        else:
            refused.append((cell, f"{result.code}: {result.detail}"))
    shape = (0, spec.side_px, spec.side_px, 3)
    return CroppedCells(tuple(kept), np.stack(crops) if crops else np.empty(shape, np.uint8), tuple(refused))


def drop_rows(sample: CroppedCells, refused: Sequence[tuple[int, str]]) -> CroppedCells:
    """`sample` less the rows in `refused`, which are named in it instead."""
    rows = {row for row, _ in refused}
    kept = [row for row in range(len(sample.cells)) if row not in rows]
    named = tuple((sample.cells[row], reason) for row, reason in refused)
    return CroppedCells(tuple(sample.cells[row] for row in kept), sample.crops[kept], (*sample.refused, *named))


def merge_cells(one: CroppedCells, other: CroppedCells) -> CroppedCells:
    """Two sets of cropped cells as one."""
    crops = np.concatenate([one.crops, other.crops])
    return CroppedCells((*one.cells, *other.cells), crops, (*one.refused, *other.refused))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
