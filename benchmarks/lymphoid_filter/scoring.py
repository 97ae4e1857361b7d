"""What is said of labelled cells: may be called, `not-lymphoid`, refused for another reason, or not found.

The labelled white cells of BCCD's frames: which are lymphoid, by eye, without a look at what is found there.

Boxes are BCCD's own (MIT). Left out are cells that the frame's edge cuts, and further pictures of a cell that is there already:
BCCD shows some cells in two frames, on both sides of its split too. The `doubtful` ones, smudged, or monocytes perhaps, are in
the table and never counted. The kinds that others published of whole frames, with a copy of BCCD, agree on all that isn't
doubtful.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from blastscope.benchmarks.lymphoid_filter.composites import Glass, laid_on
from blastscope.benchmarks.lymphoid_filter.perturbations import Frame, Look
from blastscope.runtime.evaluation.detection import match_boxes
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Box, Refusal

Said = Literal["called", "not-lymphoid", "otherwise", "lost"]
COUNTED: tuple[Kind, ...] = ("lymphoid", "myeloid")
SPEC = FrameSpecification()


@dataclass(frozen=True)
class Count:
    """What was said of the cells of one kind, in one part and one look."""

    look: str
    part: str
    kind: str
    called: int = 0
    not_lymphoid: int = 0
    otherwise: int = 0  # refused for another reason
    lost: int = 0  # not found

    @property
    def judged(self) -> int:
        """Of how many cells the kind was looked at."""
        return self.called + self.not_lymphoid


def count_frames(name: str, look: Look, cells: Iterable[Labelled], folder: Path) -> list[Count]:
    """What is said of `cells` in BCCD's frames below `folder`, seen in this look: a count for each part and kind."""
    by_frame: dict[str, list[Labelled]] = {}
    for cell in cells:
        by_frame.setdefault(cell.frame, []).append(cell)

    def judge(frame: str) -> list[tuple[str, str, Said]]:
        picture = read_image(folder / f"{frame}.jpg")
        if not isinstance(picture, np.ndarray):
            raise ValueError(f"{frame}: {picture.detail}")
        seen, own = look(picture), by_frame[frame]
        size = seen.shape[1] / picture.shape[1]
        said = said_of(seen, [tuple(round(size * side) for side in cell.box) for cell in own])
        return [(cell.part, cell.kind, word) for cell, word in zip(own, said, strict=True)]

    with ThreadPoolExecutor(usable_threads()) as threads:
        told = Counter(word for words in threads.map(judge, by_frame) for word in words)
    return [_count(name, part, kind, told) for part in PARTS for kind in COUNTED]


def count_on_glass(name: str, glass: Glass, cells: Sequence[Path]) -> Count:
    """What is said of C-NMC's `cells` on this glass."""
    told: Counter[tuple[str, str, Said]] = Counter()
    for laid in laid_on(glass, cells):
        told.update(("C-NMC", "lymphoid", word) for word in said_of(laid.frame, laid.boxes, laid.pixel_um))
    return _count(name, "C-NMC", "lymphoid", told)


def said_of(frame: Frame, boxes: Sequence[Box], pixel_um: float | None = None) -> list[Said]:
    """One word for each box."""
    facts = estimate_frame_parameters(frame, SPEC, pixel_um=pixel_um)
    found = segment_cells(frame, facts, SPEC)
    pairs = match_boxes(boxes, [cell.box for cell in found])
    return [_word(found[pairs[number]].refusal) if number in pairs else "lost" for number in range(len(boxes))]


def _word(refusal: Refusal | None) -> Said:
    if refusal is None:
        return "called"
    return "not-lymphoid" if refusal.code == "not-lymphoid" else "otherwise"


def _count(look: str, part: str, kind: str, told: Counter[tuple[str, str, Said]]) -> Count:
    words: tuple[Said, ...] = ("called", "not-lymphoid", "otherwise", "lost")
    return Count(look, part, kind, *(told[part, kind, word] for word in words))


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
