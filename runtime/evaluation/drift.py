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
    """One feature of the session's cells against the training's."""

    feature: str
    session: float  # median
    training: float  # median
    shift: float  # of the medians, in spreads of the training's cells
    limit: float  # from which it is an alarm: more than any patient of the training differs from the rest
    alarm: bool


class DriftState(StrictModel):
    """The latest cells of a session against the training's."""

    reference: str
    cells: int  # judged, at most the window
    enough: bool  # fewer cells give no alarm
    shifts: tuple[Shift, ...]  # empty without a cell
    alarms: tuple[str, ...]  # a sentence each, for people


class Drift:
    """Compares the cells of the reports that it is fed with. Safe to use from many threads."""

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
        """Takes in the cells of `report` that the networks saw."""
        for cell in report.cells:
            if cell.appearance is not None:
                self.add_look(cell.appearance)

    def add_look(self, look: CellFeatures) -> None:
        """Takes in a single cell."""
        with self._lock:
            self._figures[self._cells % len(self._figures)] = look
            self._cells += 1

    def state(self) -> DriftState:
        """How it stands. Takes a fraction of a millisecond."""
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
    """The shift as a sentence, with what to look at first."""
    words = WORDS[shift.feature]
    return (
        f"the cells are {words.high if shift.shift > 0 else words.low} than the training's: {words.name} "
        f"{shift.session:.3g}{words.unit}, there {shift.training:.3g}{words.unit}, {abs(shift.shift):.1f} spreads away "
        f"(limit {shift.limit:.1f}): {words.remedy}"
    )
