"""`Drift`: compares a session's cells with the training cells, in constant memory.

    drift = Drift()
    with scope.stream(camera, drift.add) as stream: ...
    for alarm in drift.state().alarms:
        print(alarm)

What is compared is what the networks get, after scale and stain were brought to theirs: an alarm says that this went wrong, or
that the site's cells are of another kind. It says nothing of the calls themselves: `blastscope validate` does that.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.frames.features import CellFeatures, cell_features
from blastscope.runtime.frames.types import FrameReport
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
WINDOW = 1000  # cells that a session is judged by: the latest
LEAST_SITE_CELLS = 30  # before that a median says little


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


def measure_reference(cells: Iterable[DatasetEntry], *, name: str, data_sha256: str) -> Reference:
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
    seen = ordered_map(_features, cells, workers=usable_threads())
    figures = np.array([features for _, features in seen], np.float64)  # (N, F)
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


def _features(cell: DatasetEntry) -> CellFeatures:
    image = read_image(cell.path)
    features = None if isinstance(image, Refusal) else cell_features(image)
    if features is None:
        raise DataError(cell.path, image.detail if isinstance(image, Refusal) else "shows nothing but black")
    return features


def main() -> None:
    """Measures the cells below the folder that is named, and writes the reference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="C-NMC's cells")
    parser.add_argument("--name", default="C-NMC 2019, training set")
    words = parser.parse_args()
    folder = scan_dataset(words.folder)
    reference = measure_reference(folder.cells, name=words.name, data_sha256=folder.sha256)
    text = reference.model_dump_json(indent=2) + "\n"
    write_content(SHIPPED, text)
    print(text, end="")


if __name__ == "__main__":
    main()


class DriftWording(NamedTuple):
    """How a feature is named in sentences.

    Attributes
    ----------
    name : str
        What the feature is called.
    unit : str
        Its unit, with a space before it; empty for none.
    high : str
        What cells are that have more of it.
    low : str
        What cells are that have less of it.
    remedy : str
        What to look at where it shifts.
    """

    name: str
    unit: str
    high: str
    low: str
    remedy: str


WORDS: dict[str, DriftWording] = {
    "diameter_px": DriftWording("diameter", " px", "larger", "smaller", "check the scale: pixel_um, lens and camera binning"),
    "elongation": DriftWording("elongation", "", "longer", "rounder", "check the smear, and the outlines in an overlay"),
    "lightness": DriftWording("lightness", "", "lighter", "darker", "check lamp, exposure and the time in the stain"),
    "green_red": DriftWording("redness", "", "redder", "greener", "check white balance, the order of channels and the stain"),
    "blue_yellow": DriftWording(
        "yellowness", "", "yellower", "bluer", "check white balance, the order of channels and the stain"
    ),
    "contrast": DriftWording(
        "contrast", "", "richer in contrast", "flatter", "check exposure, gamma and the time in the stain"
    ),
    "texture": DriftWording(
        "texture", "", "coarser or noisier", "smoother or more blurred", "check focus, sharpening, compression"
    ),
}


class Shift(StrictModel):
    """One feature of a session's cells beside the training's.

    Attributes
    ----------
    feature : str
        A field of `CellFeatures`.
    session, training : float
        Medians, in the feature's own unit.
    shift : float
        Their difference, in spreads of the training's cells.
    limit : float
        A larger shift, either way, is an alarm.
    alarm : bool
        Whether it is one. With fewer than 30 cells none is.
    """

    feature: str
    session: float  # median
    training: float  # median
    shift: float  # of the medians, in spreads of the training's cells
    limit: float  # from which it is an alarm: more than any patient of the training differs from the rest
    alarm: bool


class DriftState(StrictModel):
    """How the latest cells of a session compare with the training's.

    Attributes
    ----------
    reference : str
        The name of what they are compared with.
    cells : int
        How many were compared, at most the window.
    enough : bool
        Whether these are 30 or more; with fewer there is no alarm.
    shifts : tuple of Shift
        One for each feature; empty without a cell.
    alarms : tuple of str
        A sentence for each alarm, with what to check first.
    """

    reference: str
    cells: int  # judged, at most the window
    enough: bool  # fewer cells give no alarm
    shifts: tuple[Shift, ...]  # empty without a cell
    alarms: tuple[str, ...]  # a sentence each, for people


class Drift:
    """Compares the cells of the reports that it is given with those of the training. Safe to use from many threads.

    Parameters
    ----------
    reference : Reference, optional
        What to compare with; by default the cells of C-NMC's training set.
    window : int
        How many cells count, the latest; at least 30.

    Raises
    ------
    UsageError
        `window` is below 30, or `reference` has other features than `CellFeatures`.
    """

    def __init__(self, reference: Reference | None = None, *, window: int = WINDOW) -> None:
        if window < LEAST_SITE_CELLS:
            raise UsageError(f"window is {window}: at least {LEAST_SITE_CELLS} cells are needed to judge")
        self.reference = reference or shipped_reference()
        if set(self.reference.features) != set(CellFeatures._fields):
            raise UsageError(f"the reference must have the features {', '.join(CellFeatures._fields)}")
        self._figures = np.zeros((window, len(CellFeatures._fields)))  # the latest cells, in no order
        self._cells = 0  # so far
        self._lock = threading.Lock()

    def add(self, report: FrameReport) -> None:
        """Takes in the cells of a report that the networks saw.

        Parameters
        ----------
        report : FrameReport
            As `Scope.examine` or a stream gives it.
        """
        for cell in report.cells:
            if cell.appearance is not None:
                self.add_features(cell.appearance)

    def add_features(self, features: CellFeatures) -> None:
        """Takes in a single cell.

        Parameters
        ----------
        features : CellFeatures
            The cell as the networks saw it.
        """
        with self._lock:
            self._figures[self._cells % len(self._figures)] = features
            self._cells += 1

    def state(self) -> DriftState:
        """The comparison so far. It takes a fraction of a millisecond.

        Returns
        -------
        DriftState
        """
        with self._lock:
            figures = self._figures[: self._cells].copy()  # (N, F)
        enough = len(figures) >= LEAST_SITE_CELLS
        medians = dict(zip(CellFeatures._fields, np.median(figures, axis=0).tolist(), strict=True)) if len(figures) else {}
        shifts = tuple(_shift(name, medians[name], self.reference.features[name], enough=enough) for name in medians)
        alarms = tuple(describe_drift(shift) for shift in shifts if shift.alarm)
        return DriftState(reference=self.reference.name, cells=len(figures), enough=enough, shifts=shifts, alarms=alarms)


def _shift(name: str, median: float, feature: Feature, *, enough: bool) -> Shift:
    shift = (median - feature.median) / feature.spread
    return Shift(
        feature=name,
        session=median,
        training=feature.median,
        shift=shift,
        limit=feature.limit,
        alarm=enough and abs(shift) > feature.limit,
    )


def describe_drift(shift: Shift) -> str:
    """A shift as a sentence for people, with what to check first.

    Parameters
    ----------
    shift : Shift
        One of `DriftState.shifts`.

    Returns
    -------
    str
    """
    words = WORDS[shift.feature]
    return (
        f"the cells are {words.high if shift.shift > 0 else words.low} than the training's: {words.name} "
        f"{shift.session:.3g}{words.unit}, there {shift.training:.3g}{words.unit}, {abs(shift.shift):.1f} spreads away "
        f"(limit {shift.limit:.1f}): {words.remedy}"
    )
