"""A report in napari: layers over the image, and the widget in a real window under a virtual screen."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.evaluation.labels import LabelledCell, read_labels
from blastscope.runtime.frames.corrections import read_corrections
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.image_pyramid import Grid
from blastscope.runtime.frames.mask_geometry import Contour, region_of
from blastscope.runtime.frames.report.overlay import MOST_WORDS
from blastscope.runtime.frames.report.theme import rgb
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification, SegmentedCell
from blastscope.runtime.integrations.napari_layers import COLOURS, cells_layer, examine_layer, frame_of, scale_of, show_report
from blastscope.runtime.integrations.napari_review import (
    accept_calls,
    answer_cells,
    corrections_in,
    restore_answers,
    review_state,
    save_corrections,
)
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Audit, Prediction, Refusal

if TYPE_CHECKING:
    from conftest import TinyBundle

pytest.importorskip("napari", reason="napari is not installed: pip install 'blastscope[napari]'", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # napari's own
AUDIT = Audit("b", "e", "openvino", "cpu", "fp32", "f32")
HERE = Path(__file__).parent
PACKAGES = "xvfb libqt6gui6 libxcb-cursor0"  # a screen, and the libraries of the system that Qt's wheel doesn't bring
NO_QT = ("the Qt platform plugin", "cannot open shared object file", "No Qt bindings could be found")


class Eyes:
    """The finder on a real frame; of its cells the first is called, the second refused, and so on."""

    pixel_um: float | None = None
    stated_um: float | None = None

    def examine(
        self,
        frame: NDArray[np.uint8],
        *,
        pixel_um: float | None = None,
        stated_um: float | None = None,
        spec: FrameSpecification | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        self.pixel_um, self.stated_um = pixel_um, stated_um
        facts = estimate_frame_parameters(frame, spec or FrameSpecification(), pixel_um=pixel_um, stated_um=stated_um)
        cells = segment_cells(frame, facts, spec or FrameSpecification())
        return FrameReport(tuple(map(self.called, range(len(cells)), cells)), facts, metadata=metadata or {})

    def called(self, number: int, cell: SegmentedCell) -> FrameCell:
        if number % 2:
            return FrameCell(replace(cell, refusal=Refusal("clumped", "two cells")), None)
        prediction = Prediction("all", 0.9, 0.9, "b", None, None, None, AUDIT)
        return FrameCell(replace(cell, refusal=None), prediction)


@pytest.fixture(scope="module")
def frame(shared_data: Path) -> NDArray[np.uint8]:
    """Two real fields of view side by side, so that there are some white cells."""
    names = (shared_data / "bccd" / "train.txt").read_text().split()[:2]
    images = [read_image(shared_data / "bccd" / "JPEGImages" / f"{name}.jpg") for name in names]
    return np.concatenate([image for image in images if isinstance(image, np.ndarray)], axis=1)


@pytest.fixture
def viewer() -> Any:
    from napari.components import ViewerModel

    return ViewerModel()


def test_boxes_outlines_and_features_lie_over_the_image(viewer: Any, frame: NDArray[np.uint8]) -> None:
    layer = viewer.add_image(frame, name="smear", scale=(0.07, 0.07), translate=(3, 5))
    report = examine_layer(viewer, layer, Eyes(), pixel_um=0.07)
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
    report = examine_layer(viewer, viewer.add_image(frame, name="smear"), Eyes(), pixel_um=0.07)
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
    examine_layer(viewer, layer, Eyes(), pixel_um=0.07)
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
    examine_layer(viewer, viewer.add_image(frame, name="smear"), Eyes(), pixel_um=0.07)
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
    examine_layer(viewer, viewer.add_image(frame, name="smear"), Eyes(), pixel_um=0.07)
    shapes = viewer.layers["smear: cells"]
    boxes = [box.copy() for box in shapes.data]
    shapes.data = [boxes[0] + 9, *boxes[1:]]
    assert told(shapes, 0)[:4] == ("", "", "", "by hand")
    assert told(shapes, 1)[0] == "refused"


def test_what_is_said_of_selected_cells_is_saved_as_corrections(viewer: Any, frame: NDArray[np.uint8], tmp_path: Path) -> None:
    layer = viewer.add_image(frame, name="smear")
    report = examine_layer(viewer, layer, Eyes())
    shapes = cells_layer(viewer, layer)
    assert len(report.cells) >= 2
    with pytest.raises(UsageError, match="nothing was answered"):
        corrections_in(shapes, "a.png", "me", whole=False)
    assert answer_cells(shapes, {0}, "hem") == 1
    assert shapes.features["text"][0].startswith("ALL 0.90 ")
    assert answer_cells(shapes, {0, 1}, "other") == 2  # a second answer takes the first one's place
    shapes.add_rectangles(np.array([[[9.5, 19.5], [9.5, 49.5], [39.5, 49.5], [39.5, 19.5]]]))
    drawn = len(shapes.data) - 1
    with pytest.raises(UsageError, match="have no answer yet"):
        corrections_in(shapes, "a.png", "me", whole=True)
    answer_cells(shapes, set(range(2, drawn)), "unsure")
    answer_cells(shapes, {drawn}, "all")
    with pytest.raises(UsageError, match="who are you"):
        corrections_in(shapes, "a.png", " =", whole=True)
    rows = corrections_in(shapes, "a.png", "me", whole=True)
    assert [row.box for row in rows[:drawn]] == [cell.box for cell in report.cells]
    assert [(row.number, row.old, row.new) for row in rows[:2]] == [(1, "all", "other"), (2, "clumped", "other")]
    assert (rows[drawn].number, rows[drawn].box, rows[drawn].old, rows[drawn].new) == (None, (20, 10, 50, 40), "", "all")
    assert (rows[-1].box, rows[-1].new, rows[-1].who) == (None, "complete", "me")
    assert save_corrections(tmp_path / "c.csv", rows) == len(rows)
    assert save_corrections(tmp_path / "c.csv", rows[:1]) == len(rows) + 1
    Image.fromarray(frame).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "c.csv", [tmp_path / "a.png"])
    assert labels.cells == {tmp_path / "a.png": (LabelledCell((20, 10, 50, 40), "all"),)}
    assert labels.complete(tmp_path / "a.png")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="is no table of corrections"):
        save_corrections(tmp_path / "other.csv", rows)


def test_accepting_calls_leaves_out_what_was_not_called(viewer: Any, frame: NDArray[np.uint8], tmp_path: Path) -> None:
    layer = viewer.add_image(frame, name="smear")
    report = examine_layer(viewer, layer, Eyes())
    shapes = cells_layer(viewer, layer)
    shapes.add_rectangles(np.array([[[9.5, 19.5], [9.5, 49.5], [39.5, 49.5], [39.5, 19.5]]]))
    called = sum(cell.label is not None for cell in report.cells)
    every = range(len(shapes.data))
    assert accept_calls(shapes, every) == (called, len(every) - called)
    assert review_state(shapes) == f"{called} of {len(every)} cells reviewed, 0 of them changed"
    rows = corrections_in(shapes, "a.png", "me", whole=False)
    assert [(row.old, row.new) for row in rows] == [("all", "all")] * called
    answer_cells(shapes, [0, 1], "hem")
    assert review_state(shapes).endswith(f"{called + 1} of {len(every)} cells reviewed, 2 of them changed")
    answer_cells(shapes, [0, 1], "")  # taken back
    assert shapes.features["text"][0] == "ALL 0.90"
    assert review_state(shapes) == f"{called - 1} of {len(every)} cells reviewed, 0 of them changed"


def test_a_saved_review_is_gone_on_with(viewer: Any, frame: NDArray[np.uint8], tmp_path: Path) -> None:
    layer = viewer.add_image(frame, name="smear")
    examine_layer(viewer, layer, Eyes())
    shapes = cells_layer(viewer, layer)
    drawn = np.array([[9.5, 19.5], [9.5, 49.5], [39.5, 49.5], [39.5, 19.5]])
    shapes.add_rectangles(drawn[None])
    answer_cells(shapes, [0, len(shapes.data) - 1], "hem")
    accept_calls(shapes, [0])
    path, table = tmp_path / "a.png", tmp_path / "c.csv"
    kept = corrections_in(shapes, "a.png", "me", whole=False)
    save_corrections(table, [*corrections_in(shapes, "b.png", "me", whole=False), *kept, replace(kept[0], new="unsure")])
    examine_layer(viewer, layer, Eyes())
    again = cells_layer(viewer, layer)
    assert again is not shapes
    assert set(again.features["answer"]) == {""}
    assert restore_answers(again, str(path), table) == 2  # of the frame beside the table, not of b.png
    assert list(again.features["answer"][[0, len(again.data) - 1]]) == ["unsure", "hem"]
    assert again.features["text"].iloc[-1].startswith("by hand ")
    assert np.array_equal(np.sort(again.data[-1], axis=0), np.sort(drawn, axis=0))
    rows = corrections_in(again, "a.png", "me", whole=False)
    assert [(row.number, row.box, row.old, row.new) for row in rows] == [
        (1, kept[0].box, "all", "unsure"),
        (None, (20, 10, 50, 40), "", "hem"),
    ]
    assert restore_answers(again, str(path), table) == 2  # a second time nothing is drawn twice
    assert len(again.data) == len(shapes.data)
    save_corrections(table, [replace(kept[0], new="perhaps")])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"says 'perhaps' of the box .*: the answers are hem, all"):
        restore_answers(again, str(path), table)


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
        examine_layer(viewer, viewer.add_image(small, name=name), Eyes())
    examine_layer(viewer, viewer.layers["left"], Eyes())
    assert sorted(layer.name for layer in viewer.layers if layer.name.endswith("cells")) == ["left: cells", "right: cells"]
    viewer.layers["left"].data = np.full((60, 80, 3), 240, np.uint8)  # glass and nothing else
    assert examine_layer(viewer, viewer.layers["left"], Eyes(), pixel_um=0.07).cells == ()
    assert [layer.name for layer in viewer.layers if layer.metadata.get("blastscope") == "left"] == []


def test_the_scale_is_taken_where_the_units_are_micrometres(viewer: Any, frame: NDArray[np.uint8]) -> None:
    eyes = Eyes()
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


def test_the_manifest_is_valid_and_names_what_is_there() -> None:
    from npe2 import PluginManifest

    import blastscope.runtime.integrations as hosts

    path = Path(hosts.__path__[0]) / "napari.yaml"
    manifest = PluginManifest.from_file(path)
    manifest.validate_imports()
    assert [widget.display_name for widget in manifest.contributions.widgets or ()] == ["Examine a blood smear"]
    project = tomllib.loads((HERE.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {"blastscope": "blastscope.runtime.integrations:napari.yaml"}


def window_of(frame: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """What the widget told of `frame` in a real window, whose pictures are the folder's window.png and canvas.png."""
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1280x900x24"] if sys.platform.startswith("linux") else []
    if screen and not shutil.which(screen[0]):
        no_window("no virtual screen")
    command = [sys.executable, str(HERE / "napari_window.py"), str(frame), str(bundle)]
    # a session of its own: where it hangs, the virtual screen is ended with it
    process = subprocess.Popen(
        [*screen, *command, *(str(folder / name) for name in ("window.png", "canvas.png", "review.csv"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "NAPARI_CONFIG": str(folder / "napari.yaml")},
    )
    try:
        told, errors = process.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if screen else process.kill()
    if lacking := next((line for line in errors.splitlines() if any(words in line for words in NO_QT)), None):
        no_window(lacking)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(told.splitlines()[-1])  # napari prints its own notes before
    return found


def no_window(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI must open napari's window: {reason}: apt-get install {PACKAGES}")
    pytest.skip(f"napari's window can't be opened: {reason} (pip's PySide6-Essentials, Debian's {PACKAGES})")


def seen(picture: Path) -> NDArray[np.int64]:
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_widget_examines_a_frame_in_a_window(tmp_path: Path, shared_data: Path, tiny_bundle: TinyBundle) -> None:
    path = shared_data / "bccd" / "JPEGImages" / "BloodImage_00034.jpg"  # a cell that is called and one that isn't lymphoid
    window = window_of(path, tiny_bundle.make(), tmp_path)
    counts, cells = window["report"]["counts"], window["report"]["cells"]
    calls = {cell["label"] or "refused" for cell in cells}
    assert "refused" in calls
    assert len(calls) > 1
    assert window["told"].startswith(f"{counts['cells']} white cells: {counts['all']} ALL, {counts['hem']} HEM")
    called = counts["all"] + counts["hem"]
    without = f"; {counts['refused']} have no call to accept: say what they are"
    state = f"{called} of {counts['cells']} cells reviewed, 0 of them changed"
    assert window["accepted"] == f"{called} calls accepted{without}\n{state}"
    assert window["nobody"] == "who are you? type your name or initials first"
    rows = read_corrections(tmp_path / "review.csv")
    assert [(row.new, row.who) for row in rows] == [(cell["label"], "me") for cell in cells if cell["label"]]
    assert window["loaded"].startswith(f"{called} answers taken from ")
    assert len(np.unique(seen(tmp_path / "window.png")[::4, ::4].reshape(-1, 3), axis=0)) > 1000

    canvas, frame = seen(tmp_path / "canvas.png"), seen(path)
    lit = canvas.max(axis=2) > 60  # what lies around the frame is black
    (top, bottom), (left, right) = (np.flatnonzero(lit.mean(axis=axis) > 0.3)[[0, -1]] for axis in (1, 0))
    scale = (right - left + 1) / frame.shape[1]
    assert scale == pytest.approx((bottom - top + 1) / frame.shape[0], rel=0.02)
    for cell in cells:
        x0, y0, x1, y1 = cell["box"]
        colour = rgb(COLOURS[cell["label"] or "refused"])
        drawn = 0
        for x, y in [(x, y) for step in np.linspace(0.1, 0.9, 9) for x, y in sides(x0, y0, x1, y1, step)]:
            column, row = round(left + x * scale), round(top + y * scale)
            around = canvas[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            drawn += bool((np.abs(around - colour).max(axis=2) < 24).any())
        assert drawn >= 30, (cell["box"], drawn)  # of 36 places on the box's sides


def sides(x0: int, y0: int, x1: int, y1: int, step: float) -> list[tuple[float, float]]:
    """A place on each side of a box, `step` of the way along it."""
    x, y = x0 + step * (x1 - x0), y0 + step * (y1 - y0)
    return [(x, y0), (x, y1), (x0, y), (x1, y)]
