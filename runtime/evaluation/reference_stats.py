"""Medians and spreads of the training cells' features, measured once on C-NMC and shipped as `training_reference.json`.

    python -m blastscope.runtime.evaluation.reference_stats FOLDER

measures it again, on every cell below FOLDER, and writes it in its place.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blastscope.runtime.errors import DataError
from blastscope.runtime.frames.features import CellFeatures, cell_features
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.io.concurrency import ordered_map
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Refusal

SHIPPED = Path(__file__).with_name("training_reference.json")
TO_SIGMA = 1.4826  # a median of absolute deviations times this is a normal distribution's standard deviation
LEAST_CELLS = 30  # of a patient whose median is taken seriously
SLACK, LEAST_LIMIT = 1.25, 1.5  # a site's patient may differ by as much as one of the training's, and a quarter more


class Feature(StrictModel):
    """One figure of `CellFeatures` over all cells of the training.

    Attributes
    ----------
    median : float
        In the figure's own unit.
    spread : float
        Median absolute deviation, scaled to the standard deviation of a normal distribution.
    limit : float
        How many spreads a session's median may lie away.
    """

    median: float
    spread: float = Field(gt=0)  # robust: the median absolute deviation, scaled to a standard deviation
    limit: float = Field(gt=0)  # that a session's median may lie away, in spreads


class Reference(StrictModel):
    """How the cells of a training set look.

    Attributes
    ----------
    name : str
        Of the set.
    data_sha256 : str
        Digest of the cells, as in a bundle's training provenance.
    cells, patients : int
        How many.
    features : dict of str to Feature
        By the names of `CellFeatures`.
    """

    name: str
    data_sha256: str  # of the cells measured, as in a bundle's training provenance
    cells: int
    patients: int
    features: dict[str, Feature]


@cache
def shipped_reference() -> Reference:
    """The look of the cells of C-NMC's training set, which comes with the package.

    Returns
    -------
    Reference
    """
    return Reference.model_validate_json(SHIPPED.read_bytes())


def measure(cells: Iterable[DatasetEntry], *, name: str, data_sha256: str) -> Reference:
    """The look of labelled cells, as a reference.

    A limit is 1.25 times the largest shift of a single patient's median, and at least 1.5 spreads.

    Parameters
    ----------
    cells : iterable of DatasetEntry
        The cells of a training set.
    name : str
        What to call it.
    data_sha256 : str
        Its digest, as `scan_dataset` gives it.

    Returns
    -------
    Reference

    Raises
    ------
    DataError
        A cell can't be read.
    """
    cells = list(cells)
    figures = np.array([look for _, look in ordered_map(_look, cells, workers=usable_threads())], np.float64)  # (N, F)
    patients = np.array([cell.patient for cell in cells])
    medians, spreads = robust(figures)
    groups = [patients == patient for patient in np.unique(patients) if (patients == patient).sum() >= LEAST_CELLS]
    shifts = [np.abs((np.median(figures[group], axis=0) - medians) / spreads) for group in groups]
    limits = np.maximum(SLACK * np.max(shifts or [np.zeros(len(medians))], axis=0), LEAST_LIMIT)
    features = {
        field: Feature(median=round(float(median), 4), spread=round(float(spread), 4), limit=round(float(limit), 2))
        for field, median, spread, limit in zip(CellFeatures._fields, medians, spreads, limits, strict=True)
    }
    return Reference(name=name, data_sha256=data_sha256, cells=len(cells), patients=len(set(patients)), features=features)


def robust(figures: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The median of each column, and its median absolute deviation scaled to a standard deviation.

    Parameters
    ----------
    figures : (N, F) float64 array
        A row for each cell.

    Returns
    -------
    (F,) float64 array, (F,) float64 array
    """
    medians = np.median(figures, axis=0)
    return medians, np.asarray(TO_SIGMA * np.median(np.abs(figures - medians), axis=0), np.float64)


def _look(cell: DatasetEntry) -> CellFeatures:
    image = read_image(cell.path)
    look = None if isinstance(image, Refusal) else cell_features(image)
    if look is None:
        raise DataError(cell.path, image.detail if isinstance(image, Refusal) else "shows nothing but black")
    return look


def main() -> None:
    """Measures the cells below the folder that is named, and writes the reference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="C-NMC's cells")
    parser.add_argument("--name", default="C-NMC 2019, training set")
    words = parser.parse_args()
    folder = scan_dataset(words.folder)
    reference = measure(folder.cells, name=words.name, data_sha256=folder.sha256)
    text = reference.model_dump_json(indent=2) + "\n"
    write_content(SHIPPED, text)
    print(text, end="")


if __name__ == "__main__":
    main()
