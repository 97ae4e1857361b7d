"""Converts a camera's array to an RGB frame, or says why it can't.

Micro-Manager packs a colour pixel into one integer, blue in its lowest byte: RGB32 is (H, W) uint32, RGB64 is (H, W) uint64.
pymmcore-plus unpacks both to (H, W, 3) RGB, unless its caller says fix=False. Nothing is guessed, and a gray camera of 32 bits
gives (H, W) uint32 as well: packed pixels, four channels and 16 bits are refused until `CameraFormat` says what they are.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Refusal


class CameraFormat(StrictModel):
    """What the arrays of a camera mean, where they don't say it themselves."""

    channels: Literal["rgb", "bgr", "rgba", "bgra", "packed-bgra"] = "rgb"  # packed: (H, W) uint32 or uint64
    bits: int | None = Field(default=None, ge=9, le=16)  # that a 16-bit channel uses: 10, 12, 14, 16; the top 8 are kept


def to_rgb(image: object, camera: CameraFormat | None = None) -> NDArray[np.uint8] | Refusal:
    """The frame (H, W, 3) uint8 RGB that `image` shows, or why it shows none. It may be a view of `image`."""
    camera = camera or CameraFormat()
    if not isinstance(image, np.ndarray):
        return _refused(f"a camera's frame must be a numpy array, not '{type(image).__name__}'")
    order = camera.channels.removeprefix("packed-")
    if camera.channels == "packed-bgra" and image.ndim == 2 and image.dtype in (np.uint32, np.uint64):
        image = _unpacked(image)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        return _refused(f"the camera gives {image.dtype} of shape {image.shape}: only a colour camera shows the stain")
    if image.shape[2] != len(order):
        return _refused(f"the camera gives {image.shape[2]} channels, its format says '{order}': say which in CameraFormat")
    return _eight_bits(image[..., :3] if order.startswith("rgb") else image[..., 2::-1], camera.bits)


def _unpacked(image: NDArray[np.uint32] | NDArray[np.uint64]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Packed pixels (H, W) as (H, W, 4), blue first, whatever this machine's order of bytes."""
    step = image.dtype.itemsize // 4
    packed = np.ascontiguousarray(image, dtype=f"<u{image.dtype.itemsize}")
    channels = packed.view(f"<u{step}").reshape(*image.shape, 4)
    return channels.astype(f"u{step}", copy=False)


def _eight_bits(image: NDArray[np.generic], bits: int | None) -> NDArray[np.uint8] | Refusal:
    if image.dtype == np.uint8:
        return image.view(np.uint8)
    if image.dtype != np.uint16:
        return _refused(f"the camera's channels are {image.dtype}: they must be uint8, or uint16 with CameraFormat.bits")
    if bits is None:
        return _refused("the camera's channels are uint16: say in CameraFormat.bits how many bits of them it uses")
    shifted = np.minimum(image.view(np.uint16) >> (bits - 8), 255)
    return np.asarray(shifted, dtype=np.uint8)


def _refused(detail: str) -> Refusal:
    return Refusal("not-8-bit-rgb", detail)
