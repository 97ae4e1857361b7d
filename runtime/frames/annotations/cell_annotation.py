"""`CellAnnotation`: one cell as all annotation formats need it, and `pixel_outline`, the outline of its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.report.html_report import diameter_um
from blastscope.runtime.frames.report.theme import CALL_STYLES, Kind, rgb, style_of
from blastscope.runtime.frames.types import FrameCell, FrameReport
from blastscope.runtime.types import Box, RefusalCode

KINDS: tuple[Kind, ...] = ("hem", "all", "refused")  # the classes of COCO and YOLO, in their order
CLASS_NAMES: dict[Kind, str] = {kind: CALL_STYLES[kind].name for kind in KINDS}

Outline = NDArray[np.float64]  # (K, 2) x and y, from the corner; the last point is joined to the first


@dataclass(frozen=True, slots=True, eq=False)
class CellAnnotation:
    """One white cell for other programs.

    Attributes
    ----------
    number : int
        Of the cell in its frame, from 1, as on pages and in tables.
    kind : {'all', 'hem', 'refused'}
        The call, or that there is none.
    refusal : str or None
        The code of why there is no call.
    box : (x0, y0, x1, y1)
        In pixels of the frame, half-open, which is the same as edges counted from the corner.
    outline, nucleus : (K, 2) float64 arrays
        The edges of the cell and of its nucleus, x and y in pixels of the frame from the corner. `nucleus` is None where the
        cell was given without one.
    area_px : float
        Area inside of `outline`, in pixels.
    measurements : dict of str to float
        Figures with their units in the names; those that aren't known are left out.
    texts : dict of str to str
        What is known in words: voter, refusal, its detail, and the classes that can't be excluded.
    """

    number: int
    kind: Kind
    refusal: RefusalCode | None
    box: Box
    outline: Outline
    nucleus: Outline | None
    area_px: float
    measurements: dict[str, float]
    texts: dict[str, str]

    @property
    def name(self) -> str:
        """The class for people: ALL, HEM or refused."""
        return CLASS_NAMES[self.kind]

    @property
    def colour(self) -> tuple[int, int, int]:
        """RGB of the class, as on the report's pages."""
        return rgb(CALL_STYLES[self.kind].colour)


def annotations_of(report: FrameReport) -> list[CellAnnotation]:
    """The cells of a frame, numbered from 1 as on its page.

    Parameters
    ----------
    report : FrameReport
        As `Scope.examine` and `examine_files` give it.

    Returns
    -------
    list of CellAnnotation
    """
    return [_annotation(number, cell, report) for number, cell in enumerate(report.cells, 1)]


def _annotation(number: int, cell: FrameCell, report: FrameReport) -> CellAnnotation:
    outline = pixel_outline(cell.found.contour)
    row, across = cell.row(), diameter_um(cell, report)
    figures = {
        "Probability of ALL": row["score"],
        "Probability of the call": row["probability"],
        "Novelty": row["novelty"],
        "Diameter \u00b5m": across,
        "Area \u00b5m^2": math.pi * across**2 / 4 if across else None,
    }
    words = {
        "voter": row["voter"],
        "refusal": row["refusal"],
        "detail": row["detail"],
        "set": None if row["set"] is None else " ".join(row["set"]),
    }
    return CellAnnotation(
        number=number,
        kind=style_of(cell),
        refusal=row["refusal"],
        box=cell.box,
        outline=outline,
        nucleus=pixel_outline(cell.found.nucleus) if cell.found.core is not None else None,
        area_px=_area(outline),
        measurements={name: float(value) for name, value in figures.items() if value is not None},
        texts={name: value for name, value in words.items() if value},
    )


def pixel_outline(contour: NDArray[np.int32]) -> Outline:
    """The outer edge of the pixels that a contour of OpenCV encloses, its own ones included.

    The edge runs through the middles of the pixels' outer sides and cuts their corners, as marching squares at half height do.
    So it never crosses itself, nor touches itself where two pixels meet at a corner, as programs that compute with polygons
    demand. It encloses half a pixel less than the pixels themselves.

    Parameters
    ----------
    contour : (N, 2) int32 array
        x and y of the outermost pixels, 8-connected.

    Returns
    -------
    (K, 2) float64 array
        x and y from the corner, in steps of half a pixel.
    """
    corner = contour.min(axis=0) - 1  # a rim of one pixel
    width, height = contour.max(axis=0) - corner + 2
    mask = np.zeros((height, width), np.uint8)
    cv2.drawContours(mask, [np.ascontiguousarray(contour - corner, np.int32)], -1, (1,), cv2.FILLED)
    # on a lattice of half pixels: pixels' centres (odd, odd), middles of sides, corners between two with a common side
    fine = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    fine[1::2, 1::2] = mask
    fine[2:-1:2, 1::2] = mask[1:] | mask[:-1]
    fine[1::2, 2:-1:2] = mask[:, 1:] | mask[:, :-1]
    down = mask[1:] & mask[:-1]
    across = mask[:, 1:] & mask[:, :-1]
    fine[2:-1:2, 2:-1:2] = down[:, 1:] | down[:, :-1] | across[1:] | across[:-1]
    outlines = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    edge = max(outlines, key=cv2.contourArea).reshape(-1, 2)
    return np.asarray(edge / 2.0 + corner, np.float64)


def _area(outline: Outline) -> float:
    x, y = (outline - outline[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
