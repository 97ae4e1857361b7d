"""Labelled cells on disk: finds C-NMC images in the archive's folders or in flat ones, and says what it left out and why.

    anywhere/fold_0/all/UID_57_29_1_all.bmp      the archive's layout, at any depth
    anywhere/hem/UID_H49_3_2_hem.png             a flat one

The label is the folder's. Where no file with such a name lies below a folder named all or hem, the preliminary test set's table
of labels is read. It is read only then, so that nobody trains on the test set by naming the archive's root.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.image import check_image
from blastscope.runtime.io.image_decode import SUFFIXES, read_content
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.io.people import PEOPLE_TABLE, TWIN_PATIENTS, join_ids, person_of, read_people
from blastscope.runtime.types import CLASSES, ClassName, Refusal

NAME = re.compile(r"UID_(?P<patient>[a-z]?\d+)_(?P<image>\d+)_(?P<cell>\d+)_(?P<label>all|hem)", re.IGNORECASE)
NAME_IN_WORDS = "the name is not UID_<patient>_<image>_<cell>_<all|hem>"
TEST_FOLDER = "C-NMC_test_prelim_phase_data"
TEST_TABLE = f"{TEST_FOLDER}_labels.csv"
READERS = 8  # hashing and reading release the lock; more threads than cores hide a slow disk


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One labelled image of one cell.

    Attributes
    ----------
    path : Path
        The image file.
    label : {'hem', 'all'}
        By the folder's name, or by the test set's table.
    patient : str
        The id in the file's name, such as '57' or 'H49', in upper case.
    image, cell : str
        The numbers in the file's name.
    sha256 : str
        SHA-256 of the file's bytes, in hex.
    person : str
        One id for all ids of the same person, so that no split parts them; by default from `TWIN_PATIENTS`.
    """

    path: Path
    label: ClassName
    patient: str  # '57' or 'H49', always in upper case
    image: str
    cell: str
    sha256: str  # of the file's bytes
    person: str = ""  # one id for all ids of the same person, so that no split parts them; by default from TWIN_PATIENTS

    def __post_init__(self) -> None:
        if not self.person:
            object.__setattr__(self, "person", person_of(self.patient))


@dataclass(frozen=True, slots=True)
class Dataset:
    """All labelled cells below a folder, and what was left out.

    Attributes
    ----------
    root : Path
        The folder.
    cells : tuple of DatasetEntry
        Sorted by their path from `root`.
    duplicates : tuple of (Path, Path)
        Files that were dropped, each with the byte-identical one that was kept.
    rejected : tuple of (Path, str)
        Files and folders that couldn't be used, each with the reason.
    sha256 : str
        Digest of label, patient and content of every cell. Moving or renaming the folder doesn't change it.
    people : mapping of str to str
        The person of each patient id that was found, and of each in `TWIN_PATIENTS` and `people.csv`.
    """

    root: Path
    cells: tuple[DatasetEntry, ...]
    duplicates: tuple[tuple[Path, Path], ...]  # (dropped, kept), byte-identical
    rejected: tuple[tuple[Path, str], ...]  # with the reason
    sha256: str  # of label, patient and content of every cell: moving or renaming the folder doesn't change it
    people: Mapping[str, str]  # id -> its person, for each id found, with cells left or without, and each that is joined

    def people_of(self, patients: Iterable[str]) -> frozenset[str]:
        """The people that stand behind patient ids, whether or not cells of these ids are here.

        Parameters
        ----------
        patients : iterable of str
            Patient ids. One that isn't known stands for itself.

        Returns
        -------
        frozenset of str
        """
        return frozenset(self.people.get(patient, patient) for patient in patients)


def patient_in_name(path: Path) -> str | None:
    """The person whose cell a file named as C-NMC's shows.

    Parameters
    ----------
    path : Path
        Only its name counts.

    Returns
    -------
    str or None
        Such as 'H49', with all ids of one person under one; None for other names.
    """
    match = NAME.match(path.name)
    return person_of(match["patient"].upper()) if match else None


def check_dataset_folder(root: Path) -> None:
    """Raises `DataError` where there is no such folder."""
    if not root.is_dir():
        raise DataError(root, "not a folder" if root.exists() else "no such folder")


def scan_dataset(root: Path | str) -> Dataset:
    """The labelled cells below a folder in C-NMC's naming.

    Patient ids are one person if `TWIN_PATIENTS` or the folder's `people.csv` joins them (`runtime/io/people.py`), or if
    byte-identical cells stand under them, also over a third id: their cells have one `person`. Byte-identical duplicates are
    dropped. Files that can't be read, or whose names tell nothing, are listed in `rejected`, and the search goes on. Links are
    followed; hidden files and files with other suffixes than those of images are passed over.

    Parameters
    ----------
    root : Path or str
        The archive, or any folder with folders `all` and `hem` below it.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        There is no such folder, a patient or person has both labels, a class has no cell, or `people.csv` can't be read.
    """
    root = Path(root)
    check_dataset_folder(root)
    unread: list[tuple[Path, str]] = []
    found, rejected = _read_all(_named_files(root, unread))
    _check_patients(root, found)
    people = _people(root, found)
    found = [replace(cell, person=people[cell.patient]) for cell in found]
    cells, duplicates, contradictions = drop_duplicates(found)
    rejected = sorted([*rejected, *contradictions, *unread], key=lambda item: _order(root, item[0]))
    _check_classes(root, cells, rejected)
    return Dataset(root, tuple(cells), tuple(duplicates), tuple(rejected), _digest(cells), people)


def has_cnmc_names(root: Path) -> bool:
    """Whether `scan_dataset` finds cells in a folder: files named as C-NMC's, or the test set's table."""
    named = (path for path in image_files(root, []) if NAME.fullmatch(path.stem))
    return any(folder_label(root, path) for path in named) or _test_table(root) is not None


@dataclass(frozen=True, slots=True)
class _Named:
    """An image file of a data set, before its name is parsed.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        Tells patient and label.
    label : ClassName or None
        Of its folder or of the table.
    problem : str
        What is said where the name tells nothing.
    """

    path: Path
    name: str
    label: ClassName | None
    problem: str = NAME_IN_WORDS


def _named_files(root: Path, unread: list[tuple[Path, str]]) -> list[_Named]:
    """Every image file below `root`, in the order of the relative path. Folders that can't be read go to `unread`."""
    paths = sorted(image_files(root, unread), key=lambda path: _order(root, path))
    files = [_Named(path, path.stem, folder_label(root, path)) for path in paths]
    if any(file.label and NAME.fullmatch(file.name) for file in files):
        return files
    table = _test_table(root)
    if table is None:
        return files
    if missing := table.missing(paths):
        lacks = f"lacks {len(missing)} of the {len(table.rows)} files in '{table.path.name}', the first is '{missing[0]}'"
        unread.append((root, lacks))
    return [table.label(file) for file in files]


def _order(root: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(root).parts


def image_files(root: Path, unread: list[tuple[Path, str]]) -> Iterator[Path]:
    """The image files below a folder, by their suffix. Folders that can't be read go to `unread`, each with the reason."""

    def pass_over(error: OSError) -> None:
        unread.append((Path(error.filename), f"can't be read: {error.strerror}"))

    seen: set[tuple[int, int]] = set()
    for folder, inner, names in os.walk(root, followlinks=True, onerror=pass_over):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder above
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)


def folder_label(root: Path, path: Path) -> ClassName | None:
    """The label of a file below `root`: that of the nearest folder named all or hem, `root` itself being the last."""
    names = [resolved(root).name, *path.relative_to(root).parts[:-1]]
    return next((label for name in reversed(names) for label in CLASSES if name.lower() == label), None)


@dataclass(frozen=True, slots=True)
class _TestTable:
    """The preliminary test set's labels. Files are known by their stems: the set may have been saved anew in another format.

    Attributes
    ----------
    path : Path
        The table.
    folders : tuple of Path
        Where its files may lie; the final test set has files of the same names.
    rows : mapping of str to (str, ClassName)
        By stem: the name that tells the patient, and the label.
    """

    path: Path
    folders: tuple[Path, ...]
    rows: Mapping[str, tuple[str, ClassName]]

    def label(self, file: _Named) -> _Named:
        """`file` with what the table says of it."""
        if file.path.parent not in self.folders:
            return file
        if file.path.stem not in self.rows:
            return replace(file, problem=f"{NAME_IN_WORDS}, and '{self.path.name}' has no row for it")
        name, label = self.rows[file.path.stem]
        return replace(file, name=name, label=label)

    def missing(self, paths: Iterable[Path]) -> list[str]:
        """The files that the table names and none of `paths` is."""
        found = {path.stem for path in paths if path.parent in self.folders}
        return [stem for stem in self.rows if stem not in found]


def _test_table(root: Path) -> _TestTable | None:
    """The preliminary test set's table, in or beside `root`."""
    tables = sorted(root.rglob(TEST_TABLE)) or sorted(root.parent.glob(TEST_TABLE))
    beside = [tables[0].parent] if tables and tables[0].is_relative_to(root) else []
    folders = (*beside, *root.rglob(TEST_FOLDER), *([root] if resolved(root).name == TEST_FOLDER else []))
    if not (tables and folders):
        return None
    try:
        with tables[0].open(newline="", encoding="utf-8-sig") as file:
            rows = {
                Path(row["new_names"]).stem: (Path(row["Patient_ID"]).stem, {"0": CLASSES[0], "1": CLASSES[1]}[row["labels"]])
                for row in csv.DictReader(file)
            }
    except (KeyError, ValueError, TypeError, OSError, csv.Error) as error:
        raise DataError(tables[0], f"not a table with columns Patient_ID, new_names, labels (0 or 1): {error}") from error
    return _TestTable(tables[0], folders, rows)


def _read_all(files: list[_Named]) -> tuple[list[DatasetEntry], list[tuple[Path, str]]]:
    with ThreadPoolExecutor(READERS) as pool:
        results = list(pool.map(_read, files))
    cells = [result for result in results if isinstance(result, DatasetEntry)]
    return cells, [(file.path, result) for file, result in zip(files, results, strict=True) if isinstance(result, str)]


def _read(file: _Named) -> DatasetEntry | str:
    """The cell in `file`, or why it is rejected."""
    match = NAME.fullmatch(file.name)
    if match is None:
        return file.problem
    if file.label is None:
        return "in no folder named all or hem"
    if match["label"].lower() != file.label:
        return f"the name says {match['label'].lower()}, its folder or table {file.label}"
    return read_entry(file.path, file.label, match["patient"].upper(), match["image"], match["cell"])


def read_entry(path: Path, label: ClassName, patient: str, image: str = "", cell: str = "") -> DatasetEntry | str:
    """A labelled image whose bytes were read, or why it can't be used. The other parameters are `DatasetEntry`'s."""
    content = read_content(path)
    if isinstance(content, Refusal):
        return content.detail
    if refusal := check_image(content):
        return f"{refusal.code}: {refusal.detail}"
    return DatasetEntry(path, label, patient, image, cell, hashlib.sha256(content).hexdigest())


def _check_patients(root: Path, cells: Iterable[DatasetEntry]) -> None:
    labels: dict[str, set[ClassName]] = defaultdict(set)
    for cell in cells:
        labels[cell.patient].add(cell.label)
    both = sorted(patient for patient, seen in labels.items() if len(seen) > 1)
    if both:
        raise DataError(root, f"cells labelled all and cells labelled hem of the same patient: {', '.join(both)}")


def _people(root: Path, found: Iterable[DatasetEntry]) -> dict[str, str]:
    """The person of each patient id: of those found, and of those in `TWIN_PATIENTS`."""
    patients, sharing = set(), defaultdict(list)
    for cell in found:  # the same bytes under both labels are an error of one of the two names, not a person
        patients.add(cell.patient)
        sharing[cell.sha256, cell.label].append(cell.patient)
    told = read_people(root)
    people = join_ids(patients, [*TWIN_PATIENTS, *sharing.values(), *told])
    labels: dict[str, set[ClassName]] = defaultdict(set)
    for cell in found:
        labels[people[cell.patient]].add(cell.label)
    both = [person for person, seen in labels.items() if len(seen) > 1]
    if told and both:
        joined = ", ".join(patient for patient, person in people.items() if person in both)
        raise DataError(root / PEOPLE_TABLE, f"joins ids with cells labelled all and ids with cells labelled hem: {joined}")
    return people


def drop_duplicates(found: list[DatasetEntry]) -> tuple[list[DatasetEntry], list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """Cells, (dropped, kept), and those rejected since the same bytes carry both labels, so that neither can be believed."""
    first: dict[str, DatasetEntry] = {}
    twins: dict[str, list[DatasetEntry]] = defaultdict(list)
    for cell in found:
        first.setdefault(cell.sha256, cell)
        twins[cell.sha256].append(cell)
    torn = {digest for digest, group in twins.items() if len({cell.label for cell in group}) > 1}
    cells = [cell for cell in first.values() if cell.sha256 not in torn]
    dropped = [
        (cell.path, first[cell.sha256].path) for cell in found if cell.sha256 not in torn and cell is not first[cell.sha256]
    ]
    rejected = [(cell.path, "the same bytes stand under both labels") for cell in found if cell.sha256 in torn]
    return cells, dropped, rejected


def _check_classes(root: Path, cells: Iterable[DatasetEntry], rejected: list[tuple[Path, str]]) -> None:
    present = {cell.label for cell in cells}
    missing = [label for label in CLASSES if label not in present]
    if not missing:
        return
    why = f"; {len(rejected)} files were rejected, first '{rejected[0][0]}': {rejected[0][1]}" if rejected else ""
    raise DataError(
        root,
        f"no cells of class {' and none of class '.join(missing)} (wanted: folders all/ and hem/ holding "
        f"UID_<patient>_<image>_<cell>_<all|hem> as {', '.join(SUFFIXES)}){why}",
    )


def _digest(cells: Iterable[DatasetEntry]) -> str:
    lines = sorted(f"{cell.label} {cell.patient} {cell.sha256}\n" for cell in cells)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
