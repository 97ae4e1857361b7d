"""Detection in frames: maps become boxes, boxes become outlined cells, red cells tell the scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.frames.detection.cells import detect_at_scale, detect_cells, red_cells_found
from blastscope.runtime.frames.detection.detector import (
    MULTIPLE,
    PIECE_PX,
    RED,
    WHITE,
    Detections,
    Detector,
    decode_detections,
    distinct,
)
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.image_pyramid import image_pyramid
from blastscope.runtime.frames.journal import cell_from_row, cell_to_row
from blastscope.runtime.frames.mask_geometry import iou
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.types import Audit, Prediction

SPEC = FrameSpecification()
GLASS, RED_CELL, PLASM, NUCLEUS = (232, 226, 222), (206, 160, 158), (188, 172, 212), (122, 84, 172)
WHITE_AT = ((90, 100), (220, 160))  # middles, in pixels of a frame of 0.25 um
RED_AT = tuple((x, y) for x in range(30, 300, 60) for y in (30, 215))


@dataclass
class FakeNetwork:
    """Finds what is as blue as a drawn nucleus, and what is as red as a drawn red cell, by their colours."""

    group: tuple[float, float, float] = (0.9, 0.05, 0.05)
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls.append(picture.shape)
        assert picture.shape[0] % MULTIPLE == picture.shape[1] % MULTIPLE == 0
        maps = np.zeros((10, picture.shape[0] // 8, picture.shape[1] // 8), np.float32)
        maps[7:] = np.asarray(self.group)[:, None, None]
        colours = picture.astype(int)
        for kind, colour in ((WHITE, PLASM), (RED, RED_CELL)):
            near = np.abs(colours - colour).sum(axis=2) < 40
            if kind == WHITE:
                near |= np.abs(colours - NUCLEUS).sum(axis=2) < 60
            for outline in cv2.findContours(near.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
                x, y, wide, high = cv2.boundingRect(outline)
                if cv2.contourArea(outline) > 40:
                    column, row = int((x + wide / 2) // 8), int((y + high / 2) // 8)
                    maps[kind, row, column] = 0.9
                    middle = np.asarray(((column + 0.5) * 8, (row + 0.5) * 8))
                    maps[3:7, row, column] = (*(middle - (x, y)), *((x + wide, y + high) - middle))
        return maps

    def close(self) -> None:
        pass


def drawn(scale: float = 1.0, *, whites: bool = True) -> NDArray[np.uint8]:
    """A frame of 0.25 um a pixel, enlarged by `scale`."""
    frame = np.full((240, 320, 3), GLASS, np.uint8)
    for x, y in RED_AT:
        cv2.circle(frame, (x, y), 15, RED_CELL, -1, cv2.LINE_AA)
    for x, y in WHITE_AT if whites else ():
        cv2.ellipse(frame, (x, y), (24, 22), 30, 0, 360, PLASM, -1, cv2.LINE_AA)
        cv2.ellipse(frame, (x, y), (18, 17), 30, 0, 360, NUCLEUS, -1, cv2.LINE_AA)
    return np.asarray(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), np.uint8)


def detector(**words: Any) -> Detector:
    return Detector(FakeNetwork(**words), 0.34, 0.5)


def classify(cells: Any) -> list[Prediction]:
    audit = Audit("b", "e", "openvino", "cpu", "fp32", "f32")
    return [Prediction("hem", 0.9, 0.1, "a", None, (0, 0, 1, 1), None, audit) for _ in cells]


boxes = st.lists(
    st.tuples(*(st.integers(0, 60),) * 2, *(st.integers(5, 40),) * 2).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])),
    min_size=1,
    max_size=12,
)


@given(boxes)
@settings(max_examples=60, deadline=None)
def test_of_boxes_that_are_one_cell_the_surest_stands(given: list[tuple[int, int, int, int]]) -> None:
    array = np.asarray(given, np.float32)
    kept = distinct(array).tolist()
    overlaps = iou(given, given)
    assert kept[0] == 0
    assert all(overlaps[one, other] < 0.5 for one in kept for other in kept if one != other)
    for gone in set(range(len(given))) - set(kept):
        covered = [other for other in kept if other < gone and _covers(given[other], given[gone])]
        assert covered


def _covers(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    shared = max(min(one[2], other[2]) - max(one[0], other[0]), 0) * max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return shared >= 0.5 * (sum(sizes) - shared) or shared >= 0.7 * min(sizes)


def test_a_peak_becomes_its_box_and_what_is_fainter_is_left() -> None:
    maps = np.zeros((10, 6, 8), np.float32)
    maps[WHITE, 2, 3], maps[WHITE, 2, 4], maps[WHITE, 5, 7] = 0.8, 0.7, 0.2
    maps[3:7, 2, 3], maps[3:7, 5, 7] = (10, 11, 12, 13), 5
    maps[7:, 2, 3] = (0.1, 0.7, 0.2)
    found = decode_detections(maps, WHITE, 0.5)
    np.testing.assert_allclose(found.boxes, [[28 - 10, 20 - 11, 28 + 12, 20 + 13]])
    np.testing.assert_allclose(found.groups, [[0.1, 0.7, 0.2]])
    assert len(decode_detections(maps, WHITE, 0.1).boxes) == 2


def test_a_picture_in_pieces_has_the_cells_of_the_whole() -> None:
    wide = np.tile(drawn(), (1, 4, 1))  # 1280 px: two pieces at the detector's scale
    found = Detector(FakeNetwork(), 0.25, 0.5).find(wide, 0.25).white
    assert wide.shape[1] > PIECE_PX
    wanted = [(x + 320 * tile, y) for tile in range(4) for x, y in WHITE_AT]
    middles = sorted(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in found.boxes.tolist())
    np.testing.assert_allclose(middles, sorted(wanted), atol=2)


@pytest.mark.parametrize("shape", [(0, 0), (1, 900), (7, 7), (8, 9), (33, 31)])
def test_pictures_of_any_shape_are_taken(shape: tuple[int, int]) -> None:
    found = detector().find(np.full((*shape, 3), 230, np.uint8), 0.34)
    assert isinstance(found.white, Detections)
    assert len(found.white.boxes) == 0


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0, 3.0])
def test_red_cells_tell_the_scale_that_nobody_told(scale: float) -> None:
    pictures = image_pyramid(drawn(scale))
    height, width = pictures.frame.shape[:2]
    found = red_cells_found(detector(), pictures, (0, 0, width, height), guess_um=None, red_cell_um=7.5)
    assert found is not None
    assert found.diameter_px == pytest.approx(30 * scale, rel=0.1)


def test_a_frame_is_looked_at_once_at_about_one_scale() -> None:
    one, pictures = detector(), image_pyramid(drawn())
    looks = [detect_at_scale(one, pictures, (0, 0, 320, 240), um) for um in (0.25, 0.28, 0.22)]
    assert looks[0] is looks[1] is looks[2]
    assert len(one.network.calls) == 1  # type: ignore[attr-defined]


def test_each_box_becomes_one_outlined_cell_with_score_and_group() -> None:
    pictures = image_pyramid(drawn())
    parameters = estimate_frame_parameters(pictures, SPEC, pixel_um=0.25)
    cells = detect_cells(detector(), pictures, parameters)
    assert [cell.refusal for cell in cells] == [None, None]
    assert all(cell.group is not None and cell.group.name == "lymphoid" and cell.score == pytest.approx(0.9) for cell in cells)
    wanted = [(x - 24, y - 23, x + 24, y + 23) for x, y in WHITE_AT]
    assert iou(wanted, [cell.box for cell in cells]).max(axis=1).min() > 0.75


def test_lobes_in_one_box_are_one_cell() -> None:
    frame = drawn(whites=False)
    cv2.ellipse(frame, (150, 120), (26, 24), 0, 0, 360, PLASM, -1, cv2.LINE_AA)
    for x, y in ((139, 112), (161, 112), (150, 132)):
        cv2.circle(frame, (x, y), 9, NUCLEUS, -1, cv2.LINE_AA)
    pictures = image_pyramid(frame)
    cells = detect_cells(detector(), pictures, estimate_frame_parameters(pictures, SPEC, pixel_um=0.25))
    assert len(cells) == 1
    assert iou([(124, 96, 176, 144)], [cells[0].box])[0, 0] > 0.7


def test_what_does_not_look_lymphoid_is_refused_with_the_figure() -> None:
    report = Examiner(classify, SPEC, 0.25, detector=detector(group=(0.2, 0.7, 0.1))).examine(drawn())
    assert [cell.refusal and cell.refusal.code for cell in report.cells] == ["not-lymphoid"] * 2
    assert report.cells[0].refusal is not None
    assert "myeloid (0.70)" in report.cells[0].refusal.detail
    assert report.groups == {"lymphoid": 0, "myeloid": 2, "other": 0}
    assert report.row()["groups"] == report.groups


def test_a_box_without_an_outline_is_a_refused_cell_and_not_silence() -> None:
    @dataclass
    class SeesOnGlass(FakeNetwork):
        def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
            maps = np.zeros_like(super().infer(picture))
            maps[WHITE, 9, 9], maps[3:7, 9, 9], maps[7, 9, 9] = 0.9, 16, 1
            return maps

    pictures = image_pyramid(np.full((240, 320, 3), GLASS, np.uint8))
    parameters = estimate_frame_parameters(pictures, SPEC, pixel_um=0.34)
    (cell,) = detect_cells(Detector(SeesOnGlass(), 0.34, 0.5), pictures, parameters)
    assert cell.refusal is not None
    assert cell.refusal.code == "unsegmented"
    assert iou([(60, 60, 92, 92)], [cell.box])[0, 0] > 0.8


def test_without_a_detector_or_by_choice_cells_are_found_by_stain() -> None:
    report = Examiner(classify, SPEC, 0.25).examine(drawn())
    assert len(report.cells) == 2
    assert report.groups.keys() == {"lymphoid", "not_lymphoid", "not_judged"}
    assert report.cells[0].row()["group"] is None


def test_tiles_give_the_cells_of_the_whole() -> None:
    frame = np.tile(drawn(), (2, 2, 1))
    whole = Examiner(classify, SPEC, 0.25, detector=detector()).examine(frame)
    tiled = Examiner(classify, SPEC, 0.25, whole_pixels=1000, tile_px=200, detector=detector()).examine(frame)
    assert len(whole.cells) == 8
    overlaps = iou([cell.box for cell in whole.cells], [cell.box for cell in tiled.cells])
    assert len(tiled.cells) == 8
    assert overlaps.max(axis=1).min() > 0.8


def test_a_detected_cell_is_kept_and_read_back_the_same() -> None:
    report = Examiner(classify, SPEC, 0.25, detector=detector()).examine(drawn())
    for cell in report.cells:
        again = cell_from_row(cell_to_row(cell))
        assert again.found.group == cell.found.group
        assert again.found.score == cell.found.score
