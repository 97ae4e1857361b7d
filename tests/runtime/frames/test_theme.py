"""Cells in other colours: what normalising does to a cell's look, and that it touches nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import rgb2lab

from blastscope.runtime.frames.stain import CNMC_MEAN, CNMC_SPREAD, lab_statistics, normalize_stain

GLASS = (230.0, 228.0, 226.0)


def cell(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A purple disc with a grain, and its mask."""
    random = np.random.default_rng(seed)
    mask = np.zeros((90, 80), np.uint8)
    cv2.circle(mask, (40, 45), 34, (1,), cv2.FILLED)
    image = np.asarray((150, 110, 170)) + random.normal(0, 14, (90, 80, 1)) + random.normal(0, 5, (90, 80, 3))
    return np.clip(image, 1, 255).astype(np.uint8), mask


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_a_look_is_mean_and_spread_of_the_colours_under_the_mask(seed: int) -> None:
    image, mask = cell(seed)
    look, lab = lab_statistics(image, mask), rgb2lab(image)[mask > 0]
    assert look.mean == pytest.approx(lab.mean(axis=0), abs=0.01)
    assert look.spread == pytest.approx(lab.std(axis=0), abs=0.01)


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_reinhard_gives_a_cell_the_look_of_the_training(seed: int) -> None:
    image, mask = cell(seed)
    look = lab_statistics(normalize_stain(image, mask, "reinhard", GLASS), mask)
    assert look.mean == pytest.approx(CNMC_MEAN, abs=1.5)  # what no screen can show is clipped
    assert look.spread[0] == pytest.approx(CNMC_SPREAD[0], abs=1.0)


@pytest.mark.parametrize("how", ["none", "reinhard", "macenko"])
def test_only_the_cell_is_shown_and_none_of_it_is_black(how: str) -> None:
    image, mask = cell(3)
    shown = normalize_stain(image, mask, how, GLASS)  # type: ignore[arg-type]
    assert not shown[mask == 0].any()
    assert shown[mask > 0].min() >= 1
    few = np.zeros_like(mask)
    few[40:44, 40:44] = 1
    assert (normalize_stain(image, few, how, GLASS)[few > 0] == image[few > 0]).all()  # type: ignore[arg-type]
