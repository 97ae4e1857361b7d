"""Corrections: what a person said of the cells that were found, as the slide page and napari save it (`corrections.csv`).

One row per cell: `path,number,x0,y0,x1,y1,old,new,who,when`, and if somebody adds it `patient`. `old` is the call, the
refusal's code, or empty for a cell added by hand; `new` is one of `ANSWERS`. A row with a path, without a box and with
`complete` says that the whole frame was looked at: what has no row there is no white cell. Of several rows on a box the last
one counts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.printable import write_table
from blastscope.runtime.types import CLASSES, Box, ClassName

Answer = Literal["hem", "all", "other", "unsure", "none"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)
WORDS: dict[Answer, str] = {
    "all": "ALL",
    "hem": "HEM",
    "other": "another white cell",
    "unsure": "can't tell",
    "none": "no white cell",
}
COMPLETE: Literal["complete"] = "complete"
COLUMNS = ("path", "number", "x0", "y0", "x1", "y1", "old", "new", "who", "when")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # how a cell begins that a spreadsheet computes


@dataclass(frozen=True, slots=True)
class Correction:
    """A person's answer on one cell or, without a box, on a whole frame.

    Attributes
    ----------
    path : str
        The frame, as the examination named it.
    number : int or None
        The cell's, as in the report; None for one that was added by hand.
    box : (x0, y0, x1, y1) or None
        The cell in pixels of the frame, half-open; None of a whole frame.
    old : str
        The call or the refusal's code; empty where there was none.
    new : str
        One of `ANSWERS`, or 'complete' of a whole frame.
    who, when : str
        A name or initials, and the time in ISO 8601.
    """

    path: str
    number: int | None
    box: Box | None
    old: str
    new: Answer | Literal["complete"]
    who: str
    when: str

    def values(self) -> tuple[object, ...]:
        """The fields of its row, in the order of `COLUMNS`."""
        return self.path, self.number, *(self.box or (None,) * 4), self.old, self.new, self.who, self.when


def write_corrections(path: Path, corrections: Iterable[Correction]) -> None:
    """Writes corrections to a CSV file, whole or not at all.

    Parameters
    ----------
    path : Path
        The file; one that stands there is replaced.
    corrections : iterable of Correction
        In the order of the rows.

    Raises
    ------
    WriteError
        The file can't be written.
    """
    rows = [
        [f"./{word}" if number == 0 and str(word).startswith(FORMULA) else word for number, word in enumerate(one.values())]
        for one in corrections
    ]
    write_table(path, COLUMNS, rows)


def read_corrections(path: Path) -> list[Correction]:
    """The rows of a file that `write_corrections`, the page or napari wrote, as they stand.

    Parameters
    ----------
    path : Path
        The CSV file.

    Returns
    -------
    list of Correction

    Raises
    ------
    DataError
        The file can't be read, or is no table of corrections.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return [
            Correction(
                path=row["path"],
                number=int(row["number"]) if row["number"] else None,
                box=(int(row["x0"]), int(row["y0"]), int(row["x1"]), int(row["y1"])) if row["x0"] else None,
                old=row["old"],
                new=row["new"],  # type: ignore[arg-type]  # whoever uses it says what is wrong with it
                who=row["who"],
                when=row["when"],
            )
            for row in rows
        ]
    except OSError as error:
        raise DataError(path, f"can't be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(path, f"is no table of corrections ({','.join(COLUMNS)}): {error}") from error


@dataclass(frozen=True, slots=True)
class ReviewedFrame:
    """A person's answers on the cells of one frame.

    Attributes
    ----------
    labels : mapping of Box to {'hem', 'all'}
        The cells that got a class.
    others : tuple of Box
        White cells of another kind, and those that nobody can tell: found rightly, and no call on them is judged.
    rejected : tuple of Box
        What is no white cell.
    complete : bool
        The whole frame was looked at.
    """

    labels: Mapping[Box, ClassName]
    others: tuple[Box, ...]
    rejected: tuple[Box, ...]
    complete: bool

    @classmethod
    def of(cls, answers: Mapping[Box, str], *, complete: bool) -> ReviewedFrame:
        """The reviewed frame, by the last answer on each box."""
        return cls(
            labels={box: name for box, answer in answers.items() for name in CLASSES if answer == name},
            others=tuple(box for box, answer in answers.items() if answer in ("other", "unsure")),
            rejected=tuple(box for box, answer in answers.items() if answer == "none"),
            complete=complete,
        )
