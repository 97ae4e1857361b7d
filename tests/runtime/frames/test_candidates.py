"""Where nuclei may be: the same in strips, in tiles and on any number of threads; what is near belongs together."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import ImagePyramid, grid_around, grid_over, grid_within
from blastscope.runtime.frames.segmentation import candidates as looking
from blastscope.runtime.frames.segmentation import stain_map as working
from blastscope.runtime.frames.segmentation.pipeline import reach_px, segment_cells
from blastscope.runtime.frames.stain import STEP, optical_density, project_density
from blastscope.runtime.frames.thresholding import median, quantile
from blastscope.runtime.frames.tiling import Tile, parameters_in
from blastscope.runtime.frames.types import FrameParameters, FrameSpecification
from blastscope.runtime.io import concurrency as spreading

GLASS = (232.0, 230.0, 226.0)
AXIS = (0.16, 0.6131, -0.7735)


def parameters(pixel_um: float) -> FrameParameters:
    return FrameParameters(pixel_um, "given", GLASS, AXIS, 0.16, 0.03, (0, 0, 150, 120), (0, 0, 10_000, 10_000))


def stained(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Discs of nuclear stain on glass, some on the edge, none of a size that strips would know."""
    random = np.random.default_rng(seed)
    frame = np.full((height, width, 3), GLASS, np.uint8)
    rows, columns = np.ogrid[:height, :width]
    for x, y in random.integers(0, (width, height), (9, 2)).tolist():
        frame[(rows - y) ** 2 + (columns - x) ** 2 < random.integers(15, 26) ** 2] = (104, 70, 150)
    return frame


@given(st.integers(0, 1000), st.integers(60, 200), st.integers(7, 70), st.sampled_from([0.15, 0.3]))
@settings(max_examples=8)
def test_strips_of_any_height_show_what_the_whole_shows(seed: int, height: int, strip: int, pixel_um: float) -> None:
    frame = stained(seed, height, 150)
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        for rows in (strip, height):
            patch.setattr(working, "STRIP_PIXELS", rows * 150)
            seen.append(working.make_stain_map(ImagePyramid(frame), parameters(pixel_um)))
    assert (seen[0].picture == seen[1].picture).all()
    assert (seen[0].stained == seen[1].stained).all()
    assert [place.box for place in looking.find_candidates(seen[0])]


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.03, 0.08, 0.2]))
@settings(max_examples=8)
def test_a_tile_of_a_frame_has_the_pixels_of_the_whole(seed: int, x: int, y: int, pixel_um: float) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (150, 160, 3)).astype(np.uint8)
    told = replace(parameters(pixel_um), content=(seed % 7, seed % 5, 150, 140))
    region = x, y, 160, 150
    whole = working.make_stain_map(ImagePyramid(frame), told)
    part = working.make_stain_map(ImagePyramid(np.ascontiguousarray(frame[y:, x:])), parameters_in(told, Tile(region, region)))
    assert whole.um == part.um
    factor = whole.grid.factor
    right, down = (part.grid.x0 + x - whole.grid.x0) // factor, (part.grid.y0 + y - whole.grid.y0) // factor
    rows, columns = part.grid.inside(part.shape)
    same = slice(rows.start + down, rows.stop + down), slice(columns.start + right, columns.stop + right)
    assert (part.picture[rows, columns] == whole.picture[same]).all()
    assert part.picture[rows, columns].size


def test_the_number_of_threads_changes_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = stained(7, 400, 500)
    told = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(spreading, "usable_threads", lambda threads=threads: threads)
        cells = segment_cells(frame, parameters(0.2), FrameSpecification())
        told.append([(cell.contour.tolist(), cell.nucleus.tolist(), cell.refusal) for cell in cells])
    assert told[0]
    assert told[0] == told[1] == told[2]


boxes = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 12), st.integers(1, 12)), max_size=14)


@given(boxes, st.integers(0, 9))
def test_parts_within_a_gap_belong_together_and_no_others_do(drawn: list[tuple[int, int, int, int]], gap: int) -> None:
    outlines = [
        np.asarray([[[x, y]], [[x + width - 1, y]], [[x + width - 1, y + height - 1]], [[x, y + height - 1]]], np.int32)
        for x, y, width, height in drawn
    ]
    grouped = looking._linked(outlines, gap)
    assert sorted(id(outline) for group in grouped for outline in group) == sorted(map(id, outlines))
    number = {id(outline): index for index, group in enumerate(grouped) for outline in group}
    reached = np.eye(len(drawn), dtype=bool)
    for (i, one), (j, other) in product(enumerate(drawn), repeat=2):
        apart = max(one[0] - other[0] - other[2], one[1] - other[1] - other[3])
        back = max(other[0] - one[0] - one[2], other[1] - one[1] - one[3])
        reached[i, j] |= max(apart, back) <= gap
    for _ in drawn:
        reached = reached @ reached
    for i, j in product(range(len(drawn)), repeat=2):
        assert reached[i, j] == (number[id(outlines[i])] == number[id(outlines[j])])


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_nuclear_stain_is_the_density_along_the_axis(seed: int) -> None:
    picture = np.random.default_rng(seed).integers(30, 256, (9, 7, 3)).astype(np.uint8)
    densities = np.dstack(optical_density(picture, GLASS))
    extra = project_density(AXIS, picture, GLASS) / STEP - densities @ np.asarray(AXIS, np.float32)
    usual = densities[..., 0] < 1
    assert np.abs(extra[usual]).max() < 2 / STEP
    assert (extra[~usual] >= -2 / STEP).all()  # what is nearly black shows, whatever its colour
    assert extra[densities[..., 0] > 1.5].min(initial=1) > 0.2


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=60), st.floats(0, 1))
def test_order_statistics_are_values_and_lie_where_they_should(values: list[int], share: float) -> None:
    found = quantile(np.asarray(values), share)
    assert found in values
    assert sum(value < found for value in values) <= share * len(values) <= sum(value <= found for value in values)
    assert median(np.asarray(values)) == sorted(values)[len(values) // 2]


@given(st.integers(-9, 60), st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3, 5, 9]))
def test_a_grid_within_a_box_wastes_less_than_two_squares(low: int, width: int, height: int, factor: int) -> None:
    grid = grid_within((low, 5, low + width, 5 + height), factor)
    assert 2 * grid.x0 + grid.width * factor == 2 * low + width
    assert 2 * grid.y0 + grid.height * factor == 10 + height
    if min(width, height) >= 2 * factor:
        assert 0 <= width - grid.width * factor < 2 * factor
        assert 0 <= height - grid.height * factor < 2 * factor


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 12), st.integers(-90, 90), st.integers(-90, 90))
def test_a_grid_over_a_frame_covers_it_and_no_more(width: int, height: int, half: int, x: int, y: int) -> None:
    factor = 2 * half + 1
    grid = grid_over((height, width, 3), (x, y, x + 7, y + 8), factor)
    around = grid_around((x, y, x + 7, y + 8), factor)
    assert (grid.x0 - around.x0) % factor == (grid.y0 - around.y0) % factor == 0
    assert -factor < grid.x0 <= 0 <= grid.x0 + grid.width * factor - width < factor
    assert -factor < grid.y0 <= 0 <= grid.y0 + grid.height * factor - height < factor


def test_a_crowd_falls_into_places_no_wider_than_a_cell() -> None:
    frame = np.full((500, 900, 3), GLASS, np.uint8)
    rows, columns = np.ogrid[:500, :900]
    for x, y in product(range(60, 860, 55), range(60, 460, 55)):
        frame[(rows - y) ** 2 + (columns - x) ** 2 < 21**2] = (104, 70, 150)  # 8.4 um across, 2.6 um apart
    places = looking.find_candidates(working.make_stain_map(ImagePyramid(frame), parameters(0.2)))
    assert len(places) == 15 * 8
    assert not any(place.wide for place in places)
    assert len(segment_cells(frame, parameters(0.2), FrameSpecification())) == 15 * 8


@pytest.mark.parametrize("nucleus", [(104, 70, 150), (70, 35, 80)])  # the second is darker in every colour than most surrounds
def test_a_tile_sees_of_a_cluster_what_the_whole_frame_shows(nucleus: tuple[int, int, int]) -> None:
    """Nuclei that touch, in a chain longer than any tile's margin."""
    frame = np.full((300, 1400, 3), GLASS, np.uint8)
    rows, columns = np.ogrid[:300, :1400]
    for index in range(30):
        x, y, radius = 50 + 44 * index, 150 + 23 * (index % 3), 20 + index % 4
        frame[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = (nucleus[0] - index, *nucleus[1:])
    told = parameters(0.2)
    margin = reach_px(told)
    assert margin < 180
    whole = [cell.box for cell in segment_cells(frame, told, FrameSpecification())]
    found = []
    for left in range(0, 1400, 350):
        x = max(left - margin, 0)
        for cell in segment_cells(frame[:, x : left + 350 + margin], told, FrameSpecification()):
            box = (cell.box[0] + x, cell.box[1], cell.box[2] + x, cell.box[3])
            if 2 * left <= box[0] + box[2] < 2 * (left + 350):
                found.append(box)
    assert sorted(found) == sorted(whole)
    assert len(whole) > 20


def test_one_thread_is_enough_where_no_more_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(spreading, "ThreadPool")
    frame = stained(7, 800, 900)  # a smaller one has but one strip's worth of work
    assert segment_cells(frame, parameters(0.2), FrameSpecification(), threads=1)
    with pytest.raises(NameError):
        segment_cells(frame, parameters(0.2), FrameSpecification(), threads=2)
