"""A site's own labels: a table of one row a cell, `path,x0,y0,x1,y1,label` and if it is known `patient`.

`path` is a frame as the command line names it, or relative to one of the folders named, or to the table's own. A row with a
path alone says that someone looked at this frame and saw no cell in it. A frame without a row is not judged: nobody looked.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blastscope.runtime.classes import CLASSES, ClassName
from blastscope.runtime.errors import DataError
from blastscope.runtime.prediction import Box

COLUMNS = ("path", "x0", "y0", "x1", "y1", "label")


@dataclass(frozen=True, slots=True)
class LabelledCell:
    """What an expert said of one cell."""

    box: Box
    label: ClassName


@dataclass(frozen=True, slots=True)
class LabelledFrames:
    """The frames that someone looked at, in the order of the command line."""

    cells: Mapping[Path, tuple[LabelledCell, ...]]
    patients: Mapping[Path, str] | None  # None where the table doesn't say
    unlabelled: tuple[Path, ...]  # frames without a row
    sha256: str  # of the table's bytes


def read_labels(table: Path, frames: Sequence[Path], folders: Sequence[Path] = ()) -> LabelledFrames:
    """The labels that `table` holds of `frames`, found below `folders`. Raises `DataError` that names the line."""
    try:
        content = table.read_bytes()
        reader = csv.DictReader(content.decode("utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(table, f"can't be read: {getattr(error, 'strerror', None) or error}") from error
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(table, f"no column {', '.join(missing)} (wanted: {','.join(COLUMNS)} and, if known, patient)")
    places = {frame.resolve(): frame for frame in frames}
    cells: dict[Path, list[LabelledCell]] = {}
    patients: dict[Path, str] = {}
    for number, row in enumerate(reader, 2):
        where = f"line {number}"
        frame = _frame(table, where, row["path"] or "", places, folders)
        cell = _cell(table, where, row)
        cells.setdefault(frame, []).extend([cell] if cell else [])
        _note_patient(table, where, frame, (row.get("patient") or "").strip(), patients)
    if not cells:
        raise DataError(table, "holds no row")
    if patients and len(patients) < len(cells):
        unnamed = next(frame for frame in cells if frame not in patients)
        raise DataError(table, f"names a patient for some frames, and none for '{unnamed}'")
    return LabelledFrames(
        cells={frame: tuple(cells[frame]) for frame in frames if frame in cells},
        patients=patients or None,
        unlabelled=tuple(frame for frame in frames if frame not in cells),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _frame(table: Path, where: str, name: str, places: Mapping[Path, Path], folders: Sequence[Path]) -> Path:
    candidates = [Path(name), *(folder / name for folder in folders), table.parent / name]
    for candidate in candidates:
        if (frame := places.get(candidate.resolve())) is not None:
            return frame
    raise DataError(table, f"{where}: '{name}' is none of the frames that were named")


def _cell(table: Path, where: str, row: Mapping[str, str | None]) -> LabelledCell | None:
    words = [(row[name] or "").strip() for name in COLUMNS[1:]]
    if not any(words):
        return None
    *corners, label = words
    try:
        x0, y0, x1, y1 = (round(float(corner)) for corner in corners)
    except (ValueError, OverflowError) as error:
        raise DataError(table, f"{where}: x0, y0, x1, y1 must be numbers, not {', '.join(map(repr, corners))}") from error
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise DataError(table, f"{where}: the box {x0}, {y0}, {x1}, {y1} has no inside, or lies outside of the frame")
    known = next((name for name in CLASSES if name == label.lower()), None)
    if known is None:
        raise DataError(table, f"{where}: the label is '{label}', it must be one of {', '.join(CLASSES)}")
    return LabelledCell((x0, y0, x1, y1), known)


def _note_patient(table: Path, where: str, frame: Path, patient: str, patients: dict[Path, str]) -> None:
    if patient and patients.setdefault(frame, patient) != patient:
        raise DataError(table, f"{where}: frame '{frame}' is of patient '{patients[frame]}' and of '{patient}'")
