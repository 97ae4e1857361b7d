"""The labelled white cells of BCCD's frames: which are lymphoid, by eye, without a look at what is found there.

Boxes are BCCD's own (MIT). Left out are cells that the frame's edge cuts, and further pictures of a cell that is there already:
BCCD shows some cells in two frames, on both sides of its split too. The `doubtful` ones, smudged, or monocytes perhaps, are in
the table and never counted. The kinds that others published of whole frames, with a copy of BCCD, agree on all that isn't
doubtful.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from blastscope.runtime.prediction import Box

Kind = Literal["lymphoid", "myeloid", "doubtful"]  # myeloid: granulocytes and monocytes
PARTS = ("train", "val")  # limits are chosen on the first; the second only reports
TABLE = Path(__file__).with_name("cells.csv")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One white cell that lies whole in its frame."""

    part: str
    frame: str
    box: Box
    kind: Kind


def labelled_cells(table: Path = TABLE) -> tuple[Labelled, ...]:
    """All rows of the table. Raises `ValueError` for a kind or a part that isn't known."""
    with table.open(encoding="utf-8", newline="") as file:
        return tuple(_labelled(row) for row in csv.DictReader(file))


def _labelled(row: dict[str, str]) -> Labelled:
    if row["kind"] not in get_args(Kind) or row["part"] not in PARTS:
        raise ValueError(f"{row['frame']}: no such kind or part: '{row['kind']}', '{row['part']}'")
    x0, y0, x1, y1 = (int(row[side]) for side in ("x0", "y0", "x1", "y1"))
    return Labelled(row["part"], row["frame"], (x0, y0, x1, y1), row["kind"])  # type: ignore[arg-type]
