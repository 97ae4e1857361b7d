"""Laws of finding on drawn frames: what turns, flips and shifts do to boxes, and that no frame makes it raise."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label, regionprops
from skimage.morphology import convex_hull_image

from blastscope.runtime.errors import ImageError
from blastscope.runtime.frames import image_pyramid as pictures
from blastscope.runtime.frames.cell_crop import cut_cell
from blastscope.runtime.frames.estimation import frame_parameters as survey
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.image_pyramid import downsample, grid_around, nearest_odd_factor
from blastscope.runtime.frames.mask_geometry import NEAR, approx_distance_to, distance_inside, erode_by, hull_mask, squares_to
from blastscope.runtime.frames.segmentation.cell_outline import axes
from blastscope.runtime.frames.segmentation.pipeline import reach_px, segment_cells
from blastscope.runtime.frames.segmentation.split_nuclei import fill_holes, split_nuclei
from blastscope.runtime.frames.thresholding import split_threshold
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.types import Box

SPEC = FrameSpecification()
GLASS, RED, NUCLEUS, CYTOPLASM = (232, 230, 226), (196, 150, 152), (104, 70, 150), (190, 178, 214)
Frame = NDArray[np.uint8]


Stain = tuple[tuple[int, int, int], ...]  # of glass, red cells, nuclei, cytoplasm
USUAL: Stain = (GLASS, RED, NUCLEUS, CYTOPLASM)


def drawn(seed: int, width: int = 300, height: int = 240, whites: int = 1, *, stain: Stain = USUAL) -> Frame:
    """Red cells of 40 px and white cells on glass, a little noisy."""
    glass, red, nucleus, cytoplasm = stain
    random = np.random.default_rng(seed)
    frame = np.full((height, width, 3), glass, np.uint8)
    for _ in range(14):
        cv2.circle(frame, (int(random.integers(20, width - 20)), int(random.integers(20, height - 20))), 20, red, cv2.FILLED)
    for index in range(whites):
        spot = (int(random.integers(70, width - 70)), int(random.integers(70, height - 70))) if index == 0 else (60, 60)
        cv2.circle(frame, spot, 32, cytoplasm, cv2.FILLED)
        cv2.ellipse(frame, spot, (25, 22), int(random.integers(180)), 0, 360, nucleus, cv2.FILLED)
    soft = cv2.GaussianBlur(frame, (0, 0), 1.2).astype(np.int16)
    return np.clip(soft + random.integers(-4, 5, soft.shape), 0, 255).astype(np.uint8)


def boxes(frame: Frame) -> list[tuple[Box, str | None]]:
    parameters = estimate_frame_parameters(frame, SPEC)
    return sorted((cell.box, cell.refusal.code if cell.refusal else None) for cell in segment_cells(frame, parameters, SPEC))


def left_right(frame: Frame, box: Box) -> tuple[Frame, Box]:
    return frame[:, ::-1], (frame.shape[1] - box[2], box[1], frame.shape[1] - box[0], box[3])


def upside_down(frame: Frame, box: Box) -> tuple[Frame, Box]:
    return frame[::-1], (box[0], frame.shape[0] - box[3], box[2], frame.shape[0] - box[1])


def across(frame: Frame, box: Box) -> tuple[Frame, Box]:
    return frame.transpose(1, 0, 2), (box[1], box[0], box[3], box[2])


def quarter_turn(frame: Frame, box: Box) -> tuple[Frame, Box]:
    return np.rot90(frame), (box[1], frame.shape[1] - box[2], box[3], frame.shape[1] - box[0])


def larger(frame: Frame, width: int, height: int) -> Frame:
    """The frame as a camera with finer pixels sees it, of which several make one of the finder's."""
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_glass_around_a_frame_changes_no_fact_however_large_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = larger(drawn(3), 600, 480)
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 400_000)  # more than the frame has, and less than with glass around it
    monkeypatch.setattr(survey, "PIXELS", 3_000)  # which comes to a factor of nine
    told = []
    for margin in (20, 37, 200):
        around = cv2.copyMakeBorder(frame, *[margin] * 4, cv2.BORDER_CONSTANT, value=GLASS)
        parameters = estimate_frame_parameters(np.asarray(around, np.uint8), SPEC)
        told.append(
            (
                parameters.pixel_um,
                parameters.background,
                parameters.nuclear_axis,
                parameters.nucleus_threshold,
                parameters.cell_threshold,
            )
        )
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("way", [left_right, upside_down, across, quarter_turn])
@given(seed=st.integers(0, 10_000), width=st.integers(240, 330), height=st.integers(230, 260), fine=st.booleans())
@settings(max_examples=4)
def test_a_turned_frame_has_its_boxes_turned(
    way: Callable[[Frame, Box], tuple[Frame, Box]], seed: int, width: int, height: int, *, fine: bool
) -> None:
    frame = larger(drawn(seed), 2 * width, 2 * height) if fine else drawn(seed, width, height)
    plain = boxes(frame)
    assert boxes(way(frame, (0, 0, 0, 0))[0]) == sorted((way(frame, box)[1], refusal) for box, refusal in plain)


@given(seed=st.integers(0, 10_000), right=st.integers(0, 23), down=st.integers(0, 23), fine=st.booleans())
@settings(max_examples=6)
def test_a_shift_within_a_padded_frame_moves_the_boxes_by_as_much(seed: int, right: int, down: int, *, fine: bool) -> None:
    frame = larger(drawn(seed), 601, 480) if fine else drawn(seed)

    def padded(x: int, y: int) -> Frame:
        wide = np.full((frame.shape[0] + 100, frame.shape[1] + 100, 3), GLASS, np.uint8)
        wide[40 + y : 40 + y + frame.shape[0], 40 + x : 40 + x + frame.shape[1]] = frame
        return wide

    moved = [((x0 + right, y0 + down, x1 + right, y1 + down), code) for (x0, y0, x1, y1), code in boxes(padded(0, 0))]
    assert boxes(padded(right, down)) == moved
    assert moved


STAINS: dict[str, Stain] = {
    "nearly black nuclei": ((230, 230, 230), (200, 150, 145), (22, 14, 18), (180, 170, 200)),
    "black nuclei without a colour": ((230, 230, 230), (200, 150, 145), (28, 26, 29), (180, 170, 200)),
    "hardly any stain": ((240, 240, 240), (230, 212, 208), (190, 170, 210), (224, 220, 233)),
    "hardly any colour": ((215, 213, 212), (175, 160, 160), (95, 85, 105), (182, 175, 188)),
    "gray red cells": ((230, 230, 230), (185, 180, 182), (110, 70, 150), (200, 190, 218)),
    "gray glass": ((160, 160, 160), (130, 100, 98), (70, 45, 95), (130, 125, 145)),
    "yellow light": ((225, 215, 160), (195, 140, 90), (95, 60, 90), (180, 170, 140)),
}


@pytest.mark.parametrize("name", STAINS)
def test_a_white_cell_is_found_in_any_stain(name: str) -> None:
    for seed in range(3):
        frame, usual = drawn(seed, stain=STAINS[name]), boxes(drawn(seed))
        found = boxes(frame)
        assert len(found) == len(usual) == 1
        assert np.abs(np.subtract(found[0][0], usual[0][0])).max() <= 6
        assert boxes(drawn(seed, whites=0, stain=STAINS[name])) == []


@given(seed=st.integers(0, 10_000))
@settings(max_examples=4)
def test_boxes_and_contours_lie_inside_the_frame_and_agree(seed: int) -> None:
    frame = drawn(seed, whites=2)
    parameters = estimate_frame_parameters(frame, SPEC)
    cells = segment_cells(frame, parameters, SPEC)
    assert cells
    assert [(cell.box[1], cell.box[0]) for cell in cells] == sorted((cell.box[1], cell.box[0]) for cell in cells)
    for cell in cells:
        x0, y0, x1, y1 = cell.box
        assert 0 <= x0 < x1 <= frame.shape[1]
        assert 0 <= y0 < y1 <= frame.shape[0]
        assert (*cell.contour.min(axis=0).tolist(), *(cell.contour.max(axis=0) + 1).tolist()) == cell.box
        inside = (cell.nucleus >= cell.contour.min(axis=0)) & (cell.nucleus <= cell.contour.max(axis=0))
        assert inside.all()
        assert cut_cell(frame, cell, parameters, SPEC).ndim == 3


def test_a_strided_frame_is_examined_like_its_copy_and_not_written_to() -> None:
    frame = drawn(5)
    wide = np.repeat(np.repeat(frame, 2, axis=0), 2, axis=1)[::2, ::2]
    wide.flags.writeable = False
    assert not wide.flags.c_contiguous
    assert boxes(wide) == boxes(frame)


def blank(shape: tuple[int, int], level: int) -> Frame:
    return np.full((*shape, 3), level, np.uint8)


def noise(shape: tuple[int, int], spread: int) -> Frame:
    random = np.random.default_rng(3)
    return random.integers(128 - spread, 128 + spread, (*shape, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "frame",
    [blank((240, 320), level) for level in (0, 1, 128, 254, 255)]
    + [noise(shape, spread) for shape in ((240, 320), (480, 640)) for spread in (4, 30, 60, 128)],
)
def test_a_frame_that_shows_nothing_has_no_cells(frame: Frame) -> None:
    parameters = estimate_frame_parameters(frame, SPEC)
    assert parameters.scale_source == "assumed"
    assert segment_cells(frame, parameters, SPEC) == ()


def test_red_cells_alone_are_no_white_cells() -> None:
    frame = drawn(8, whites=0)
    parameters = estimate_frame_parameters(frame, SPEC)
    assert parameters.pixel_um == pytest.approx(7.5 / 40, rel=0.12)
    assert segment_cells(frame, parameters, SPEC) == ()


@pytest.mark.parametrize("shape", [(0, 0), (0, 9), (1, 1), (1, 700), (700, 1), (2, 3), (7, 5), (17, 16), (33, 900), (6000, 40)])
@pytest.mark.parametrize("pixel_um", [None, 0.01, 0.07, 1.0, 3.0])
def test_no_size_and_no_scale_makes_it_raise(shape: tuple[int, int], pixel_um: float | None) -> None:
    for frame in (noise(shape, 100), np.resize(drawn(1), (*shape, 3))):
        parameters = estimate_frame_parameters(frame, SPEC, pixel_um=pixel_um)
        for cell in segment_cells(frame, parameters, SPEC):
            assert cut_cell(frame, cell, parameters, SPEC).size
        assert reach_px(parameters) > 0


@pytest.mark.parametrize("frame", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint16)])
def test_what_is_no_frame_is_refused(frame: NDArray[np.generic]) -> None:
    with pytest.raises(ImageError):
        estimate_frame_parameters(frame, SPEC)  # type: ignore[arg-type]
    with pytest.raises(ImageError):
        segment_cells(frame, estimate_frame_parameters(blank((4, 4), 9), SPEC), SPEC)  # type: ignore[arg-type]


# ---- the steps, against scikit-image and against plain arithmetic


masks = st.integers(0, 10_000).map(
    lambda seed: (cv2.GaussianBlur(np.random.default_rng(seed).random((40, 50)), (0, 0), 2) > 0.5).astype(np.uint8)
)


@given(masks)
@settings(max_examples=20)
def test_axes_are_those_of_the_moments(mask: NDArray[np.uint8]) -> None:
    for region in regionprops(label(mask)):
        if region.area > 20:
            own = np.asarray(region.image, np.uint8)
            assert axes(own) == pytest.approx((region.axis_major_length, region.axis_minor_length), rel=1e-6, abs=1e-6)


@given(masks, st.integers(1, 60))
@settings(max_examples=20)
def test_small_holes_are_filled_and_large_ones_are_left(mask: NDArray[np.uint8], largest: int) -> None:
    filled = fill_holes(mask, largest)
    assert (filled >= mask).all()
    holes = label(filled == 0, connectivity=1)
    assert all(region.area <= largest for region in regionprops(label(filled - mask, connectivity=1)))
    assert holes.max() <= label(mask == 0, connectivity=1).max()


@given(masks)
@settings(max_examples=20)
def test_squared_distances_are_exact(mask: NDArray[np.uint8]) -> None:
    if not mask.any():
        return
    rows, columns = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    every = (y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2
    assert (squares_to(mask) == every.min(axis=2)).all()


@given(masks)
@settings(max_examples=20)
def test_hulls_and_distances_of_a_turned_mask_are_turned(mask: NDArray[np.uint8]) -> None:
    turned = np.ascontiguousarray(np.rot90(mask))
    assert (hull_mask(turned) == np.rot90(hull_mask(mask))).all()
    assert (approx_distance_to(turned) == np.rot90(approx_distance_to(mask))).all()
    if mask.any():
        true = convex_hull_image(mask, offset_coordinates=False)
        assert (hull_mask(mask) >= true).all()
        assert np.count_nonzero(hull_mask(mask) != true) < 0.05 * mask.size
        assert approx_distance_to(mask) == pytest.approx(np.sqrt(squares_to(mask)), rel=0.02)


def test_what_is_not_stained_or_hardly_has_no_parts() -> None:
    mask = np.zeros((30, 40), np.uint8)
    assert split_nuclei(mask, 0.25) == []
    mask[3, ::2] = 1
    assert split_nuclei(mask, 0.25) == []


@given(masks, st.floats(0.1, 8))
@settings(max_examples=20)
def test_what_lies_deep_is_the_same_by_erosion_and_by_distances(mask: NDArray[np.uint8], reach: float) -> None:
    assert (erode_by(mask, reach) == mask * (distance_inside(mask) > reach)).all()
    assert (erode_by(mask, reach + NEAR) == mask * (distance_inside(mask) > reach + NEAR)).all()


@given(st.lists(st.integers(0, 300), min_size=40, max_size=200), st.lists(st.integers(700, 1000), min_size=40, max_size=200))
@settings(max_examples=12)
def test_two_heaps_of_numbers_are_parted_between(low: list[int], high: list[int]) -> None:
    assert max(low) - 20 <= split_threshold(np.asarray(low + high, np.int32)) < min(high) + 20


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 9), st.integers(0, 3), st.integers(-4, 40), st.integers(-4, 40))
def test_a_grid_covers_its_box_evenly(width: int, height: int, half: int, margin: int, x: int, y: int) -> None:
    factor = 2 * half - 1
    grid = grid_around((x, y, x + width, y + height), factor, margin)
    left, right = x - grid.x0, grid.x0 + grid.width * factor - x - width
    assert left == right >= margin * factor
    picture = np.random.default_rng(1).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    if x < 60 and y < 50 and x + width > 0 and y + height > 0:
        assert downsample(picture, grid).shape == (grid.height, grid.width, 3)


def test_the_nearest_odd_factor_is_nearest_by_ratio() -> None:
    assert [nearest_odd_factor(value) for value in (0.2, 1, 1.7, 1.8, 3.4, 3.9, 5)] == [1, 1, 1, 3, 3, 5, 5]
