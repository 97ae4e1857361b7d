"""Labelled white cells, and what the frame pipeline makes of each: called, `not-lymphoid`, refused otherwise, or not found.

The cells are those of BCCD's frames, labelled by eye as lymphoid or not before the pipeline's result was looked at.

Boxes are BCCD's own (MIT). Left out are cells that the frame's edge cuts, and further images of a cell that is there already:
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

from blastscope.benchmarks.lymphoid_filter.composites import Background, Frame, Perturbation, compose_frames
from blastscope.runtime.evaluation.detection import match_boxes
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Box, Refusal

Kind = Literal["lymphoid", "myeloid", "doubtful"]  # myeloid: granulocytes and monocytes
COUNTED_KINDS: tuple[Kind, ...] = ("lymphoid", "myeloid")
PARTS = ("train", "val")  # limits are chosen on the first; the second only reports
Outcome = Literal["called", "not-lymphoid", "other-refusal", "not-found"]
TABLE = Path(__file__).with_name("cells.csv")
SPEC = FrameSpecification()


@dataclass(frozen=True, slots=True)
class BenchmarkCell:
    """One white cell that lies whole in its frame.

    Attributes
    ----------
    part : {'train', 'val'}
        Limits are chosen on the first; the second only reports.
    frame : str
        File name.
    box : (x0, y0, x1, y1)
        In pixels of the frame.
    kind : {'lymphoid', 'myeloid', 'doubtful'}
        What experts call it.
    """

    part: str
    frame: str
    box: Box
    kind: Kind


def benchmark_cells(table: Path = TABLE) -> tuple[BenchmarkCell, ...]:
    """All rows of a table of labelled cells.

    Parameters
    ----------
    table
        CSV file with the columns `part`, `frame`, `x0`, `y0`, `x1`, `y1` and `kind`.

    Raises
    ------
    ValueError
        A kind or a part is unknown.
    """
    with table.open(encoding="utf-8", newline="") as file:
        return tuple(_labelled_cell(row) for row in csv.DictReader(file))


def _labelled_cell(row: dict[str, str]) -> BenchmarkCell:
    if row["kind"] not in get_args(Kind) or row["part"] not in PARTS:
        raise ValueError(f"{row['frame']}: no such kind or part: '{row['kind']}', '{row['part']}'")
    x0, y0, x1, y1 = (int(row[side]) for side in ("x0", "y0", "x1", "y1"))
    return BenchmarkCell(row["part"], row["frame"], (x0, y0, x1, y1), row["kind"])  # type: ignore[arg-type]


@dataclass(frozen=True)
class OutcomeCounts:
    """How many cells of one kind, in one part and under one perturbation, had each outcome.

    Attributes
    ----------
    perturbation, part, kind : str
        Which cells these are.
    called, not_lymphoid, other_refusal, not_found : int
        Cells with each outcome.
    """

    perturbation: str
    part: str
    kind: str
    called: int = 0
    not_lymphoid: int = 0
    other_refusal: int = 0
    not_found: int = 0

    @property
    def judged(self) -> int:
        """Cells that the lymphoid filter judged: called, or refused as not lymphoid."""
        return self.called + self.not_lymphoid


def count_frame_outcomes(
    name: str, perturbation: Perturbation, cells: Iterable[BenchmarkCell], folder: Path
) -> list[OutcomeCounts]:
    """Counts the outcomes of labelled cells in perturbed frames.

    Parameters
    ----------
    name
        Of the perturbation.
    perturbation
        Applied to each frame, uint8 (H, W, 3) RGB.
    cells
        Labelled cells.
    folder
        Folder of BCCD's frames.

    Returns
    -------
    list of OutcomeCounts
        One for each part and kind.

    Raises
    ------
    ValueError
        A frame can't be read.
    """
    by_frame: dict[str, list[BenchmarkCell]] = {}
    for cell in cells:
        by_frame.setdefault(cell.frame, []).append(cell)

    def frame_outcomes(frame: str) -> list[tuple[str, str, Outcome]]:
        image = read_image(folder / f"{frame}.jpg")
        if not isinstance(image, np.ndarray):
            raise ValueError(f"{frame}: {image.detail}")
        perturbed, labelled = perturbation(image), by_frame[frame]
        scale = perturbed.shape[1] / image.shape[1]
        outcomes = cell_outcomes(perturbed, [tuple(round(scale * side) for side in cell.box) for cell in labelled])
        return [(cell.part, cell.kind, outcome) for cell, outcome in zip(labelled, outcomes, strict=True)]

    with ThreadPoolExecutor(usable_threads()) as threads:
        counter = Counter(outcome for outcomes in threads.map(frame_outcomes, by_frame) for outcome in outcomes)
    return [_counts(name, part, kind, counter) for part in PARTS for kind in COUNTED_KINDS]


def count_composite_outcomes(name: str, background: Background, cells: Sequence[Path]) -> OutcomeCounts:
    """Counts the outcomes of C-NMC cells, image files, that are composited on a background."""
    counter: Counter[tuple[str, str, Outcome]] = Counter()
    for composite in compose_frames(background, cells):
        outcomes = cell_outcomes(composite.frame, composite.boxes, composite.pixel_um)
        counter.update(("C-NMC", "lymphoid", outcome) for outcome in outcomes)
    return _counts(name, "C-NMC", "lymphoid", counter)


def cell_outcomes(frame: Frame, boxes: Sequence[Box], pixel_um: float | None = None) -> list[Outcome]:
    """What the frame pipeline makes of the cells in a frame.

    Parameters
    ----------
    frame
        Uint8 (H, W, 3) RGB.
    boxes
        Of the labelled cells: x0, y0, x1, y1 in pixels.
    pixel_um
        Micrometres per pixel; None: estimated.

    Returns
    -------
    list of Outcome
        One for each box.
    """
    parameters = estimate_frame_parameters(frame, SPEC, pixel_um=pixel_um)
    found = segment_cells(frame, parameters, SPEC)
    pairs = match_boxes(boxes, [cell.box for cell in found])
    return [_outcome(found[pairs[number]].refusal) if number in pairs else "not-found" for number in range(len(boxes))]


def _outcome(refusal: Refusal | None) -> Outcome:
    if refusal is None:
        return "called"
    return "not-lymphoid" if refusal.code == "not-lymphoid" else "other-refusal"


def _counts(perturbation: str, part: str, kind: str, counter: Counter[tuple[str, str, Outcome]]) -> OutcomeCounts:
    outcomes: tuple[Outcome, ...] = get_args(Outcome)
    return OutcomeCounts(perturbation, part, kind, *(counter[part, kind, outcome] for outcome in outcomes))
