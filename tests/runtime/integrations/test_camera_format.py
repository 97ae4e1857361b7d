"""A camera's array becomes an RGB frame, or is refused: nothing is guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.integrations.micromanager import CameraFormat, to_rgb
from blastscope.runtime.types import Refusal

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
ALPHA = np.full((5, 7, 1), 255, np.uint8)
BGRA = np.concatenate([RGB[..., ::-1], ALPHA], axis=2)


def packed(bgra: NDArray[Any]) -> NDArray[Any]:
    """As Micro-Manager has it: blue in the lowest byte."""
    step = bgra.dtype.itemsize * 8
    integers = sum(bgra[..., place].astype(f"u{step // 2}") << np.uint64(step * place) for place in range(4))
    return np.asarray(integers, f"u{step // 2}")


@pytest.mark.parametrize(
    ("image", "camera"),
    [
        (RGB, CameraFormat()),
        (np.asfortranarray(RGB), CameraFormat()),
        (RGB[..., ::-1], CameraFormat(channels="bgr")),
        (np.concatenate([RGB, ALPHA], axis=2), CameraFormat(channels="rgba")),
        (BGRA, CameraFormat(channels="bgra")),
        (packed(BGRA), CameraFormat(channels="packed-bgra")),
        (packed(BGRA.astype(np.uint16) << 4), CameraFormat(channels="packed-bgra", bits=12)),
        (RGB.astype(np.uint16) << 2, CameraFormat(bits=10)),
    ],
)
def test_the_same_colours_come_out_of_every_format_that_was_named(image: NDArray[Any], camera: CameraFormat) -> None:
    frame = to_rgb(image, camera)
    assert isinstance(frame, np.ndarray)
    assert frame.dtype == np.uint8
    assert np.array_equal(frame, RGB)


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (RGB[..., 0], "uint8 of shape"),
        (RGB[..., 0].astype(np.uint16), "uint16 of shape"),
        (packed(BGRA), "uint32 of shape"),  # might be a gray camera of 32 bits
        (BGRA, "4 channels"),
        (RGB.astype(np.uint16), "bits"),
        (RGB.astype(np.float32), "float32"),
        ([1, 2], "'list'"),
    ],
)
def test_what_nobody_named_is_refused_with_the_reason(image: Any, word: str) -> None:
    refusal = to_rgb(image)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "not-8-bit-rgb"
    assert word in refusal.detail
