"""Examines a napari image layer, and shows outlines, boxes and calls as layers.

    report = examine_layer(viewer, viewer.layers["smear"], scope)

The layers lie exactly over the image, in whatever place and scale it has. `napari_review` takes what a person says of the
cells. Nothing here imports napari itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.mask_geometry import fewer_points
from blastscope.runtime.frames.report.overlay import MOST_WORDS
from blastscope.runtime.frames.report.theme import CALL_STYLES, rgb
from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.metadata import plausible_pixel_size

COLOURS: dict[str, str] = {kind: style.colour for kind, style in CALL_STYLES.items()}
MARK = "blastscope"  # the key in a layer's metadata by which it is known again
BOX_WIDTH_PX, OUTLINE_WIDTH_PX, TEXT_PT = 3, 2, 11
# of a shape that somebody adds to a layer of a report: no network has seen it
BY_HAND: dict[str, Any] = {"call": "", "probability": np.nan, "score": np.nan, "voter": "", "refusal": "", "text": "by hand"}
BY_HAND |= {"number": 0, "answer": ""}
BY_HAND_COLOUR = "#00ffff"
MOVED_PX = 0.01  # more isn't napari's rounding


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
    found = plausible_pixel_size(across, down, "the layer") if units in (["micrometer"] * 2, ["um"] * 2, ["µm"] * 2) else None
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
    features = table_columns(report)
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


def table_columns(report: FrameReport) -> dict[str, list[Any]]:
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
