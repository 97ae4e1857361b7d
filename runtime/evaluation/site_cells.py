"""Labelled cells of a site's frames, each cut out as the networks see it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.evaluation.detection import match_boxes
from blastscope.runtime.evaluation.labels import LabelledFrames
from blastscope.runtime.frames.cell_crop import cut_from
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.io.slides.slide import Slide
from blastscope.runtime.types import Audit, Box, ClassName, Prediction, Refusal

UNUSABLE = {"touches-border", "clumped", "out-of-focus"}  # what the finder says of cells that can't be shown whole and alone
NOBODY = Audit("", "", "none", "none", "fp32", "f32")
NOT_ASKED = Refusal("unlike-training", "no network was asked")


@dataclass(frozen=True, slots=True, eq=False)
class SiteCell:
    """A labelled cell of a frame.

    Attributes
    ----------
    frame : Path
        The frame.
    box : (x0, y0, x1, y1)
        The labelled box, in pixels, half-open.
    label : {'hem', 'all'}
        Its label.
    patient : str
        By the table's column `patient`; empty where it has none.
    pixels : (h, w, 3) uint8 array, RGB
        The cell on black, in C-NMC's scale.
    """

    frame: Path
    box: Box
    label: ClassName
    patient: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SiteCells:
    """The labelled cells of frames.

    Attributes
    ----------
    cells : tuple of SiteCell
        In the order of frames and labels.
    left_out : tuple of (Path, str)
        The frame of each labelled cell that couldn't be had, and the reason.
    """

    cells: tuple[SiteCell, ...]
    left_out: tuple[tuple[Path, str], ...]


def cut_labelled_cells(labels: LabelledFrames, spec: FrameSpecification, *, threads: int) -> SiteCells:
    """Cuts labelled cells out of their frames.

    Cells are found anew and put on black as `examine` does, and those whose box meets a labelled one are taken.

    Parameters
    ----------
    labels : LabelledFrames
        As `read_labels` gives them.
    spec : FrameSpecification
        What is assumed of frames and cells.
    threads : int
        How many frames are examined at once.

    Returns
    -------
    SiteCells
    """
    cutter = _Cutter(labels, spec)
    wanted = [frame for frame, cells in labels.cells.items() if cells]
    examined: dict[Path, FrameReport] = {}
    for report in Examiner(_not_asked, spec, threads=threads).examine_files(wanted, cutter.collect):
        assert report.path is not None
        examined[report.path] = report
    cells: list[SiteCell] = []
    left: list[tuple[Path, str]] = []
    for frame in wanted:
        refusal = examined[frame].refusal
        if refusal:
            why = f"in frames that couldn't be examined: {refusal.detail}"
            left += [(frame, why)] * len(labels.cells[frame])
        else:
            cells += cutter.taken.get(frame, [])
            left += [(frame, reason) for reason in cutter.lost.get(frame, [])]
    return SiteCells(tuple(cells), tuple(left))


class _Cutter:
    """Takes the labelled cells of each frame while it is open; `look` is called from several threads."""

    def __init__(self, labels: LabelledFrames, spec: FrameSpecification) -> None:
        self._labels, self._spec, self._lock = labels, spec, threading.Lock()
        self.taken: dict[Path, list[SiteCell]] = {}
        self.lost: dict[Path, list[str]] = {}

    def collect(self, scan: Slide, report: FrameReport) -> None:
        frame = report.path
        assert frame is not None
        patient = self._labels.patients[frame] if self._labels.patients else ""
        labelled = self._labels.cells[frame]
        pairs = match_boxes([cell.box for cell in labelled], [cell.box for cell in report.cells])
        taken: list[SiteCell] = []
        lost: list[str] = []
        for number, expert in enumerate(labelled):
            cell = report.cells[pairs[number]].found if number in pairs else None
            if cell is None or report.parameters is None:
                lost.append("not found in the frame")
            elif cell.refusal and cell.refusal.code in UNUSABLE:
                lost.append(cell.refusal.code)
            else:
                pixels = cut_from(scan, cell, report.parameters, self._spec)
                taken.append(SiteCell(frame, expert.box, expert.label, patient, pixels))
        with self._lock:
            self.taken[frame], self.lost[frame] = taken, lost


def _not_asked(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
    return [Prediction(None, None, None, None, None, None, NOT_ASKED, NOBODY) for _ in cells]
