"""Review in napari: what a person says of the cells in the layer of boxes, and its way to `corrections.csv` and back.

`answer_cells` and `accept_calls` note answers in the layer, `corrections_in` reads them there, and `restore_answers` puts
saved ones back. Nothing here imports napari itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.frames.corrections import (
    ANSWERS,
    COMPLETE,
    WORDS,
    Answer,
    Correction,
    read_corrections,
    write_corrections,
)
from blastscope.runtime.integrations.napari_layers import MARK, expect_shapes_by_hand
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.types import CLASSES, Box

ARROW = " \u2192 "  # between the call and the answer, in a cell's text


def cells_layer(viewer: Any, layer: Any) -> Any:
    """The layer of boxes over the image `layer`. Raises `UsageError` where it hasn't been examined."""
    for shapes in viewer.layers:
        if shapes.metadata.get(MARK) == layer.name and "report" in shapes.metadata:
            return shapes
    raise UsageError(f"layer '{layer.name}' has no cells: examine it first")


def answer_cells(shapes: Any, numbers: Iterable[int], answer: Answer | Literal[""]) -> int:
    """Notes in the layer of boxes what a person says of the shapes `numbers`, and shows it; gives how many they are.

    An empty answer takes back what was said.
    """
    return _answer(shapes, dict.fromkeys(numbers, answer))


class Accepted(NamedTuple):
    """What became of shapes whose calls were to be accepted.

    Attributes
    ----------
    calls : int
        Of so many the call was accepted.
    without : int
        So many had none.
    """

    calls: int
    without: int


def accept_calls(shapes: Any, numbers: Iterable[int]) -> Accepted:
    """Notes of those of the shapes `numbers` that were called that a person says the same.

    Parameters
    ----------
    shapes : napari Shapes layer
        The boxes, as `show_report` adds them.
    numbers : iterable of int
        Places of shapes in the layer.

    Returns
    -------
    Accepted
        A refused cell, and a shape that was drawn by hand, has no call that could be accepted.
    """
    chosen = list(numbers)
    calls = {number: shapes.features.at[number, "call"] for number in chosen}
    accepted = _answer(shapes, {number: call for number, call in calls.items() if call in CLASSES})
    return Accepted(accepted, len(chosen) - accepted)


def _answer(shapes: Any, answers: Mapping[int, Answer | Literal[""]]) -> int:
    features = shapes.features.copy()
    for number, answer in answers.items():
        known = str(features.at[number, "text"]).split(ARROW)[0]
        features.at[number, "answer"] = answer
        features.at[number, "text"] = f"{known}{ARROW}{WORDS[answer]}" if answer else known
    shapes.features = features
    shapes.refresh_text()
    expect_shapes_by_hand(shapes)
    return len(answers)


def review_state(shapes: Any) -> str:
    """How far the review of a frame is, for people: as the slide page says it."""
    features = shapes.features
    answered = features[features["answer"] != ""]
    changed = int((answered["answer"] != answered["call"]).sum())
    return f"{len(answered)} of {len(features)} cells reviewed, {changed} of them changed"


def restore_answers(shapes: Any, path: str, table: Path) -> int:
    """Puts saved answers back into the layer of boxes, to go on with them.

    Parameters
    ----------
    shapes : napari Shapes layer
        The boxes, as `show_report` adds them.
    path : str
        The frame's file.
    table : Path
        Corrections, as the slide page or napari saved them; they may name the frame from their own folder. Of several on a box
        the last one counts. A box that isn't in the layer was drawn by hand, and is drawn again.

    Returns
    -------
    int
        How many cells have an answer by them.

    Raises
    ------
    DataError
        The file can't be read, or says something else than an answer.
    """
    said: dict[Box, Answer] = {}
    frame = resolved(Path(path))
    for one in read_corrections(table):
        here = frame in (resolved(Path(one.path)), resolved(table.parent / one.path))
        if not here or one.box is None or one.new == COMPLETE:
            continue
        if one.new not in ANSWERS:
            raise DataError(table, f"says '{one.new}' of the box {one.box}: the answers are {', '.join(ANSWERS)}")
        said[one.box] = one.new
    places = {_box(points): number for number, points in enumerate(shapes.data)}
    for box in [box for box in said if box not in places]:
        x0, y0, x1, y1 = box
        shapes.add_rectangles(np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], np.float64) - 0.5)
        places[box] = len(shapes.data) - 1
    return _answer(shapes, {places[box]: answer for box, answer in said.items()})


def corrections_in(shapes: Any, path: str, who: str, *, whole: bool) -> list[Correction]:
    """A person's answers on the cells of one frame.

    Parameters
    ----------
    shapes : napari Shapes layer
        The boxes, as `show_report` adds them; shapes that were drawn by hand count once they are answered.
    path : str
        The frame's file, as the table will name it.
    who : str
        Name or initials.
    whole : bool
        The person looked at the whole frame, and answered each cell in it.

    Returns
    -------
    list of Correction

    Raises
    ------
    UsageError
        `who` is empty, nothing was answered, or the frame isn't whole since cells lack an answer.
    """
    name, when = who.strip().lstrip("=+-@ \t"), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if not name:
        raise UsageError("who are you? type your name or initials first")
    rows = list(_rows(shapes, path, name, when))
    missing = len(shapes.data) - len(rows)
    if whole and missing:
        raise UsageError(f"{missing} cells have no answer yet, so the frame wasn't looked at as a whole")
    if whole:
        rows.append(Correction(path, None, None, "", COMPLETE, name, when))
    if not rows:
        raise UsageError("nothing was answered: select cells in the layer of boxes, and say what they are")
    return rows


def _rows(shapes: Any, path: str, who: str, when: str) -> Iterator[Correction]:
    for points, (_, row) in zip(shapes.data, shapes.features.iterrows(), strict=True):
        if not row["answer"]:
            continue
        old = row["refusal"] or row["call"]
        yield Correction(path, int(row["number"]) or None, _box(points), old, row["answer"], who, when)


def _box(points: NDArray[np.float64]) -> Box:
    """The box of a shape in pixels of the frame: napari's pixels lie around their numbers."""
    (top, left), (bottom, right) = points.min(axis=0)[-2:], points.max(axis=0)[-2:]
    x0, y0, x1, y1 = (round(float(max(edge + 0.5, 0))) for edge in (left, top, right, bottom))
    return x0, y0, x1, y1


def save_corrections(path: Path, corrections: list[Correction]) -> int:
    """Adds corrections to those that stand in a file, which is made where there is none; gives how many it then holds.

    Raises `DataError` for another kind of file, `WriteError` where it can't be written.
    """
    before = read_corrections(path) if path.exists() else []
    write_corrections(path, [*before, *corrections])
    return len(before) + len(corrections)
