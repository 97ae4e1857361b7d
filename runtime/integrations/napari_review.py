"""Review in napari: what a person says of selected cells becomes corrections. Nothing here imports napari itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.corrections import COMPLETE, WORDS, Answer, Correction, read_corrections, write_corrections
from blastscope.runtime.integrations.napari_layers import MARK, expect_shapes_by_hand

ARROW = " \u2192 "  # between the call and the answer, in a cell's text


def cells_layer(viewer: Any, layer: Any) -> Any:
    """The layer of boxes that lies over the image `layer`. Raises `UsageError` where it hasn't been examined."""
    for shapes in viewer.layers:
        if shapes.metadata.get(MARK) == layer.name and "report" in shapes.metadata:
            return shapes
    raise UsageError(f"layer '{layer.name}' has no cells: examine it first")


def answer_cells(shapes: Any, numbers: Iterable[int], answer: Answer) -> int:
    """Notes in the layer of boxes what a person says of the shapes `numbers`, and shows it; gives how many they are."""
    chosen = sorted(numbers)
    features = shapes.features.copy()
    for number in chosen:
        known = str(features.at[number, "text"]).split(ARROW)[0]
        features.at[number, "answer"] = answer
        features.at[number, "text"] = f"{known}{ARROW}{WORDS[answer]}"
    shapes.features = features
    shapes.refresh_text()
    expect_shapes_by_hand(shapes)
    return len(chosen)


def corrections_in(shapes: Any, path: str, who: str, *, whole: bool) -> list[Correction]:
    """What was said of the cells of one frame.

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
        (top, left), (bottom, right) = points.min(axis=0)[-2:], points.max(axis=0)[-2:]
        box = tuple(
            round(float(max(edge + 0.5, 0))) for edge in (left, top, right, bottom)
        )  # napari's pixels lie around numbers
        old = row["refusal"] or row["call"]
        yield Correction(path, int(row["number"]) or None, box, old, row["answer"], who, when)  # type: ignore[arg-type]


def save_corrections(path: Path, corrections: list[Correction]) -> int:
    """Adds corrections to those that stand in a file, which is made where there is none; gives how many it then holds.

    Raises `DataError` for another kind of file, `WriteError` where it can't be written.
    """
    before = read_corrections(path) if path.exists() else []
    write_corrections(path, [*before, *corrections])
    return len(before) + len(corrections)
