"""Steps of finding that look at less than everything, against those that look at all of it."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.frames.finding.lobes import _gap
from blastscope.runtime.frames.grids import Pictures, grid_within, reduced
from blastscope.runtime.frames.part import boxes_apart, part_of
from blastscope.runtime.frames.surveying.glass import NOT_GLASS, content_box, glass_level
from blastscope.runtime.frames.surveying.votes import Edges, edges_of, meeting

GLASS = 230


def blob(seed: int) -> NDArray[np.uint8]:
    mask = (cv2.GaussianBlur(np.random.default_rng(seed).random((24, 30)), (0, 0), 2) > 0.52).astype(np.uint8)
    mask[12, 15] = 1
    return mask


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(-30, 30), st.integers(-30, 30), st.floats(1, 20))
@settings(max_examples=40)
def test_the_gap_between_two_parts_is_that_of_their_nearest_pixels(one: int, other: int, x: int, y: int, most: float) -> None:
    parts = part_of(blob(one)), part_of(blob(other), (x, y))
    if boxes_apart(*parts) > most:
        return
    (a, b) = (np.argwhere(part.mask) + np.asarray((part.y, part.x)) for part in parts)
    true = int(((a[:, None] - b[None]) ** 2).sum(axis=2).min())
    assert _gap(*parts, most) == (true if true <= most**2 else None)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 70), st.integers(1, 70), st.booleans())
@settings(max_examples=25)
def test_the_content_of_a_frame_is_the_box_of_all_that_is_no_glass(x: int, y: int, width: int, height: int, dark: bool) -> None:
    frame = np.full((150, 160, 3), GLASS, np.uint8)
    if dark:
        frame[:, :20] = 0
    random = np.random.default_rng(x)
    frame[y : y + height, x : x + width] = random.integers(GLASS - 100, GLASS - NOT_GLASS - 2, (height, width, 1))
    gray = frame[..., 0].astype(int)
    rows, columns = np.nonzero((abs(gray - GLASS) > NOT_GLASS) & (gray > 0))
    level = glass_level(frame)
    assert abs(level - GLASS) <= 4
    assert content_box(frame, GLASS) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert content_box(np.full_like(frame, GLASS), GLASS) == (0, 0, 160, 150)


@given(st.integers(0, 50), st.integers(30, 100), st.integers(30, 100), st.integers(0, 20), st.sampled_from([1, 3, 5, 9]))
@settings(max_examples=25)
def test_a_picture_made_before_is_the_one_that_would_be_made(
    seed: int, width: int, height: int, less: int, factor: int
) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (110, 120, 3)).astype(np.uint8)
    pictures, box = Pictures(frame), (7, 5, 7 + width, 5 + height)
    inner = (7 + less // 2, 5 + less // 2, 7 + width - less // 2, 5 + height - less // 2)
    for wanted in (box, inner, box):
        assert (pictures.within(wanted, factor) == reduced(frame, grid_within(wanted, factor))).all()


@given(st.integers(0, 50))
@settings(max_examples=10)
def test_reduced_pixels_are_rounded_means(seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (45, 90, 3)).astype(np.uint8)
    for factor in (3, 5, 9):
        mean = frame.reshape(45 // factor, factor, 90 // factor, factor, 3).mean(axis=(1, 3))
        assert (reduced(frame, grid_within((0, 0, 90, 45), factor)) == np.rint(mean)).all()


def test_the_votes_of_a_disc_meet_most_at_its_radius() -> None:
    picture = np.full((120, 130, 3), GLASS, np.uint8)
    for x, y in ((30, 30), (80, 40), (60, 90)):
        cv2.circle(picture, (x, y), 14, (190, 150, 150), cv2.FILLED)
    edges = edges_of(picture, lambda shown: np.zeros(shown.shape[:2], np.bool_))
    assert isinstance(edges, Edges)
    heights = [meeting(edges, radius) for radius in range(6, 24)]
    assert abs(range(6, 24)[int(np.argmax(heights))] - 14) <= 1
