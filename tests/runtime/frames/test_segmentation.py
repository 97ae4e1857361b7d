"""White cells in real frames: how many are found, at which scale, and which of them may be called."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.frames.cell_crop import cut_cell
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.segmentation.pipeline import reach_px, segment_cells
from blastscope.runtime.frames.types import FrameParameters, FrameSpecification, SegmentedCell
from blastscope.runtime.types import Box

SPEC = FrameSpecification()


class Frames:
    """BCCD's frames with the boxes that people drew."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, part: str) -> list[str]:
        return (self.root / f"{part}.txt").read_text().split()

    def frame(self, name: str) -> NDArray[np.uint8]:
        picture = cv2.imread(str(self.root / "JPEGImages" / f"{name}.jpg"))
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)

    def boxes(self, name: str, kind: str) -> list[Box]:
        tree = ElementTree.parse(self.root / "Annotations" / f"{name}.xml")
        found = [thing.find("bndbox") for thing in tree.iter("object") if thing.findtext("name") == kind]
        return [
            tuple(int(box.findtext(side, "0")) for side in ("xmin", "ymin", "xmax", "ymax"))  # type: ignore[misc]
            for box in found
            if box is not None
        ]


@pytest.fixture(scope="module")
def bccd(shared_data: Path) -> Frames:
    return Frames(shared_data / "bccd")


def examined(frame: NDArray[np.uint8]) -> tuple[FrameParameters, tuple[SegmentedCell, ...]]:
    parameters = estimate_frame_parameters(frame, SPEC)
    return parameters, segment_cells(frame, parameters, SPEC)


def overlap(one: Box, other: Box) -> float:
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def hits(found: list[Box], true: list[Box]) -> int:
    """How many boxes pair off at an overlap of a half, best pairs first."""
    pairs = sorted(((overlap(a, b), i, j) for i, a in enumerate(found) for j, b in enumerate(true)), reverse=True)
    used: tuple[set[int], set[int]] = (set(), set())
    for share, i, j in pairs:
        if share >= 0.5 and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
    return len(used[0])


def recall_and_precision(bccd: Frames, names: list[str]) -> tuple[float, float]:
    hit = found = true = 0
    for name in names:
        boxes = [cell.box for cell in examined(bccd.frame(name))[1]]
        drawn = bccd.boxes(name, "WBC")
        hit, found, true = hit + hits(boxes, drawn), found + len(boxes), true + len(drawn)
    return hit / true, hit / found


def test_nearly_all_white_cells_of_unseen_frames_are_found_and_little_else(bccd: Frames) -> None:
    recall, precision = recall_and_precision(bccd, bccd.names("val"))
    assert recall >= 0.95
    assert precision >= 0.93


def white_balance(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.clip(frame * np.array([1.15, 0.95, 0.78]), 0, 255).astype(np.uint8)


def dim_and_vignetted(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    away = ((rows / frame.shape[0] - 0.5) ** 2 + (columns / frame.shape[1] - 0.5) ** 2)[..., None]
    return np.clip(frame * 0.6 * (1 - 0.5 * away), 0, 255).astype(np.uint8)


def smaller(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(frame, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA), np.uint8)


def faded(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = frame.mean(axis=2, keepdims=True)
    return np.asarray(gray + 0.38 * (frame - gray), np.uint8)


def overstained(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    glass = np.percentile(frame, 90, axis=(0, 1))
    return np.clip(glass * (frame / glass) ** 2.2, 0, 255).astype(np.uint8)


def through_an_eyepiece(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Dark around the field of view, but not black: the camera's own light."""
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    outside = (rows - 240) ** 2 + (columns - 320) ** 2 > 320**2
    return np.where(outside[..., None], 0, frame * 0.92 + 13).astype(np.uint8) + np.uint8(13) * outside[..., None]


CAMERAS = [white_balance, dim_and_vignetted, smaller, faded, overstained, through_an_eyepiece]


@pytest.mark.parametrize("camera", CAMERAS)
def test_another_camera_finds_the_same_cells(bccd: Frames, camera: object) -> None:
    for name in bccd.names("train")[2:200:40]:
        frame = bccd.frame(name)
        other = camera(frame)  # type: ignore[operator]
        size = other.shape[1] / frame.shape[1]
        plain = [tuple(int(side * size) for side in cell.box) for cell in examined(frame)[1]]
        found = [cell.box for cell in examined(other)[1]]
        assert hits(found, plain) == len(found) == len(plain) > 0, name  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0.3, 0.7, 1.0, 1.7])
def test_the_scale_comes_from_the_red_cells(bccd: Frames, size: float) -> None:
    found = []
    for name in bccd.names("train")[2:200:40]:
        frame = cv2.resize(bccd.frame(name), None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
        parameters = estimate_frame_parameters(np.asarray(frame, np.uint8), SPEC)
        drawn = [box for box in bccd.boxes(name, "RBC") if box[0] > 2 and box[1] > 2 and box[2] < 638 and box[3] < 478]
        true = size * float(np.median([(box[2] - box[0] + box[3] - box[1]) / 2 for box in drawn]))
        assert parameters.scale_source == "red-cells"
        found.append(SPEC.red_cell_um / parameters.pixel_um / true)
    assert np.median(found) == pytest.approx(1, abs=0.08)
    assert all(0.8 < ratio < 1.25 for ratio in found)


def test_the_scale_that_is_given_holds() -> None:
    frame = np.full((50, 60, 3), 210, np.uint8)
    assert estimate_frame_parameters(frame, SPEC, pixel_um=0.3).scale_source == "given"
    assert estimate_frame_parameters(frame, FrameSpecification(pixel_um=0.2)).pixel_um == 0.2
    assert estimate_frame_parameters(frame, FrameSpecification(pixel_um=0.2), pixel_um=0.3).pixel_um == 0.3
    assert estimate_frame_parameters(frame, SPEC).scale_source == "assumed"


def test_round_single_nuclei_may_be_called_and_lobed_ones_not(bccd: Frames) -> None:
    lymphoid, lobed = ("038", "047", "305"), ("174", "242", "336", "384")
    assert [examined(bccd.frame(f"BloodImage_00{number}"))[1][0].refusal for number in lymphoid] == [None] * 3
    for number in lobed:
        whole = [
            cell
            for cell in examined(bccd.frame(f"BloodImage_00{number}"))[1]
            if cell.refusal is None or cell.refusal.code != "touches-border"
        ]
        assert [cell.refusal.code for cell in whole if cell.refusal] == ["not-lymphoid"], number


def test_a_blurred_frame_is_out_of_focus(bccd: Frames) -> None:
    frame = np.asarray(cv2.GaussianBlur(bccd.frame("BloodImage_00047"), (0, 0), 14), np.uint8)
    cells = segment_cells(frame, estimate_frame_parameters(frame, SPEC, pixel_um=0.072), SPEC)
    assert [cell.refusal.code for cell in cells if cell.refusal] == ["out-of-focus"]


def test_a_frame_of_red_cells_alone_has_no_white_ones(bccd: Frames) -> None:
    for name in bccd.names("train")[:60:6]:
        frame = bccd.frame(name)
        parameters = estimate_frame_parameters(frame, SPEC)
        drawn = bccd.boxes(name, "WBC")
        x0, _, x1, _ = drawn[0] if drawn else (0, 0, 0, 0)
        left, right = frame[:, : max(x0 - 40, 0)], frame[:, x1 + 40 :]
        side = left if left.shape[1] > right.shape[1] else right
        if len(drawn) == 1 and side.shape[1] > 150:
            assert segment_cells(side, parameters, SPEC) == (), name
            assert segment_cells(side, estimate_frame_parameters(side, SPEC, pixel_um=parameters.pixel_um), SPEC) == (), name


def test_what_may_be_called_can_be_cropped(bccd: Frames) -> None:
    for name, stain in (("BloodImage_00047", "none"), ("BloodImage_00305", "reinhard"), ("BloodImage_00195", "macenko")):
        frame = bccd.frame(name)
        parameters, cells = examined(frame)
        spec = FrameSpecification.model_validate({"stain": stain})
        for cell in cells:
            if cell.refusal is None:
                image = cut_cell(frame, cell, parameters, spec)
                assert isinstance(crop_cell(image, CropSpecification()), Crop)
                assert not image[0].any()
                assert not image[:, -1].any()
                across = (cell.box[2] - cell.box[0]) * parameters.pixel_um / spec.network_um
                assert image.shape[1] - 24 == pytest.approx(across, abs=1)


def test_a_frame_turned_or_shifted_has_its_boxes_turned_or_shifted(bccd: Frames) -> None:
    for name in (*bccd.names("train")[3:5], "BloodImage_00045"):  # the last has a cell at its edge
        frame = bccd.frame(name)[:-1]  # of an odd height, which halves into no square's edge
        height, width = frame.shape[:2]
        parameters, cells = examined(frame)
        plain = [cell.box for cell in cells]
        turned = examined(np.rot90(frame))[1]
        assert sorted(cell.box for cell in turned) == sorted((y0, width - x1, y1, width - x0) for x0, y0, x1, y1 in plain)
        outlines = [{(y, width - 1 - x) for x, y in cell.contour.tolist()} for cell in cells]
        assert all({(x, y) for x, y in cell.contour.tolist()} in outlines for cell in turned)
        assert sorted(map(str, (cell.refusal for cell in turned))) == sorted(map(str, (cell.refusal for cell in cells)))
        shifted = []
        for x, y in ((20, 20), (33, 47)):
            padded = np.full((height + 80, width + 80, 3), np.rint(parameters.background), np.uint8)
            padded[y : y + height, x : x + width] = frame
            shifted.append(np.asarray([cell.box for cell in examined(padded)[1]]) - (x, y, x, y))
        assert shifted[0].tolist() == shifted[1].tolist() != []


def test_tiles_give_what_the_whole_gives(bccd: Frames) -> None:
    names = bccd.names("train")[10:14]
    small = [smaller(bccd.frame(name)) for name in names]
    whole = np.ascontiguousarray(np.vstack([np.hstack(small[:2]), np.hstack(small[2:])]))
    parameters, cells = examined(whole)
    margin = reach_px(parameters)
    found = []
    for top in range(0, whole.shape[0], 130):
        for left in range(0, whole.shape[1], 170):
            y, x = max(top - margin, 0), max(left - margin, 0)
            tile = whole[y : top + 130 + margin, x : left + 170 + margin]
            for cell in segment_cells(tile, parameters, SPEC):
                box = (cell.box[0] + x, cell.box[1] + y, cell.box[2] + x, cell.box[3] + y)
                middle = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
                if left <= middle[0] < left + 170 and top <= middle[1] < top + 130:
                    found.append((box, cell.refusal.code if cell.refusal else None))
    assert sorted(found) == sorted((cell.box, cell.refusal.code if cell.refusal else None) for cell in cells)
