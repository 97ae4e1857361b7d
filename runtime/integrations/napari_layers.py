"""Examines a napari image layer, and shows outlines, boxes and calls as layers.

    report = examine_layer(viewer, viewer.layers["smear"], scope)

The layers lie exactly over the image, in whatever place and scale it has. What a person says of selected cells becomes
corrections (`answer_cells`, `accept_calls`, `corrections_in`). Nothing here imports napari itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

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
from blastscope.runtime.frames.report.overlay import MOST_WORDS
from blastscope.runtime.frames.report.theme import LOOKS, rgb
from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification, fewer_points
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.metadata import checked
from blastscope.runtime.types import CLASSES, Box

COLOURS: dict[str, str] = {kind: look.colour for kind, look in LOOKS.items()}
MARK = "blastscope"  # the key in a layer's metadata by which it is known again
BOX_WIDTH_PX, OUTLINE_WIDTH_PX, TEXT_PT = 3, 2, 11
# of a shape that somebody adds to a layer of a report: no network has seen it
BY_HAND: dict[str, Any] = {"call": "", "probability": np.nan, "score": np.nan, "voter": "", "refusal": "", "text": "by hand"}
BY_HAND |= {"number": 0, "answer": ""}
BY_HAND_COLOUR = "#00ffff"
MOVED_PX = 0.01  # more isn't napari's rounding
ARROW = " \u2192 "  # between the call and the answer, in a cell's text


class FrameExaminer(Protocol):
    """What makes a report of a frame, as `Scope` does."""

    def examine(
        self,
        frame: NDArray[np.uint8],
        *,
        pixel_um: float | None = None,
        stated_um: float | None = None,
        spec: FrameSpecification | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        """The report on `frame` (H, W, 3) uint8 RGB."""
        ...


def examine_layer(
    viewer: Any, layer: Any, scope: FrameExaminer, *, pixel_um: float | None = None, spec: FrameSpecification | None = None
) -> FrameReport:
    """Examines the image in a layer and shows the report, in place of an earlier one of the same layer.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        Gets the report's layers.
    layer : napari.layers.Image
        8-bit RGB.
    scope : FrameExaminer
        What examines; a `Scope` does.
    pixel_um : float, optional
        Micrometres per pixel. Without it the layer's own scale holds where its units are micrometres, unless the red cells
        differ.
    spec : FrameSpecification, optional
        What is assumed of frames and cells.

    Returns
    -------
    FrameReport

    Raises
    ------
    UsageError
        The layer is no 8-bit RGB image.
    """
    frame, metadata = frame_of(layer), {"layer": layer.name}
    report = scope.examine(frame, pixel_um=pixel_um, stated_um=scale_of(layer), spec=spec, metadata=metadata)
    show_report(viewer, layer, report)
    return report


def frame_of(layer: Any) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) uint8 RGB of an image layer. Raises `UsageError` that says what is the matter with it."""
    name = getattr(layer, "name", None)
    if not hasattr(layer, "rgb") or not hasattr(layer, "data"):
        raise UsageError(f"layer '{name}' is no image: choose the image layer that shows the smear")
    if getattr(layer, "multiscale", False):
        raise UsageError(f"layer '{name}' has several resolutions: use 'blastscope examine FILE', which reads it in tiles")
    if not layer.rgb:
        raise UsageError(f"layer '{name}' is no RGB image: the stain's colours are needed, in one layer with 3 channels")
    if layer.data.ndim != 3:
        raise UsageError(f"layer '{name}' is a stack of {layer.data.shape[:-3]} frames: put the one that you mean into a layer")
    if layer.data.dtype != np.uint8:
        raise UsageError(f"layer '{name}' is {layer.data.dtype}, not uint8: convert it to 0..255, as you know best how")
    if layer.data.shape[0] * layer.data.shape[1] > MAX_PIXELS:
        raise UsageError(f"layer '{name}' has more than {MAX_PIXELS / 1e6:.0f} megapixels: use 'blastscope examine FILE'")
    pixels = np.asarray(layer.data)  # of a lazy array the whole
    if pixels.shape[2] == 4:
        if not (pixels[..., 3] == 255).all():
            raise UsageError(f"layer '{name}' is transparent in places: what its colours are there depends on the background")
        pixels = pixels[..., :3]
    return pixels


def scale_of(layer: Any) -> float | None:
    """Micrometres per pixel, where the layer's units say that its scale is that, and it can be a microscope's."""
    units = [str(unit) for unit in getattr(layer, "units", ())][-2:]
    down, across = (float(step) for step in layer.scale[-2:])
    found = checked(across, down, "the layer") if units in (["micrometer"] * 2, ["um"] * 2, ["µm"] * 2) else None
    return found.pixel_um if found else None


def show_report(viewer: Any, layer: Any, report: FrameReport) -> None:
    """Adds the layers of `report` over `layer`: outlines of cells and nuclei, then boxes with their texts.

    A shape that somebody draws into one of them has no call, nor has one any more that somebody moves or resizes; its text says
    that it is by hand.
    """
    for old in [one for one in viewer.layers if one.metadata.get(MARK) == layer.name]:
        viewer.layers.remove(old)
    if not report.cells:
        return
    colours = [COLOURS[cell.label or "refused"] for cell in report.cells]
    features = features_of(report)
    place = {name: getattr(layer, name) for name in ("scale", "translate", "rotate", "shear", "affine", "units")}
    words = {"string": "{text}", "size": TEXT_PT, "color": colours, "anchor": "upper_left"}
    words["visible"] = len(report.cells) <= MOST_WORDS  # more hide the cells, until somebody has zoomed in and asks for them
    outlines = [_points(contour) for cell in report.cells for contour in (cell.found.contour, cell.found.nucleus)]
    drawn = viewer.add_shapes(
        outlines,
        shape_type="polygon",
        name=f"{layer.name}: outlines",
        edge_color=[colour for colour in colours for _ in range(2)],
        edge_width=OUTLINE_WIDTH_PX,
        face_color="transparent",
        opacity=1.0,
        features={name: [value for value in values for _ in range(2)] for name, values in features.items()},
        metadata={MARK: layer.name},
        **place,
    )
    boxes = viewer.add_shapes(
        [_corners(cell) for cell in report.cells],
        shape_type="rectangle",
        name=f"{layer.name}: cells",
        edge_color=colours,
        edge_width=BOX_WIDTH_PX,
        face_color="transparent",
        opacity=1.0,
        features=features,
        text=words,
        metadata={MARK: layer.name, "report": report.row()},
        **place,
    )
    for shapes in (drawn, boxes):
        expect_shapes_by_hand(shapes)
        _watch(shapes)


def _watch(shapes: Any) -> None:
    """Takes the call from each shape that is new, or isn't any more where it was when the networks saw it."""
    seen: dict[int, list[NDArray[np.float64]]] = {}  # by the cell's number
    for number, points in zip(shapes.features["number"], shapes.data, strict=True):
        seen.setdefault(int(number), []).append(np.array(points))

    def strange(place: int, points: NDArray[Any]) -> bool:
        call, number = (shapes.features[name].iat[place] for name in ("call", "number"))
        known = (old for old in seen.get(int(number), []) if len(old) == len(points))
        return call != "" and not any(np.allclose(points, old, atol=MOVED_PX) for old in known)

    def look(event: Any) -> None:
        if event.action == "adding":
            expect_shapes_by_hand(shapes)
        elif event.action in ("added", "changed"):
            data, count = shapes.data, min(len(shapes.data), len(shapes.features))
            places = {place % len(data) for place in event.data_indices if place < len(data)}
            _clear_calls(shapes, [place for place in sorted(places) if place < count and strange(place, data[place])])

    shapes.events.data.connect(look)


def _clear_calls(shapes: Any, places: list[int]) -> None:
    """Makes the shapes at `places` ones by hand: no network has seen what they hold now, and nobody has answered for it."""
    if not places:
        return
    features, colours = shapes.features.copy(), shapes.edge_color.copy()
    for name, value in BY_HAND.items():
        features.loc[features.index[places], name] = value
    colours[places] = (*(level / 255 for level in rgb(BY_HAND_COLOUR)), 1.0)
    shapes.features, shapes.edge_color = features, colours
    shapes.refresh_text()
    expect_shapes_by_hand(shapes)


def expect_shapes_by_hand(shapes: Any) -> None:
    """The next new shape says `BY_HAND`. napari would give it the features and colour of the last or the selected one."""
    shapes.feature_defaults = BY_HAND
    with shapes.block_update_properties():  # the selected ones keep their colour
        shapes.current_edge_color = BY_HAND_COLOUR


def features_of(report: FrameReport) -> dict[str, list[Any]]:
    """One value a cell of each column that napari's table shows."""
    calls = [(cell, cell.prediction) for cell in report.cells]
    return {
        "call": [cell.label or "refused" for cell, _ in calls],
        "probability": [np.nan if call is None or call.probability is None else call.probability for _, call in calls],
        "score": [np.nan if call is None or call.score is None else call.score for _, call in calls],
        "voter": [(call.voter or "") if call else "" for _, call in calls],
        "refusal": [cell.refusal.code if cell.refusal else "" for cell, _ in calls],
        "text": [_text(cell) for cell, _ in calls],
        "number": list(range(1, len(calls) + 1)),
        "answer": [""] * len(calls),  # what a person says of the cell
    }


def _text(cell: FrameCell) -> str:
    if cell.prediction is None or cell.label is None:
        return cell.refusal.code if cell.refusal else ""
    return f"{cell.label.upper()} {cell.prediction.probability:.2f}"


def _points(contour: NDArray[np.int32]) -> NDArray[np.float64]:
    """(K, 2) of row and column, as napari has it; at least a triangle, which it needs, and no more points than that shows."""
    points = fewer_points(contour)[:, ::-1].astype(np.float64)
    return points if len(points) >= 3 else np.resize(points, (3, 2))


def _corners(cell: FrameCell) -> NDArray[np.float64]:
    x0, y0, x1, y1 = cell.box
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], np.float64) - 0.5  # napari's pixels lie around their numbers


def cells_layer(viewer: Any, layer: Any) -> Any:
    """The layer of boxes that lies over the image `layer`. Raises `UsageError` where it hasn't been examined."""
    for shapes in viewer.layers:
        if shapes.metadata.get(MARK) == layer.name and "report" in shapes.metadata:
            return shapes
    raise UsageError(f"layer '{layer.name}' has no cells: examine it first")


def answer_cells(shapes: Any, numbers: Iterable[int], answer: Answer | Literal[""]) -> int:
    """Notes in the layer of boxes what a person says of the shapes `numbers`, and shows it; gives how many they are.

    An empty answer takes back what was said.
    """
    return _answer(shapes, dict.fromkeys(numbers, answer))


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


class Accepted(NamedTuple):
    """How many calls were accepted, and of how many shapes there was none."""

    calls: int
    without: int


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
    frame = Path(path).resolve()
    for one in read_corrections(table):
        here = frame in (Path(one.path).resolve(), (table.parent / one.path).resolve())
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
