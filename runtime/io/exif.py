"""The EXIF orientation: how a camera was held, and how the pixels are turned upright, as every viewer does."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

UPRIGHT = 1
ORIENTATIONS = range(1, 9)  # 1 upright, 3 upside down, 6 and 8 a quarter turn, the others mirrored too
SIDEWAYS = range(5, 9)  # height and width change places
PREFIX = b"Exif\0\0"
ORIENTATION_TAG, SHORT = 274, 3


def orientation_in(exif: bytes) -> int:
    """The orientation that an EXIF block tells.

    Parameters
    ----------
    exif : bytes
        The block, with or without its prefix 'Exif'.

    Returns
    -------
    int
        1 to 8, as EXIF numbers them; 1, upright, where it tells none or is damaged.
    """
    block = exif.removeprefix(PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, entry)
            if (tag, kind) == (ORIENTATION_TAG, SHORT):
                (found,) = struct.unpack_from(f"{order}H", block, entry + 8)
                return int(found) if found in ORIENTATIONS else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels as they are to be shown.

    Parameters
    ----------
    pixels : (H, W, C) uint8 array
        As they are stored.
    orientation : int
        1 to 8, as EXIF numbers them.

    Returns
    -------
    (H, W, C) or (W, H, C) uint8 array
        `pixels` itself where the orientation is 1.
    """
    if orientation == UPRIGHT:
        return pixels
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
