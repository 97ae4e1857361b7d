"""The result of a validation, and its report: an HTML page in one file, with a gallery of the cells that went wrong.

`ErrorImages` cuts the gallery's pictures while the frames are examined; `render_validation_report` makes the page at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from blastscope.runtime.evaluation.detection import Outcome, match_boxes
from blastscope.runtime.evaluation.drift import WORDS, DriftState
from blastscope.runtime.evaluation.labels import LabelledCell
from blastscope.runtime.evaluation.validation_record import ValidationRecord
from blastscope.runtime.frames.report.html_report import REASONS
from blastscope.runtime.frames.report.templates import render_template
from blastscope.runtime.frames.report.theme import CALL_STYLES, names_of, style_of, words_of
from blastscope.runtime.frames.report.thumbnails import draw_around, jpeg
from blastscope.runtime.frames.types import FrameCell, FrameReport
from blastscope.runtime.inference.voting import SmearCall
from blastscope.runtime.io.slides.slide import Slide
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import CLASSES, Box, ClassName, RefusalCode

MOST_FRAMES = 2000
MOST_PICTURES = 2000  # some 5 kB each
MOST_CARDS = 120  # of each kind

Kind = Literal["all-called-hem", "hem-called-all", "missed", "refused", "unlabelled"]
HEADS: dict[Kind, tuple[str, str]] = {
    "all-called-hem": ("Labelled ALL, called HEM", "Blasts that were taken for normal cells; the surest calls first."),
    "hem-called-all": ("Labelled HEM, called ALL", "Normal cells that were taken for blasts; the surest calls first."),
    "missed": ("Labelled, not found", "No outline overlaps the label's box by half; one that comes near is drawn."),
    "refused": ("Labelled and found, but not called", "The reason stands below each."),
    "unlabelled": ("Found where none is labelled", "Something else was taken for a white cell, or the table lacks one."),
}


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """A cell whose label and call differ, or that only one of the two has.

    Attributes
    ----------
    path : Path
        Its frame.
    box : (x0, y0, x1, y1)
        The label's box in pixels of the frame; of a cell without a label the box that was found.
    label : {'hem', 'all'} or None
        The expert's; None where no cell is labelled.
    cell : FrameCell or None
        The cell as it was found; None where it wasn't.
    picture : bytes or None
        A JPEG of it: the label's box and the outlines of what was found, in the colours of their classes.
    """

    path: Path
    box: Box
    label: ClassName | None
    cell: FrameCell | None
    picture: bytes | None = None

    @property
    def kind(self) -> Kind:
        """What went wrong: 'all-called-hem', 'hem-called-all', 'missed', 'refused' or 'unlabelled'."""
        if self.cell is None:
            return "missed"
        if self.label is None:
            return "unlabelled"
        if self.cell.label is None:
            return "refused"
        return "all-called-hem" if self.label == "all" else "hem-called-all"


def mistakes_in(path: Path, labelled: Sequence[LabelledCell], found: Sequence[FrameCell]) -> Iterator[Mistake]:
    """What went wrong in one frame: the labelled cells first, then those that nobody labelled.

    Parameters
    ----------
    path : Path
        The frame.
    labelled : sequence of LabelledCell
        Its labelled cells.
    found : sequence of FrameCell
        The cells of its report.

    Yields
    ------
    Mistake
        Without a picture.
    """
    pairs = match_boxes([cell.box for cell in labelled], [cell.box for cell in found])
    for number, expert in enumerate(labelled):
        cell = found[pairs[number]] if number in pairs else None
        if cell is None or cell.label != expert.label:
            yield Mistake(path, expert.box, expert.label, cell)
    for number, cell in enumerate(found):
        if number not in pairs.values():
            yield Mistake(path, cell.box, None, cell)


@dataclass(frozen=True)
class FrameOutcome:
    """What became of the cells of one frame.

    Attributes
    ----------
    path : Path
        The frame.
    labelled : int
        Cells with a label.
    found, right, wrong, refused : int
        Of the labelled cells: found; called as labelled; called the other class; found without a call.
    false : int
        Cells that were found where none is labelled.
    problem : str or None
        Why the frame couldn't be examined.
    """

    path: Path
    labelled: int
    found: int
    false: int
    right: int
    wrong: int
    refused: int
    problem: str | None


class ValidationRow(NamedTuple):
    """One labelled or found cell, for a table.

    Attributes
    ----------
    path : Path
        Its frame.
    box : (x0, y0, x1, y1)
        The label's box in pixels of the frame; of a cell without a label the box that was found.
    outcome : Outcome
        Label, call and score.
    problem : str or None
        The refusal's code, the cell's or its frame's.
    """

    path: Path
    box: Box
    outcome: Outcome
    problem: str | None

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """The names of the fields that `values` gives, in their order.

        Returns
        -------
        tuple of str
        """
        return ("path", "x0", "y0", "x1", "y1", "label", "found", "call", "score", "refusal")

    def values(self) -> tuple[object, ...]:
        """The cell as the fields of a table.

        Returns
        -------
        tuple
            In the order of `columns`; None where there is nothing to say.
        """
        one = self.outcome
        label, call = (None if index is None else CLASSES[index] for index in (one.truth, one.call))
        return (str(self.path), *self.box, label, str(one.found).lower(), call, one.score, self.problem)


class PersonRow(NamedTuple):
    """One patient.

    Attributes
    ----------
    patient : str
        As the table of labels names the patient.
    label : {'hem', 'all'} or None
        The label of all the patient's labelled cells; None where they have both, or none.
    call : SmearCall
        The call by all cells that were found in the patient's frames, labelled or not.
    """

    patient: str
    label: ClassName | None
    call: SmearCall

    @property
    def right(self) -> bool | None:
        """Whether the call is the label; None where there is none of either."""
        return None if self.label is None or self.call.label is None else self.call.label == self.label

    def row(self) -> dict[str, Any]:
        """The patient as plain values, which `json.dumps` takes.

        Returns
        -------
        dict
            patient, labelled ('hem', 'all' or None), and the keys of `SmearCall.row`.
        """
        return {"patient": self.patient, "labelled": self.label, **self.call.row()}


@dataclass(frozen=True)
class Validation:
    """The result of a site's validation.

    Attributes
    ----------
    record : ValidationRecord
        The figures, and whether they pass; to be kept.
    frames : tuple of FrameOutcome
        In the order of the table's frames.
    refusals : mapping of str to int
        Refused cells among the labelled ones, by code.
    drift : DriftState
        Whether the cells look like the training's.
    notes : tuple of str
        What a reader should know.
    cells : tuple of ValidationRow
        In the order of the frames. For a table: `row` leaves them out.
    mistakes : tuple of Mistake
        In the frames that could be examined. For the page: `row` leaves them out.
    people : tuple of PersonRow
        Each patient's call, where the table names patients and the bundle says how cells become a call on a person.
    """

    record: ValidationRecord
    frames: tuple[FrameOutcome, ...]
    refusals: Mapping[RefusalCode, int]
    drift: DriftState
    notes: tuple[str, ...]
    cells: tuple[ValidationRow, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    people: tuple[PersonRow, ...] = ()

    def row(self) -> dict[str, Any]:
        """The result as plain values, which `json.dumps` takes.

        Returns
        -------
        dict
            The record's keys, and frame_rows, people, refusals, drift and notes.
        """
        return {
            **self.record.model_dump(mode="json"),
            "frame_rows": [{**vars(frame), "path": str(frame.path)} for frame in self.frames],
            "people": [person.row() for person in self.people],
            "refusals": dict(self.refusals),
            "drift": self.drift.model_dump(mode="json"),
            "notes": list(self.notes),
        }


class ErrorImages:
    """Images of wrong calls, cut while their frame is open. Pass `look` to `Scope.examine_files`; it is thread-safe."""

    def __init__(self, labels: Mapping[Path, tuple[LabelledCell, ...]]) -> None:
        self._labels = labels
        self._taken: dict[Path, list[bytes | None]] = {}
        self._left = MOST_PICTURES
        self._lock = threading.Lock()

    def collect(self, scan: Slide, report: FrameReport) -> None:
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


def _picture(scan: Slide, mistake: Mistake, labelled: Sequence[LabelledCell], found: Sequence[FrameCell]) -> bytes | None:
    marks = [(cell.box, cell.label) for cell in labelled if _meet(cell.box, mistake.box)]
    try:
        return jpeg(draw_around(scan, mistake.box, [cell for cell in found if _meet(cell.box, mistake.box)], marks))
    except ReadError:  # a file that changes meanwhile
        return None


def _meet(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])


def render_validation_report(validation: Validation) -> str:
    """The page of a validation: HTML that needs nothing beside it.

    Parameters
    ----------
    validation : Validation
        As `validate` gives it last.

    Returns
    -------
    str
    """
    record = validation.record
    return render_template(
        "validation.html",
        title=f"Validation of {record.bundle_name} at {record.site}",
        validation=validation,
        record=record,
        figures=_key_figures(record),
        reasons=REASONS,
        parts=gallery_parts(validation.mistakes, [frame.path for frame in validation.frames]),
        features=WORDS,
        most_frames=MOST_FRAMES,
    )


def _key_figures(record: ValidationRecord) -> list[tuple[str, str, str, str]]:
    """Names, values, intervals and kinds, of what was measured."""
    figures = {
        "cells found": record.finding and record.finding.recall,
        "found ones with a label": record.finding and record.finding.precision,
        "sensitivity": record.calls and record.calls.sensitivity,
        "specificity": record.calls and record.calls.specificity,
        "AUROC": record.calls and record.calls.auroc,
    }
    return [(name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", "") for name, one in figures.items() if one]


def gallery_parts(mistakes: Sequence[Mistake], frames: Sequence[Path] = ()) -> list[dict[str, object]]:
    """The cells that went wrong, as the template `gallery.html` shows them: a part with cards for each kind of mistake.

    Parameters
    ----------
    mistakes : sequence of Mistake
        In any order; of wrong calls the surest come first.
    frames : sequence of Path
        All frames, so that those with the same file name are told apart by their folders.

    Returns
    -------
    list of dict
        With `name`, `meaning`, `count` and `cards`; of kinds that there are alone.
    """
    names = names_of([*frames, *(one.path for one in mistakes)])
    parts: list[dict[str, object]] = []
    for kind, (name, meaning) in HEADS.items():
        if own := sorted((one for one in mistakes if one.kind == kind), key=_sureness, reverse=True):
            cards = [_card(one, names[one.path]) for one in own[:MOST_CARDS]]
            parts.append({"name": name, "meaning": meaning, "count": len(own), "cards": cards})
    return parts


def _sureness(mistake: Mistake) -> float:
    return (mistake.cell.probability if mistake.cell else None) or 0.0


def _card(mistake: Mistake, frame: str) -> dict[str, object]:
    cell = mistake.cell
    return {
        "kind": style_of(cell) if cell else "refused",
        "words": words_of(cell) if cell else "not found",
        "label": f"labelled {CALL_STYLES[mistake.label].name}" if mistake.label else "no label",
        "place": f"{frame}, at {mistake.box[0]}, {mistake.box[1]}",
        "detail": cell.refusal.detail if cell and cell.refusal else "",
        "picture": mistake.picture,
    }
