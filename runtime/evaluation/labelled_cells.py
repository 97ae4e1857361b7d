"""`list_labelled_cells`: labelled cells at one place, in any of the forms in which people have them.

A folder in C-NMC's naming; a folder with folders `all` and `hem` of images of any names; a table `path,label` of images of
single cells, with `patient` if known; a table of labels or corrections of frames, whose cells are cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2

from blastscope.runtime.errors import DataError
from blastscope.runtime.evaluation.labels import MOST_TOLD, TableRows, frames_named_in, read_labels, read_rows
from blastscope.runtime.evaluation.site_cells import SiteCell, cut_labelled_cells
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.inference.archive_features import ArchiveListing
from blastscope.runtime.inference.neighbours import ArchiveCell
from blastscope.runtime.io.cnmc import (
    NAME,
    READERS,
    DatasetEntry,
    drop_duplicates,
    folder_label,
    has_cnmc_names,
    image_files,
    read_entry,
    scan_dataset,
)
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.types import CLASSES, ClassName

WANTED = "wanted: path,label of images of single cells, patient if known; or a table of frames as validate --labels takes it"


def list_labelled_cells(place: Path, *, threads: int) -> ArchiveListing:
    """The labelled cells of a folder or table.

    Parameters
    ----------
    place : Path
        A folder of C-NMC cells, as `train` takes it; a folder with folders all and hem; or a CSV file: `path,label`, with
        `patient` if known, of images of single cells on black, or labels or corrections of frames, as `validate` takes them.
        Paths are found from where the program runs or from the table's own folder.
    threads : int
        How many frames are examined at once.

    Returns
    -------
    ArchiveListing

    Raises
    ------
    DataError
        There is no such place, its table is wrong, or no cell in it can be used.
    """
    if place.is_dir():
        return _of_folder(place)
    if not place.exists():
        raise DataError(place, "no such folder or table")
    rows = read_rows(place)
    if "x0" in rows.columns:
        return _of_frames(place, threads)
    return _of_table(rows)


class _Labelled(NamedTuple):
    """An image file and what is said of it."""

    path: Path
    label: ClassName
    patient: str = ""


def _of_folder(root: Path) -> ArchiveListing:
    if has_cnmc_names(root):
        found = scan_dataset(root)
        return _listing(root, found.cells, found.rejected)
    left: list[tuple[Path, str]] = []
    labels = {path: folder_label(root, path) for path in sorted(image_files(root, left))}
    left += [(path, "in no folder named all or hem") for path, label in labels.items() if not label]
    return _read_images(root, [_Labelled(path, label) for path, label in labels.items() if label], left)


def _of_table(table: TableRows) -> ArchiveListing:
    column = "file" if "file" in table.columns and "path" not in table.columns else "path"
    table.require((column, "label"), WANTED)
    wrong: list[str] = []
    found: list[_Labelled] = []
    for number, row in table.rows:
        path, label = _image_at(table.path, row[column]), row["label"].lower()
        if label not in CLASSES:
            wrong.append(f"line {number}: the label is '{row['label']}', it must be one of {', '.join(CLASSES)}")
        elif path is None:
            wrong.append(f"line {number}: there is no file '{row[column]}', from here or from the table's folder")
        else:
            found.append(_Labelled(path, CLASSES[CLASSES.index(label)], row.get("patient", "")))
    if wrong:
        more = f"; and {len(wrong) - MOST_TOLD} more" if len(wrong) > MOST_TOLD else ""
        raise DataError(table.path, "; ".join(wrong[:MOST_TOLD]) + more)
    return _read_images(table.path, found, [])


def _image_at(table: Path, name: str) -> Path | None:
    candidates = () if "\0" in name or not name else (Path(name), table.parent / name)
    return next((path for path in candidates if path.is_file()), None)


def _read_images(root: Path, found: Sequence[_Labelled], left: list[tuple[Path, str]]) -> ArchiveListing:
    """Reads the files once, for their digests; of the same bytes the first is taken."""
    with ThreadPoolExecutor(READERS) as pool:
        entries = list(pool.map(_entry, found))
    left += [(one.path, entry) for one, entry in zip(found, entries, strict=True) if isinstance(entry, str)]
    cells, _, contradictions = drop_duplicates([entry for entry in entries if isinstance(entry, DatasetEntry)])
    return _listing(root, cells, [*left, *contradictions])


def _entry(one: _Labelled) -> DatasetEntry | str:
    """A file as C-NMC's are; where its name is of that kind and nobody says more, its patient is in the name."""
    named = NAME.fullmatch(one.path.stem)
    entry = read_entry(one.path, one.label, one.patient or (named["patient"].upper() if named else ""))
    if isinstance(entry, str) or named:
        return entry
    return replace(entry, person=entry.patient)  # ids of C-NMC that are one person say nothing of other numberings


def _listing(root: Path, cells: Sequence[DatasetEntry], left: Sequence[tuple[Path, str]]) -> ArchiveListing:
    if not cells:
        why = f", the first '{left[0][0]}': {left[0][1]}" if left else f" ({WANTED}; or folders all and hem of images)"
        raise DataError(root, f"no labelled cell can be used{why}")
    kept = (
        ArchiveCell(one.path.name, one.label, one.patient, one.person, one.path, sha256=one.sha256, image=one.path)
        for one in cells
    )
    return ArchiveListing(root, tuple(kept), tuple(left))


def _of_frames(table: Path, threads: int) -> ArchiveListing:
    labels = read_labels(table, frames_named_in(table))
    found = cut_labelled_cells(labels, FrameSpecification(), threads=threads)
    if not found.cells:
        why = f", the first of '{found.left_out[0][0]}': {found.left_out[0][1]}" if found.left_out else ""
        raise DataError(table, f"no cell that is labelled all or hem can be used{why}")
    return ArchiveListing(table, tuple(map(_cut_cell, found.cells)), found.left_out)


def _cut_cell(cell: SiteCell) -> ArchiveCell:
    picture = cv2.imencode(".png", cell.pixels[..., ::-1])[1].tobytes()
    return ArchiveCell(
        cell.frame.name,
        cell.label,
        cell.patient,
        cell.patient or str(cell.frame.parent),
        cell.frame,
        cell.box,
        bytes_sha256(picture),
        picture,
    )
