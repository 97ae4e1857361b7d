"""Reads a site's label table: one row a cell, `path,x0,y0,x1,y1,label` and optionally `patient`.

`path` is a frame as the command line names it, or relative to one of the folders named, or to the table's own. A row with a
path alone says that someone looked at this frame and saw no cell in it. A frame without a row is not judged: nobody looked.
A table of corrections (`runtime/frames/corrections.py`) is taken as well.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from blastscope.runtime.errors import DataError
from blastscope.runtime.frames.corrections import ANSWERS, COMPLETE, ReviewedFrame
from blastscope.runtime.frames.corrections import COLUMNS as CORRECTION_COLUMNS
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.io.slides.slide import open_slide
from blastscope.runtime.types import CLASSES, Box, ClassName, Refusal

COLUMNS = ("path", "x0", "y0", "x1", "y1", "label")
MOST_TOLD = 3  # wrong lines in one message: where every line is wrong, it is for one reason
WANTED = f"wanted: {','.join(COLUMNS)} and, if known, patient"


@dataclass(frozen=True, slots=True)
class LabelledCell:
    """An expert's label of one cell: its box in pixels of the frame, half-open, and its class.

    Attributes
    ----------
    box : (x0, y0, x1, y1)
        In pixels, half-open.
    label : ClassName
        The class.
    """

    box: Box
    label: ClassName


@dataclass(frozen=True, slots=True)
class LabelledFrames:
    """The frames that someone looked at, with their labelled cells.

    Attributes
    ----------
    cells : mapping of Path to tuple of LabelledCell
        In the order in which the frames were named. A frame without a white cell has none.
    patients : mapping of Path to str, or None
        The patient of each frame; None where the table doesn't say.
    unlabelled : tuple of Path
        Frames without a row: nobody looked at them.
    sha256 : str
        SHA-256 of the table's bytes, in hex.
    reviewed : mapping of Path to ReviewedFrame
        Of a table of corrections what was said of each frame; empty of a table of labels, which claims to be complete.
    """

    cells: Mapping[Path, tuple[LabelledCell, ...]]
    patients: Mapping[Path, str] | None  # None where the table doesn't say
    unlabelled: tuple[Path, ...]  # frames without a row
    sha256: str  # of the table's bytes
    reviewed: Mapping[Path, ReviewedFrame] = field(default_factory=dict)

    def complete(self, frame: Path) -> bool:
        """Whether the table names every white cell of a frame."""
        return frame not in self.reviewed or self.reviewed[frame].complete


def read_labels(table: Path, frames: Sequence[Path], folders: Sequence[Path] = ()) -> LabelledFrames:
    """The labels that a site's table holds of the frames.

    Parameters
    ----------
    table : Path
        A CSV file with the columns path, x0, y0, x1, y1, label and, if known, patient; or corrections, as the slide page and
        napari save them.
    frames : sequence of Path
        The frames that may be labelled.
    folders : sequence of Path
        Folders from which the table's paths may go on, beside the table's own.

    Returns
    -------
    LabelledFrames

    Raises
    ------
    DataError
        The table can't be read, or lines of it are wrong: it names them. Boxes must lie inside of their frames, be given once,
        and a patient must be named for all frames or for none.
    """
    read, corrected = _read(table)
    places = {resolved(frame): frame for frame in frames}
    boxes: dict[Path, dict[Box, _Said]] = {}
    patients: dict[Path, str] = {}
    complete: set[Path] = set()
    wrong: list[str] = []
    for number, row in read.rows:
        where = f"line {number}"
        try:
            frame = _frame(table, where, row["path"], places, folders)
            own = boxes.setdefault(frame, {})
            if corrected and row["new"].lower() == COMPLETE:
                complete.add(frame)
            elif (said := _cell(table, where, row, "new" if corrected else "label")) is not None:
                box, answer = said
                if not corrected and (before := own.get(box)) is not None:  # the second of the two could never be found
                    raise DataError(table, f"{where}: the same box stands on line {before.line}: leave one of the two out")
                own[box] = _Said(number, answer)
            _note_patient(table, where, frame, row.get("patient", ""), patients)
        except DataError as error:
            wrong.append(error.problem)
    if wrong:
        more = f"; and {len(wrong) - MOST_TOLD} more" if len(wrong) > MOST_TOLD else ""
        raise DataError(table, "; ".join(wrong[:MOST_TOLD]) + more)
    if not boxes:
        raise DataError(table, "holds no row")
    if patients and len(patients) < len(boxes):
        unnamed = next(frame for frame in boxes if frame not in patients)
        raise DataError(table, f"names a patient for some frames, and none for '{unnamed}'")
    for frame, own in boxes.items():
        _check_inside(table, frame, own)
    answers = {frame: {box: said.answer for box, said in boxes[frame].items()} for frame in frames if frame in boxes}
    reviewed = {frame: ReviewedFrame.of(said, complete=frame in complete) for frame, said in answers.items()}
    return LabelledFrames(
        cells={frame: tuple(LabelledCell(box, label) for box, label in one.labels.items()) for frame, one in reviewed.items()},
        patients=patients or None,
        unlabelled=tuple(frame for frame in frames if frame not in boxes),
        sha256=hashlib.sha256(read.content).hexdigest(),
        reviewed=reviewed if corrected else {},
    )


def frames_named_in(table: Path) -> list[Path]:
    """The frames that a table names, as they are found from the working folder or from the table's own.

    Parameters
    ----------
    table : Path
        A table of labels or corrections.

    Returns
    -------
    list of Path
        Each once, in the table's order. One that isn't found is left out, and `read_labels` names its line.

    Raises
    ------
    DataError
        The table can't be read.
    """
    names = dict.fromkeys(row["path"] for _, row in _read(table)[0].rows if "\0" not in row["path"])
    candidates = ((Path(name), table.parent / name) for name in names)
    found = [next((path for path in paths if path.exists()), None) for paths in candidates]
    return list(dict.fromkeys(path for path in found if path is not None))


class _Said(NamedTuple):
    """What a row of the table answers on a cell.

    Attributes
    ----------
    line : int
        Of the table.
    answer : str
        The label, or what a person says of the cell.
    """

    line: int
    answer: str


@dataclass(frozen=True, slots=True)
class TableRows:
    """A CSV file as words. The case of column names, and blanks around words, don't matter.

    Attributes
    ----------
    path : Path
        The file.
    content : bytes
        Its bytes.
    columns : tuple of str
        In lower case; empty of a file without a line.
    rows : tuple of (int, dict)
        The line and, by column, the words of each row; a word that is missing is empty.
    """

    path: Path
    content: bytes
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]

    def require(self, columns: Sequence[str], wanted: str) -> None:
        """Raises `DataError` where a column is missing."""
        if missing := [name for name in columns if name not in self.columns]:
            marks = (mark for mark in b";\t" if mark in self.content) if len(self.columns) == 1 else iter(())
            parted = next((f": its columns are parted by '{chr(mark)}', save it with commas" for mark in marks), "")
            raise DataError(self.path, f"no column {', '.join(missing)} ({wanted}){parted}")


def read_rows(table: Path) -> TableRows:
    """The rows of a CSV file.

    Parameters
    ----------
    table : Path
        The file, in UTF-8.

    Returns
    -------
    TableRows

    Raises
    ------
    DataError
        It can't be read, or is no CSV.
    """
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(table, f"can't be read: {error.strerror or error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise DataError(table, f"line {number}: is no UTF-8 text: save the table as 'CSV UTF-8'") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        lines = [(reader.line_num, [word.strip() for word in words]) for words in reader]
    except csv.Error as error:
        raise DataError(table, f"line {reader.line_num}: is no CSV: {error}") from error
    lines = [(number, words) for number, words in lines if any(words)]
    names = tuple(word.lower() for word in lines[0][1]) if lines else ()
    for number, words in lines[1:]:
        if len(words) > len(names):
            told = f"line {number}: {len(words)} values for {len(names)} columns: is there a comma in one of them?"
            raise DataError(table, told)
    rows = [(number, dict(zip(names, [*words, *[""] * len(names)], strict=False))) for number, words in lines[1:]]
    return TableRows(table, content, names, tuple(rows))


def _read(table: Path) -> tuple[TableRows, bool]:
    """A table of labels or corrections, and which of the two it is."""
    found = read_rows(table)
    corrected = "new" in found.columns and "label" not in found.columns
    found.require(CORRECTION_COLUMNS if corrected else COLUMNS, WANTED)
    return found, corrected


def _frame(table: Path, where: str, name: str, places: Mapping[Path, Path], folders: Sequence[Path]) -> Path:
    candidates = [] if "\0" in name else [Path(name), *(folder / name for folder in folders), table.parent / name]
    for candidate in candidates:
        if (frame := places.get(resolved(candidate))) is not None:
            return frame
    found = "by the command, or below a folder named there, or below the table's own"
    raise DataError(table, f"{where}: '{name}' is none of the frames that were named {found}")


def _cell(table: Path, where: str, row: Mapping[str, str], column: str) -> tuple[Box, str] | None:
    words = [*(row[name] for name in COLUMNS[1:5]), row[column]]
    if not any(words):
        return None
    *corners, label = words
    try:
        x0, y0, x1, y1 = (round(float(corner)) for corner in corners)
    except (ValueError, OverflowError) as error:
        raise DataError(table, f"{where}: x0, y0, x1, y1 must be numbers, not {', '.join(map(repr, corners))}") from error
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise DataError(table, f"{where}: the box {x0}, {y0}, {x1}, {y1} has no inside, or lies outside of the frame")
    known: tuple[str, ...] = CLASSES if column == "label" else ANSWERS
    if label.lower() not in known:
        raise DataError(table, f"{where}: the label is '{label}', it must be one of {', '.join(known)}")
    return (x0, y0, x1, y1), label.lower()


def _check_inside(table: Path, frame: Path, boxes: Mapping[Box, _Said]) -> None:
    """Raises `DataError` for a box beyond the frame's edge: it belongs to another frame, or to another size of this one.

    A frame that can't be read is left to whoever examines it.
    """
    scan = open_slide(frame) if boxes else Refusal("empty", "nothing to check")
    if isinstance(scan, Refusal):
        return
    width, height = scan.width, scan.height
    scan.close()
    for (x0, y0, x1, y1), said in boxes.items():
        if x1 > width or y1 > height:
            raise DataError(
                table,
                f"line {said.line}: the box {x0}, {y0}, {x1}, {y1} lies outside of '{frame}', which has {width} x {height} "
                "pixels",
            )


def _note_patient(table: Path, where: str, frame: Path, patient: str, patients: dict[Path, str]) -> None:
    if patient and patients.setdefault(frame, patient) != patient:
        raise DataError(table, f"{where}: frame '{frame}' is of patient '{patients[frame]}' and of '{patient}'")
