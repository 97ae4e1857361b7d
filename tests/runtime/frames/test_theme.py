"""Normalisation of stain: the colours that it gives to a cell, and that it touches nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import rgb2lab

from blastscope.runtime.frames.stain import CNMC_MEAN, CNMC_SPREAD, normalize_stain

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
def test_reinhard_gives_a_cell_the_mean_and_spread_of_the_training(seed: int) -> None:
    image, mask = cell(seed)
    lab = rgb2lab(normalize_stain(image, mask, "reinhard", GLASS))[mask > 0]
    assert lab.mean(axis=0) == pytest.approx(CNMC_MEAN, abs=1.5)  # what no screen can show is clipped
    assert lab.std(axis=0)[0] == pytest.approx(CNMC_SPREAD[0], abs=1.0)


@pytest.mark.parametrize("how", ["none", "reinhard", "macenko"])
def test_only_the_cell_is_shown_and_none_of_it_is_black(how: str) -> None:
    image, mask = cell(3)
    shown = normalize_stain(image, mask, how, GLASS)  # type: ignore[arg-type]
    assert not shown[mask == 0].any()
    assert shown[mask > 0].min() >= 1
    few = np.zeros_like(mask)
    few[40:44, 40:44] = 1
    assert (normalize_stain(image, few, how, GLASS)[few > 0] == image[few > 0]).all()  # type: ignore[arg-type]
