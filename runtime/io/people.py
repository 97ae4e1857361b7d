"""Which patient ids are one person: by the list for C-NMC, by cells that they share, and by a table in the data folder."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.atomic import write_content

PEOPLE_TABLE = "people.csv"  # in the data folder; columns patient, person
WANTED = "a row for each patient id, with columns patient and person; ids with the same person are one"
# Ids of C-NMC that are one person. By the SHA-256 of all its images the whole archive holds byte-identical cells under 51, 75
# and 78, under 20 and 21, under H2, H4, H5 and H6, and under H3 and H10. The other ids share cells with them, or with each
# other, that were cut out and coloured anew: by eye they are the same ones, and `train/near_copies.py` finds them. A part of
# the archive may lack the copies, so the ids are listed here; byte-identical cells in the files at hand are found as well.
# Only files named as C-NMC's are read so, and the list meets no other numbering.
TWIN_PATIENTS = (
    *(("1", "15", "16", "17", "20", "21"), ("43", "44"), ("51", "75", "78")),
    *(("H2", "H4", "H5", "H6", "H7"), ("H3", "H10"), ("H14", "H24")),
)


def person_of(patient: str) -> str:
    """The id that stands for all ids of a person, by `TWIN_PATIENTS`: '51' for '75', for example.

    Parameters
    ----------
    patient : str
        A patient id of C-NMC.

    Returns
    -------
    str
        `patient` itself where no other id is known.
    """
    return next((group[0] for group in TWIN_PATIENTS if patient in group), patient)


def join_ids(patients: Iterable[str], same: Iterable[Sequence[str]]) -> dict[str, str]:
    """The person of each patient id, where some ids are known to be one person.

    Parameters
    ----------
    patients : iterable of str
        The ids.
    same : iterable of sequences of str
        Ids that are one person, also over several of these groups. Ids that aren't among `patients` are added.

    Returns
    -------
    dict of str to str
        In the order of the ids: shorter ones first. A person is named by the first of its ids.
    """
    parent = {patient: patient for patient in patients}

    def root_of(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            name = above
        return name

    for group in same:
        for name in group:
            one, other = root_of(group[0]), root_of(name)
            parent[max(one, other, key=_by_id)] = min(one, other, key=_by_id)
    return {patient: root_of(patient) for patient in sorted(parent, key=_by_id)}


def _by_id(patient: str) -> tuple[int, str]:
    return len(patient), patient


def read_people(root: Path) -> tuple[tuple[str, ...], ...]:
    """The ids that a folder's `people.csv` calls one person.

    Parameters
    ----------
    root : Path
        The data folder.

    Returns
    -------
    tuple of tuples of str
        Groups of ids in upper case; empty where there is no such table.

    Raises
    ------
    DataError
        The table can't be read, a cell of it is empty, or a patient has two persons.
    """
    path = root / PEOPLE_TABLE
    if not path.is_file():
        return ()
    groups: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(row["patient"].strip().upper(), row["person"].strip()) for row in csv.DictReader(file)]
    except (KeyError, AttributeError, ValueError, OSError, csv.Error) as error:
        raise DataError(path, f"can't be read as a table: {error}; wanted is {WANTED}") from error
    for patient, person in rows:
        if not (patient and person):
            raise DataError(path, f"has a row with an empty cell; wanted is {WANTED}")
        if seen.setdefault(patient, person) != person:
            raise DataError(path, f"says that patient '{patient}' is '{seen[patient]}' and '{person}'; wanted is {WANTED}")
        groups.setdefault(person, []).append(patient)
    return tuple(tuple(group) for group in groups.values())


def write_people(path: Path, people: Mapping[str, str]) -> None:
    """Writes a table as `read_people` reads it.

    Parameters
    ----------
    path : Path
        The file; it is replaced at once or not at all.
    people : mapping of str to str
        The person of each patient id. An id that is the only one of its person needs no row and gets none.
    """
    counts = dict.fromkeys(people.values(), 0)
    for person in people.values():
        counts[person] += 1
    rows = "".join(f"{patient},{person}\n" for patient, person in people.items() if counts[person] > 1)
    write_content(path, f"patient,person\n{rows}")
