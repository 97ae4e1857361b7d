"""`Drift`: compares a session's cells with the training cells, in constant memory.

    drift = Drift()
    with scope.stream(camera, drift.add) as stream: ...
    for alarm in drift.state().alarms:
        print(alarm)

What is compared is what the networks get, after scale and stain were brought to theirs: an alarm says that this went wrong, or
that the site's cells are of another kind. It says nothing of the calls themselves: `blastscope validate` does that.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.reference_stats import Feature, Reference, shipped_reference
from blastscope.runtime.frames.features import CellFeatures
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.strict_model import StrictModel

WINDOW = 1000  # cells that a session is judged by: the latest
LEAST_CELLS = 30  # before that a median says little


class DriftWording(NamedTuple):
    """How a feature is told to people."""

    name: str
    unit: str
    high: str  # what cells are that have more of it
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
        if window < LEAST_CELLS:
            raise UsageError(f"window is {window}: at least {LEAST_CELLS} cells are needed to judge")
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
                self.add_look(cell.appearance)

    def add_look(self, look: CellFeatures) -> None:
        """Takes in a single cell.

        Parameters
        ----------
        look : CellFeatures
            The cell as the networks saw it.
        """
        with self._lock:
            self._figures[self._cells % len(self._figures)] = look
            self._cells += 1

    def state(self) -> DriftState:
        """The comparison so far. It takes a fraction of a millisecond.

        Returns
        -------
        DriftState
        """
        with self._lock:
            figures = self._figures[: self._cells].copy()  # (N, F)
        enough = len(figures) >= LEAST_CELLS
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
