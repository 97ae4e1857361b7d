"""White cells where nothing else helps: without red cells, behind other lamps and cameras, in a round field of view."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.stain import RED_CELL, nuclear_axis
from blastscope.runtime.frames.types import Colour, FrameSpecification, SegmentedCell
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Box

Frame = NDArray[np.uint8]
SPEC = FrameSpecification()


def overlap(one: Box, other: Box) -> float:
    sides = [max(min(one[i + 2], other[i + 2]) - max(one[i], other[i]), 0) for i in (0, 1)]
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return sides[0] * sides[1] / (areas - sides[0] * sides[1])


def code_of(cell: SegmentedCell) -> str | None:
    return cell.refusal.code if cell.refusal else None


def cells_on_glass(paths: list[Path], light: float, glass: int) -> Frame:
    """Four cells a row, and nothing else."""
    tiles = []
    for path in paths:
        image = read_image(path)
        assert isinstance(image, np.ndarray)
        lit = np.minimum(image * light, glass - 6)
        tile = np.where(image.max(axis=2, keepdims=True) > 0, lit, glass).astype(np.uint8)
        tiles.append(cv2.resize(tile, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA))
    rows = [np.hstack(tiles[first : first + 4]) for first in range(0, len(tiles), 4)]
    return np.ascontiguousarray(np.vstack(rows))


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[Frame]:
    """Some of BCCD's training frames."""
    names = (shared_data / "bccd" / "train.txt").read_text().split()[2:200:50]
    pictures = [read_image(shared_data / "bccd" / "JPEGImages" / f"{name}.jpg") for name in names]
    return [picture for picture in pictures if isinstance(picture, np.ndarray)]


@pytest.mark.parametrize(("light", "glass"), [(1.0, 226), (1.8, 226), (2.4, 234)])
def test_nuclei_on_clean_glass_are_not_taken_for_red_cells(cnmc: Path, light: float, glass: int) -> None:
    frame = cells_on_glass(sorted(cnmc.rglob("*.webp"))[::440][:12], light, glass)
    found = segment_cells(frame, estimate_frame_parameters(frame, SPEC, pixel_um=SPEC.network_um / 0.4), SPEC)
    assert len(found) == 12


def test_the_scale_of_a_dim_frame_is_that_of_the_bright_one(frames: list[Frame]) -> None:
    for frame in frames:
        bright, dim = (estimate_frame_parameters(shown, SPEC) for shown in (frame, np.asarray(frame * 0.3, np.uint8)))
        assert dim.scale_source == "red-cells"
        assert dim.pixel_um == pytest.approx(bright.pixel_um, rel=0.12)


@pytest.mark.parametrize("level", [0, 25, 45, 65])
@pytest.mark.parametrize("reach", [220, 240, 270])
def test_the_dark_around_a_round_field_of_view_is_no_cell_and_hides_none(frames: list[Frame], level: int, reach: int) -> None:
    mosaic = np.vstack([np.hstack(frames[:2]), np.hstack(frames[2:])])
    whole = np.asarray(cv2.resize(mosaic, (640, 480), interpolation=cv2.INTER_AREA), np.uint8)
    rows, columns = np.ogrid[:480, :640]
    away = np.hypot(rows - 240, columns - 320)
    lit = np.clip(reach - away, 0, 4)[..., None] / 4
    field = np.asarray(whole * lit + level * (1 - lit), np.uint8)
    parameters = estimate_frame_parameters(whole, SPEC)
    found = segment_cells(field, estimate_frame_parameters(field, SPEC, pixel_um=parameters.pixel_um), SPEC)
    plain = segment_cells(whole, parameters, SPEC)
    assert len(plain) == 4
    for cell in plain:
        x0, y0, x1, y1 = cell.box
        if away[(y0 + y1) // 2, (x0 + x1) // 2] < reach - 12:  # at least half of it is shown
            assert any(overlap(other.box, cell.box) > 0.4 for other in found)
        if max(float(away[y, x]) for y in (y0, y1 - 1) for x in (x0, x1 - 1)) < reach - 12:
            assert [code_of(other) for other in found if overlap(other.box, cell.box) > 0.75] == [code_of(cell)]
    for cell in found:
        x0, y0, x1, y1 = cell.box
        assert away[(y0 + y1) // 2, (x0 + x1) // 2] < reach


def test_a_nearly_black_nucleus_at_the_edge_is_not_the_dark_around_a_field() -> None:
    frame = np.full((300, 400, 3), (232, 230, 226), np.uint8)
    for x, y in ((60, 60), (330, 70), (120, 250), (300, 240), (200, 130), (390, 160)):
        cv2.circle(frame, (x, y), 36, (196, 150, 152), cv2.FILLED)
    for x, y in ((4, 150), (200, 292), (250, 6)):
        cv2.circle(frame, (x, y), 48, (196, 186, 222), cv2.FILLED)
        cv2.circle(frame, (x, y), 38, (30, 18, 42), cv2.FILLED)
    frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), 1.5), np.uint8)
    found = segment_cells(frame, estimate_frame_parameters(frame, SPEC, pixel_um=0.1), SPEC)
    assert [code_of(cell) for cell in found] == ["touches-border"] * 3


def test_light_of_another_colour_at_one_side_spoils_no_outline(frames: list[Frame]) -> None:
    """A quarter of the red is missing at the far side, a tenth of the green."""
    mosaic = np.vstack([np.hstack(frames[:2]), np.hstack(frames[2:])])
    for whole in (mosaic, mosaic[:, ::-1], mosaic.transpose(1, 0, 2)):
        across = np.linspace(0, 1, whole.shape[1])[:, None]
        lit = np.asarray(whole * (1 - across * np.array([0.25, 0.1, 0.0])), np.uint8)
        plain, found = (
            segment_cells(shown, estimate_frame_parameters(shown, SPEC), SPEC) for shown in (np.ascontiguousarray(whole), lit)
        )
        assert len(found) == len(plain) == 4
        for one, other in zip(plain, found, strict=True):
            assert overlap(one.box, other.box) > 0.7


@pytest.mark.parametrize("size", [0.15, 0.2, 0.5])
def test_the_scale_of_a_coarse_frame_of_many_cells_is_found(frames: list[Frame], size: float) -> None:
    """0.15 of BCCD's size are 0.48 um a pixel, as of a 20x objective."""
    mosaic = np.vstack([np.hstack(frames[:2]), np.hstack(frames[2:])])
    mosaic = np.vstack([np.hstack([mosaic, mosaic[:, ::-1]]), np.hstack([mosaic[::-1], mosaic[::-1, ::-1]])])
    coarse = np.asarray(cv2.resize(mosaic, None, fx=size, fy=size, interpolation=cv2.INTER_AREA), np.uint8)
    parameters = estimate_frame_parameters(coarse, SPEC)
    assert parameters.scale_source == "red-cells"
    assert parameters.pixel_um * size == pytest.approx(
        np.median([estimate_frame_parameters(frame, SPEC).pixel_um for frame in frames]), rel=0.1
    )
    assert len(segment_cells(coarse, parameters, SPEC)) == 16


@given(st.tuples(*[st.floats(0.02, 0.8)] * 3))
def test_red_cells_of_any_colour_and_gray_lie_at_zero_on_the_nuclear_axis(red: Colour) -> None:
    axis = np.asarray(nuclear_axis(red))
    assert np.linalg.norm(axis) == pytest.approx(1, abs=1e-3)
    assert axis.sum() == pytest.approx(0, abs=1e-3)
    beside_gray, usual = np.cross(red, (1, 1, 1)), np.cross(RED_CELL, (1, 1, 1))
    far = float(np.linalg.norm(beside_gray))
    if far > 0.11 * np.linalg.norm(red) and beside_gray @ usual > 0.21 * far * np.linalg.norm(usual):
        assert axis @ red == pytest.approx(0, abs=1e-3)  # other cells are gray themselves, or no red cells
    assert axis @ nuclear_axis(RED_CELL) > 0.19


def test_a_white_margin_around_a_picture_is_not_taken_for_glass(frames: list[Frame]) -> None:
    for frame in frames:
        page = np.full((frame.shape[0] + 80, frame.shape[1] + 80, 3), 255, np.uint8)
        page[40:-40, 40:-40] = frame
        parameters = estimate_frame_parameters(frame, SPEC)
        seen = estimate_frame_parameters(page, SPEC)
        assert seen.background == pytest.approx(parameters.background, abs=2)
        assert seen.nuclear_axis == pytest.approx(parameters.nuclear_axis, abs=0.05)
        assert seen.pixel_um == pytest.approx(parameters.pixel_um, rel=0.05)
        here, there = segment_cells(frame, parameters, SPEC), segment_cells(page, seen, SPEC)
        moved = [(x0 - 40, y0 - 40, x1 - 40, y1 - 40) for x0, y0, x1, y1 in (cell.box for cell in there)]
        assert len(here) == len(moved) > 0
        assert all(max(overlap(cell.box, box) for box in moved) > 0.8 for cell in here)
