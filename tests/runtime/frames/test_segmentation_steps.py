"""Steps of finding that look at less than everything, against those that look at all of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from skimage.measure import label
from skimage.morphology import closing, dilation, opening

from blastscope.runtime.frames.estimation.frame_parameters import NOT_BACKGROUND, background_level, content_box
from blastscope.runtime.frames.estimation.pixel_size import Edges, edges_of, hough_accumulator
from blastscope.runtime.frames.image_pyramid import ImagePyramid, downsample, grid_over, grid_within
from blastscope.runtime.frames.mask_geometry import disc, distance_inside, region_of
from blastscope.runtime.frames.segmentation.cell_outline import GAP_UM, LONGEST_UM, RIM_UM, SMOOTH_UM, _pair, grow_cytoplasm
from blastscope.runtime.frames.segmentation.split_nuclei import (
    NECK,
    STEP_UM,
    _cores,
    _seeds,
    components_of,
    connected_to_core,
    fill_holes,
)

GLASS = 230


def blob(seed: int) -> NDArray[np.uint8]:
    mask = (cv2.GaussianBlur(np.random.default_rng(seed).random((24, 30)), (0, 0), 2) > 0.52).astype(np.uint8)
    mask[12, 15] = 1
    return mask


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(-30, 30), st.integers(-30, 30), st.floats(0.1, 0.3))
@settings(max_examples=40)
def test_the_gap_between_two_parts_is_that_of_their_nearest_pixels(one: int, other: int, x: int, y: int, um: float) -> None:
    parts = region_of(blob(one)), region_of(blob(other), (x, y))
    (a, b) = (np.argwhere(part.mask) + np.asarray((part.y, part.x)) for part in parts)
    true = int(((a[:, None] - b[None]) ** 2).sum(axis=2).min())
    assume(true > 0)  # no pixel is two parts'
    both = np.concatenate([a, b])
    longest = int(((both[:, None] - both[None]) ** 2).sum(axis=2).max())
    pair = _pair(*parts, um)
    if true * um * um <= GAP_UM**2 and longest * um * um <= LONGEST_UM**2:
        assert pair is not None
        assert (pair.gap, pair.length) == (true, longest)
    else:
        assert pair is None


@given(st.integers(0, 3000), st.sampled_from([0.1, 0.25, 0.4]))
@settings(max_examples=40)
def test_seeds_are_those_that_every_single_step_would_find(seed: int, um: float) -> None:
    large = list(components_of(cv2.resize(blob(seed), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)).drawn())
    own = region_of(large[seed % len(large)].mask)
    depth = distance_inside(own.mask)
    expected, level = [own], 1
    while level * STEP_UM / um < NECK * depth.max():
        for piece in list(expected):
            cores = _cores(piece, depth[piece.window] * piece.mask, level * STEP_UM / um, um)
            if len(cores) > 1:
                expected = [one for one in expected if one is not piece] + cores
        level += 1
    places = sorted((*one.box, one.area) for one in expected)
    assert sorted((*one.box, one.area) for one in _seeds(own, depth, um)) == places


@given(st.integers(0, 3000), st.floats(0.2, 0.8), st.integers(0, 2), st.integers(0, 12))
@settings(max_examples=80)
def test_pieces_are_those_that_a_labelling_finds(seed: int, share: float, blur: int, largest: int) -> None:
    noise = np.random.default_rng(seed).random((20, 31))
    shown = cv2.GaussianBlur(noise, (0, 0), blur) if blur else noise
    mask = (shown > np.quantile(shown, share)).astype(np.uint8)
    labels = label(fill_holes(mask, largest) if largest else mask, connectivity=2)
    pieces = components_of(mask, holes=largest)
    assert len(pieces) == labels.max()
    every = slice(0, 20), slice(0, 31)
    told = {tuple(np.flatnonzero(piece.on(every)).tolist()) for piece in pieces.drawn()}
    expected = [np.flatnonzero(labels == number) for number in range(1, labels.max() + 1)]
    assert told == {tuple(piece.tolist()) for piece in expected}
    assert [piece.area for piece in pieces.drawn(5)] == [piece.area for piece in pieces.drawn() if piece.area >= 5]
    core = next(pieces.drawn()).on(every)
    if not largest:
        assert (connected_to_core(mask, core) == core).all()


def test_the_gap_to_a_part_in_the_hole_of_another_is_told() -> None:
    rows, columns = np.ogrid[:41, :41]
    away = (rows - 20) ** 2 + (columns - 20) ** 2
    ring, core = region_of(((away < 400) & (away > 100)).astype(np.uint8)), region_of((away < 9).astype(np.uint8))
    pair = _pair(ring, core, 0.25)
    assert pair is not None
    points = [np.argwhere(mask) for mask in ((away < 400) & (away > 100), away < 9)]
    assert pair.gap == ((points[0][:, None] - points[1][None]) ** 2).sum(axis=2).min()


@given(st.integers(0, 3000), st.sampled_from([0.2, 0.25, 0.4]))
@settings(max_examples=15)
def test_a_cell_is_the_same_however_much_of_the_picture_is_looked_at(seed: int, um: float) -> None:
    random = np.random.default_rng(seed)
    rows, columns = np.ogrid[:120, :120]
    away = (rows - 60) ** 2 + (columns - 60) ** 2
    nucleus = (away < (3 / um) ** 2).astype(np.uint8)
    rough = cv2.GaussianBlur(random.random((120, 120)), (0, 0), 2) > random.uniform(0.44, 0.5)
    cellular = (rough & (away < (7.5 / um) ** 2)).astype(np.uint8)
    footprint = disc(max(SMOOTH_UM / um, 1.0))
    smooth = opening(cellular | nucleus, footprint) | nucleus
    labels = label(smooth, connectivity=2)
    whole = binary_fill_holes(closing((labels == labels[60, 60]).astype(np.uint8), footprint))
    expected = dilation(whole.astype(np.uint8), disc(max(RIM_UM / um, 1.0)))
    cell = grow_cytoplasm(region_of(nucleus), [], cellular, um)
    assert (cell.on((slice(0, 120), slice(0, 120))) == expected).all()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 70), st.integers(1, 70), st.booleans())
@settings(max_examples=25)
def test_the_content_of_a_frame_is_the_box_of_all_that_is_no_glass(x: int, y: int, width: int, height: int, dark: bool) -> None:
    frame = np.full((150, 160, 3), GLASS, np.uint8)
    if dark:
        frame[:, :20] = 0
    random = np.random.default_rng(x)
    frame[y : y + height, x : x + width] = random.integers(GLASS - 100, GLASS - NOT_BACKGROUND - 2, (height, width, 1))
    gray = frame[..., 0].astype(int)
    rows, columns = np.nonzero((abs(gray - GLASS) > NOT_BACKGROUND) & (gray > 0))
    shades = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    level = background_level(shades)
    assert abs(level - GLASS) <= 4
    assert content_box(shades, GLASS) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert content_box(np.full_like(shades, GLASS), GLASS) == (0, 0, 160, 150)


@given(st.integers(0, 50), st.integers(30, 100), st.integers(30, 100), st.integers(0, 20), st.sampled_from([1, 3, 5, 9]))
@settings(max_examples=25)
def test_a_picture_made_before_is_the_one_that_would_be_made(
    seed: int, width: int, height: int, less: int, factor: int
) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (110, 120, 3)).astype(np.uint8)
    pictures, box = ImagePyramid(frame), (7, 5, 7 + width, 5 + height)
    inner = (7 + less // 2, 5 + less // 2, 7 + width - less // 2, 5 + height - less // 2)
    beside = [
        (box[0] + x, box[1] + y, box[2] + x, box[3] + y) for x, y in ((-factor, 0), (0, -factor), (factor, 0), (0, factor))
    ]
    for wanted in (box, inner, box, *(one for moved in beside for one in (moved, box))):
        assert (pictures.within(wanted, factor) == downsample(frame, grid_within(wanted, factor))).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blastscope.runtime.frames.image_pyramid.LARGE_PIXELS", 0)
        difference = ImagePyramid(frame).within(box, factor) - downsample(frame, grid_within(box, factor)).astype(int)
    assert abs(difference).max() <= (factor == 9)  # in two steps, each rounded


@given(st.integers(0, 50), st.integers(-20, 40), st.integers(-20, 40), st.sampled_from([3, 5, 7]))
@settings(max_examples=25)
def test_a_whole_frame_is_reduced_beyond_its_edges_as_a_part_is(seed: int, x: int, y: int, factor: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (71, 83, 3)).astype(np.uint8)
    box = (x, y, x + 45, y + 52)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blastscope.runtime.frames.image_pyramid.STRIP_PIXELS", 900)
        grid, picture = ImagePyramid(frame).over(box, factor)
    assert grid == grid_over(frame.shape, box, factor)
    assert (picture == downsample(frame, grid)).all()


@given(st.integers(0, 50))
@settings(max_examples=10)
def test_reduced_pixels_are_rounded_means(seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (45, 90, 3)).astype(np.uint8)
    for factor in (3, 5, 9):
        mean = frame.reshape(45 // factor, factor, 90 // factor, factor, 3).mean(axis=(1, 3))
        assert (downsample(frame, grid_within((0, 0, 90, 45), factor)) == np.rint(mean)).all()


def test_the_votes_of_a_disc_meet_most_at_its_radius() -> None:
    picture = np.full((120, 130, 3), GLASS, np.uint8)
    for x, y in ((30, 30), (80, 40), (60, 90)):
        cv2.circle(picture, (x, y), 14, (190, 150, 150), cv2.FILLED)
    edges = edges_of(picture, lambda shown: np.zeros(shown.shape[:2], np.bool_))
    assert isinstance(edges, Edges)
    heights = [hough_accumulator(edges, radius) for radius in range(6, 24)]
    assert abs(range(6, 24)[int(np.argmax(heights))] - 14) <= 1
