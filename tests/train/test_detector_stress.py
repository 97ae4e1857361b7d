"""Changes of frames under which detectors are judged: what each does to a drawn frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.train.detector.sources import RED, WHITE, Frame
from blastscope.train.detector.stress import LAID, NAMES, stressed

GLASS, RED_COLOUR, NUCLEUS = (236, 228, 214), (222, 164, 150), (112, 72, 160)
WHITES = ((120, 140, 190, 210), (270, 190, 340, 270))
REDS = ((210, 100, 250, 140), (110, 240, 150, 280), (210, 240, 250, 280))


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    drawn = np.full((400, 460, 3), GLASS, np.uint8)
    for boxes, colour in ((REDS, RED_COLOUR), (WHITES, NUCLEUS)):
        for x0, y0, x1, y1 in boxes:
            cv2.ellipse(drawn, ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2), 0, 0, 360, colour, -1)
    return drawn


@pytest.fixture
def frame() -> Frame:
    boxes = np.asarray((*WHITES, *REDS), np.float32)
    return Frame(Path("drawn.png"), boxes, np.asarray([WHITE] * len(WHITES) + [RED] * len(REDS)), 40.0)


def lab(colour: NDArray[np.uint8]) -> NDArray[np.float64]:
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(colour), np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_the_same_each_time_and_leaves_labelled_cells(name: str, picture: NDArray[np.uint8], frame: Frame) -> None:
    before = picture.copy()
    once, again = (stressed(name, picture, frame, 3) for _ in range(2))
    assert (picture == before).all()
    assert (once.picture == again.picture).all()
    assert (once.picture.shape, once.picture.dtype) == (picture.shape, np.uint8)
    assert (once.picture != picture).any()
    np.testing.assert_array_equal(once.white[: len(WHITES)], WHITES)
    assert (len(once.white) > len(WHITES)) == (name == LAID)


def test_red_cells_become_magenta_and_nuclei_stay(picture: NDArray[np.uint8], frame: Frame) -> None:
    changed = stressed("magenta red cells", picture, frame, 0).picture
    red, nucleus = (slice(115, 125), slice(225, 235)), (slice(170, 180), slice(150, 160))
    moved = (lab(changed[red]) - lab(picture[red])).mean(axis=(0, 1))
    assert moved[1] > 20  # towards red, away from green
    assert moved[2] < -15  # towards blue, away from yellow
    stayed = (lab(changed[nucleus]) - lab(picture[nucleus])).mean(axis=(0, 1))
    assert np.abs(stayed).max() < 3


def test_light_focus_and_lens_do_what_they_are_named_for(picture: NDArray[np.uint8], frame: Frame) -> None:
    changed = {name: stressed(name, picture, frame, 0).picture.astype(np.float64) for name in NAMES}
    assert changed["high key"].min() > picture.min() + 60
    assert changed["dim"].mean() < 0.7 * picture.mean()
    lens = changed["eyepiece"]
    assert lens[:20, :20].mean() < 0.75 * lens[190:210, 220:240].mean()
    detail = [np.abs(np.diff(each[140:210, 100:140].mean(axis=2), axis=1)).max() for each in (picture, changed["out of focus"])]
    assert detail[1] < 0.5 * detail[0]


def test_cells_that_are_laid_on_are_larger_paler_and_hardly_overlap(picture: NDArray[np.uint8], frame: Frame) -> None:
    changed = stressed(LAID, picture, frame, 1)
    laid = changed.white[len(WHITES) :]
    sides = np.sqrt((laid[:, 2] - laid[:, 0]) * (laid[:, 3] - laid[:, 1]))
    assert sides.min() > 1.15 * 70
    taken = np.zeros(picture.shape[:2], int)
    for x0, y0, x1, y1 in changed.white.astype(int):
        assert taken[y0:y1, x0:x1].mean() <= 0.35
        taken[y0:y1, x0:x1] = 1
    assert (changed.picture[taken == 0] == picture[taken == 0]).all()
    x0, y0, x1, y1 = laid[0].astype(int)
    middle = changed.picture[(y0 + y1) // 2, (x0 + x1) // 2]
    assert (middle > np.asarray(NUCLEUS) + 15).all()
    assert (middle < np.asarray(GLASS)).all()


def test_a_frame_without_a_whole_white_cell_stays_as_it_is(picture: NDArray[np.uint8]) -> None:
    frame = Frame(Path("drawn.png"), np.asarray([(0, 60, 30, 130)], np.float32), np.asarray([WHITE]), 40.0)
    changed = stressed(LAID, picture, frame, 1)
    assert (changed.picture == picture).all()
    assert len(changed.white) == 1
