"""A report in napari: boxes, outlines and calls over the image, and what is taken from the image's layer."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from fake_examiner import StainExaminer
from numpy.typing import NDArray

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.image_pyramid import Grid
from blastscope.runtime.frames.mask_geometry import Contour, region_of
from blastscope.runtime.frames.report.overlay import MOST_WORDS
from blastscope.runtime.frames.types import FrameCell, FrameReport, SegmentedCell
from blastscope.runtime.integrations.napari_layers import COLOURS, examine_layer, frame_of, scale_of, show_report
from blastscope.runtime.integrations.napari_review import answer_cells, corrections_in
from blastscope.runtime.types import Refusal

pytest.importorskip("napari", reason="napari is not installed: pip install 'blastscope[napari]'", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # napari's own


def test_boxes_outlines_and_features_lie_over_the_image(viewer: Any, frame: NDArray[np.uint8]) -> None:
    layer = viewer.add_image(frame, name="smear", scale=(0.07, 0.07), translate=(3, 5))
    report = examine_layer(viewer, layer, StainExaminer(), pixel_um=0.07)
    assert len(report.cells) >= 2
    assert [one.name for one in viewer.layers] == ["smear", "smear: outlines", "smear: cells"]
    cells, outlines = viewer.layers["smear: cells"], viewer.layers["smear: outlines"]
    assert len(cells.data) == len(report.cells)
    assert len(outlines.data) == 2 * len(report.cells)
    for corners, cell in zip(cells.data, report.cells, strict=True):
        x0, y0, x1, y1 = cell.box
        assert corners.min(axis=0) == pytest.approx((y0 - 0.5, x0 - 0.5))
        assert corners.max(axis=0) == pytest.approx((y1 - 0.5, x1 - 0.5))
    assert np.allclose(cells.scale, layer.scale)
    assert np.allclose(cells.translate, layer.translate)
    calls = ["refused" if number % 2 else "all" for number in range(len(report.cells))]
    assert list(cells.features["call"]) == calls
    assert list(cells.features["refusal"]) == ["clumped" if call == "refused" else "" for call in calls]
    assert list(cells.features["voter"])[:2] == ["b", ""]
    assert np.isnan(cells.features["probability"][1])
    assert list(cells.text.values)[:2] == ["ALL 0.90", "clumped"]
    from napari.utils.colormaps.standardize_color import transform_color

    assert np.allclose(cells.edge_color[:2], transform_color([COLOURS["all"], COLOURS["refused"]]))
    assert cells.metadata["report"]["counts"] == report.counts
    assert len(outlines.data[0]) < len(report.cells[0].contour) / 3  # napari takes long for each point
    for point in report.cells[0].contour.tolist():
        drawn = np.ascontiguousarray(outlines.data[0][:, ::-1], np.float32)
        assert abs(cv2.pointPolygonTest(drawn, point, measureDist=True)) < 0.75


@pytest.mark.parametrize("name", ["smear: cells", "smear: outlines"])
def test_a_shape_drawn_by_hand_has_no_call(viewer: Any, frame: NDArray[np.uint8], name: str) -> None:
    report = examine_layer(viewer, viewer.add_image(frame, name="smear"), StainExaminer(), pixel_um=0.07)
    shapes = viewer.layers[name]
    before, count = shapes.features.copy(), len(shapes.data)
    shapes.add(np.array([[60, 70], [60, 80], [70, 80], [70, 70]]), shape_type="rectangle")
    shapes.selected_data = {0}  # some versions of napari give a new shape what the selected one has
    shapes.current_properties = {key: np.array([value]) for key, value in before.iloc[0].items()}
    shapes.add(np.array([[10, 20], [10, 30], [20, 30], [20, 20]]), shape_type="rectangle")
    assert len(report.cells) >= 2
    assert shapes.features.iloc[:count].equals(before)
    for _, row in shapes.features.iloc[count:].iterrows():
        assert (row["call"], row["voter"], row["refusal"], row["text"]) == ("", "", "", "by hand")
        assert np.isnan([row["probability"], row["score"]]).all()
    calls = {tuple(colour) for colour in shapes.edge_color[:count]}
    assert not calls & {tuple(colour) for colour in shapes.edge_color[count:]}
    assert shapes.features.to_csv().count("\n") == 1 + count + 2


def told(shapes: Any, place: int) -> tuple[Any, ...]:
    row = shapes.features.iloc[place]
    return (*(row[name] for name in ("call", "voter", "refusal", "text", "number", "answer")), tuple(shapes.edge_color[place]))


MOVES: dict[str, Any] = {
    "moved": lambda box: box + np.array([40, 0]),
    "resized": lambda box: np.array([box[0], box[1], box[2] + 7, box[3] + 7]),
    "with another corner": lambda box: np.insert(box, 1, (box[0] + box[1]) / 2, axis=0),
}


@pytest.mark.parametrize("way", MOVES)
@pytest.mark.parametrize("name", ["smear: cells", "smear: outlines"])
def test_a_shape_that_is_changed_by_the_mouse_has_no_call_any_more(
    viewer: Any, frame: NDArray[np.uint8], name: str, way: str
) -> None:
    """The event is napari's own for the end of a drag; what was answered for the old place is cleared with the call."""
    layer = viewer.add_image(frame, name="smear")
    examine_layer(viewer, layer, StainExaminer(), pixel_um=0.07)
    shapes = viewer.layers[name]
    answer_cells(shapes, {0, 1}, "hem")
    before = [told(shapes, place) for place in range(len(shapes.data))]
    assert before[0][0] == "all"

    def drag(place: int, points: NDArray[Any]) -> None:
        shapes._data_view.edit(place, points, new_type="polygon" if way == "with another corner" else None)
        shapes.events.data(value=shapes.data, action="changed", data_indices=(place,), vertex_indices=((),))

    drag(1, shapes.data[1].copy())  # taken up and put back
    drag(0, MOVES[way](shapes.data[0]))
    after = [told(shapes, place) for place in range(len(shapes.data))]
    assert after[0] == ("", "", "", "by hand", 0, "", (0, 1, 1, 1))
    assert np.isnan(shapes.features["score"][0])
    assert after[1:] == before[1:]
    assert name == "smear: outlines" or next(iter(shapes.text.values)) == "by hand"  # outlines have no texts
    answer_cells(shapes, {0}, "all")  # somebody says what it holds now
    (row, *_) = corrections_in(shapes, "a.png", "me", whole=False)
    assert (row.number, row.old, row.new) == (None, "", "all")


def test_a_box_that_is_pasted_and_dragged_away_has_no_call(viewer: Any, frame: NDArray[np.uint8]) -> None:
    examine_layer(viewer, viewer.add_image(frame, name="smear"), StainExaminer(), pixel_um=0.07)
    shapes = viewer.layers["smear: cells"]
    count = len(shapes.data)
    shapes.selected_data = {0}
    shapes._copy_data()
    shapes._paste_data()
    assert len(shapes.data) == count + 1
    shapes._data_view.shift(count, np.array([30, 30]))
    shapes.events.data(value=shapes.data, action="changed", data_indices=(count,), vertex_indices=((),))
    assert told(shapes, count)[:4] == ("", "", "", "by hand")
    assert told(shapes, 0)[0] == "all"


def test_boxes_that_a_program_replaces_have_no_calls_but_where_they_were(viewer: Any, frame: NDArray[np.uint8]) -> None:
    examine_layer(viewer, viewer.add_image(frame, name="smear"), StainExaminer(), pixel_um=0.07)
    shapes = viewer.layers["smear: cells"]
    boxes = [box.copy() for box in shapes.data]
    shapes.data = [boxes[0] + 9, *boxes[1:]]
    assert told(shapes, 0)[:4] == ("", "", "", "by hand")
    assert told(shapes, 1)[0] == "refused"


def test_the_words_of_many_cells_do_not_hide_them(viewer: Any) -> None:
    corners = np.array([(0, 0), (9, 0), (9, 9), (0, 9)], np.int32)
    nucleus = Contour(region_of(np.ones((9, 9), np.uint8)), Grid(0, 0, 1, 20, 20), (20, 20))
    cell = FrameCell(SegmentedCell((0, 0, 10, 10), corners, nucleus, Refusal("clumped", "two cells")), None)
    layer = viewer.add_image(np.zeros((20, 20, 3), np.uint8), name="smear", rgb=True)
    for count in (MOST_WORDS, MOST_WORDS + 1):
        show_report(viewer, layer, FrameReport((cell,) * count, None))
        assert viewer.layers["smear: cells"].text.visible == (count == MOST_WORDS)


def test_examining_again_replaces_the_layers_of_that_image_alone(viewer: Any, frame: NDArray[np.uint8]) -> None:
    small = frame[:, :640]
    for name in ("left", "right"):
        examine_layer(viewer, viewer.add_image(small, name=name), StainExaminer())
    examine_layer(viewer, viewer.layers["left"], StainExaminer())
    assert sorted(layer.name for layer in viewer.layers if layer.name.endswith("cells")) == ["left: cells", "right: cells"]
    viewer.layers["left"].data = np.full((60, 80, 3), 240, np.uint8)  # glass and nothing else
    assert examine_layer(viewer, viewer.layers["left"], StainExaminer(), pixel_um=0.07).cells == ()
    assert [layer.name for layer in viewer.layers if layer.metadata.get("blastscope") == "left"] == []


def test_the_scale_is_taken_where_the_units_are_micrometres(viewer: Any, frame: NDArray[np.uint8]) -> None:
    eyes = StainExaminer()
    layer = viewer.add_image(frame[:, :640], scale=(0.08, 0.08), units=("um", "um"))
    examine_layer(viewer, layer, eyes)
    assert eyes.stated_um == pytest.approx(0.08)
    never = viewer.add_image(frame[:9, :9], scale=(1, 1), units=("um", "um"), rgb=True)
    assert scale_of(never) is None  # what a layer has whose scale nobody set
    assert scale_of(viewer.add_image(frame[:9, :9], scale=(0.08, 0.08), rgb=True)) is None
    assert scale_of(viewer.add_image(frame[:9, :9], scale=(0.08, 0.09), units=("um", "um"), rgb=True)) is None


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (np.zeros((9, 9), np.uint8), {}, "no RGB image"),
        (np.zeros((9, 9, 3), np.float32), {"rgb": True}, "float32, not uint8"),
        (np.zeros((5, 9, 9, 3), np.uint8), {"rgb": True}, "stack"),
        (np.zeros((9, 9, 4), np.uint8), {"rgb": True}, "transparent"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)], {"rgb": True}, "several resolutions"),
    ],
)
def test_a_layer_that_is_no_frame_says_why(viewer: Any, data: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        frame_of(viewer.add_image(data, name="it", **words))
    with pytest.raises(UsageError, match="is no image"):
        frame_of(viewer.add_points([[1, 1]]))


def test_an_opaque_picture_with_alpha_is_the_picture(viewer: Any, frame: NDArray[np.uint8]) -> None:
    opaque = np.concatenate([frame[:9, :9], np.full((9, 9, 1), 255, np.uint8)], axis=2)
    assert np.array_equal(frame_of(viewer.add_image(opaque, rgb=True)), frame[:9, :9])
