"""Images on their way to the device: host images packed one behind the other, device images by their address alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.crop.kernels import ImageRow, image_row
from blastscope.runtime.gpu.arrays import DeviceImage

Image = NDArray[np.uint8] | DeviceImage  # (H, W, 3) RGB, on the host or on the device

ALIGNMENT = 256  # of whatever a kernel reads


def aligned(size: int) -> int:
    """`size`, up to where the next thing may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def pixel_bytes(images: Sequence[Image]) -> int:
    """The room that the pixels of `images` need."""
    return sum(aligned(image.nbytes) for image in images if isinstance(image, np.ndarray))


def stage(images: Sequence[Image], staging: NDArray[np.uint8], rows: int, inbox: int) -> int:
    """Writes the table of `images`, `rows` long, and behind it their pixels into `staging`; gives the bytes that count.

    `inbox` is the address that `staging` will be copied to. Rows without an image become images without pixels.
    """
    table = staging[: rows * ImageRow.itemsize].view(ImageRow)
    table[len(images) :] = np.zeros(1, ImageRow)
    end = aligned(rows * ImageRow.itemsize)
    for number, image in enumerate(images):
        if isinstance(image, DeviceImage):
            table[number] = image_row(image.address, image.shape, image.strides)
            continue
        copy = staging[end : end + image.size].reshape(image.shape)
        copy[...] = image  # takes any strides, and lets other threads run meanwhile
        table[number] = image_row(inbox + end, copy.shape, copy.strides)
        end += aligned(image.size)
    return end
