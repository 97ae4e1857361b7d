"""What went wrong in a validation, cell by cell, with a picture of each: eyes say whether label, outline or call is wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from blastscope.runtime.classes import ClassName
from blastscope.runtime.frames.pages.album import draw_around, jpeg
from blastscope.runtime.frames.report import FrameCell, FrameReport
from blastscope.runtime.frames.scans.pieces import Unreadable
from blastscope.runtime.frames.scans.scan import Scan
from blastscope.runtime.prediction import Box
from blastscope.runtime.site.labels import LabelledCell
from blastscope.runtime.site.matching import match

MOST_PICTURES = 2000  # some 5 kB each

Kind = Literal["all-called-hem", "hem-called-all", "missed", "refused", "unlabelled"]


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """One cell whose label and call aren't the same."""

    path: Path  # of its frame
    box: Box  # the label's; of a cell that nobody labelled its own
    label: ClassName | None  # the expert's; None where no cell is labelled
    cell: FrameCell | None  # as it was found; None where it wasn't
    picture: bytes | None = None  # a JPEG: the label's box and the outlines of what was found, in the colours of their classes

    @property
    def kind(self) -> Kind:
        """What went wrong."""
        if self.cell is None:
            return "missed"
        if self.label is None:
            return "unlabelled"
        if self.cell.label is None:
            return "refused"
        return "all-called-hem" if self.label == "all" else "hem-called-all"


def mistakes_in(path: Path, labelled: Sequence[LabelledCell], found: Sequence[FrameCell]) -> Iterator[Mistake]:
    """What went wrong in one frame: the labelled cells first, then those that nobody labelled."""
    pairs = match([cell.box for cell in labelled], [cell.box for cell in found])
    for number, expert in enumerate(labelled):
        cell = found[pairs[number]] if number in pairs else None
        if cell is None or cell.label != expert.label:
            yield Mistake(path, expert.box, expert.label, cell)
    for number, cell in enumerate(found):
        if number not in pairs.values():
            yield Mistake(path, cell.box, None, cell)


class Pictures:
    """Pictures of mistakes, taken while their frame is open. `look` is for `Scope.examine_files`: many threads may call it."""

    def __init__(self, labels: Mapping[Path, tuple[LabelledCell, ...]]) -> None:
        self._labels = labels
        self._taken: dict[Path, list[bytes | None]] = {}
        self._left = MOST_PICTURES
        self._lock = threading.Lock()

    def look(self, scan: Scan, report: FrameReport) -> None:
        """Takes the pictures of one frame's mistakes."""
        if report.path is None or report.refusal:
            return
        labelled = self._labels[report.path]
        wrong = list(mistakes_in(report.path, labelled, report.cells))
        with self._lock:
            count = min(len(wrong), self._left)
            self._left -= count
        taken = [_picture(scan, one, labelled, report.cells) for one in wrong[:count]]
        with self._lock:
            self._taken[report.path] = [*taken, *[None] * (len(wrong) - count)]

    def shown(self, mistakes: Sequence[Mistake]) -> list[Mistake]:
        """The mistakes of one frame with their pictures, which are kept no longer."""
        with self._lock:
            taken = self._taken.pop(mistakes[0].path, None) if mistakes else None
        pictures = taken or [None] * len(mistakes)
        return [replace(one, picture=picture) for one, picture in zip(mistakes, pictures, strict=True)]


def _picture(scan: Scan, mistake: Mistake, labelled: Sequence[LabelledCell], found: Sequence[FrameCell]) -> bytes | None:
    marks = [(cell.box, cell.label) for cell in labelled if _meet(cell.box, mistake.box)]
    try:
        return jpeg(draw_around(scan, mistake.box, [cell for cell in found if _meet(cell.box, mistake.box)], marks))
    except Unreadable:  # a file that changes meanwhile
        return None


def _meet(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])
