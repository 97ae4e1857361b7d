"""Image files as bytes and as pixels: read whole, decoded unchanged, or refused. `runtime.io.image` is the door above it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_header import MAX_PIXELS, Header, read_gray_jpeg_header, read_header
from blastscope.runtime.types import Refusal

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_BYTES = 4 * MAX_PIXELS  # no file of an image that is let through is larger
# Nothing is converted but the order of channels; the EXIF orientation is not applied.
DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def read_content(path: Path | str) -> bytes | Refusal:
    """The bytes of the file `path`; a file that isn't there or can't be read is a refusal too."""
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return refused_folder(path)
        if not stat.S_ISREG(status.st_mode):
            return Refusal("undecodable", "not a file")
        if status.st_size > MAX_BYTES:
            return Refusal("bomb", f"the file holds {status.st_size} bytes, more than {MAX_BYTES}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        return Refusal("undecodable", f"can't be read: {getattr(error, 'strerror', None) or error}")


def refused_folder(path: Path) -> Refusal:
    """Why a folder is no image. One that can't be looked into stands for the images that it may hold."""
    readable = os.access(path, os.R_OK | os.X_OK)
    return Refusal("undecodable", "a folder, not a file" if readable else "a folder that can't be looked into")


def decode_picture(content: bytes) -> NDArray[np.uint8] | Refusal:
    """The pixels (H, W, 3) RGB of the image file whose bytes are `content`, or why there are none."""
    header = read_header(content)
    if isinstance(header, Refusal):
        return header
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), DECODE)
    except cv2.error as error:
        return Refusal("undecodable", f"the decoder gave up: {error.err}")
    return _as_promised(pixels, header)


def decode_gray_jpeg(content: bytes) -> NDArray[np.uint8] | Refusal:
    """The pixels (H, W, 1) of a JPEG of one colour, or why there are none."""
    header = read_gray_jpeg_header(content)
    if isinstance(header, Refusal):
        return header
    try:
        plane = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        return Refusal("undecodable", f"the decoder gave up: {error.err}")
    return Refusal("undecodable", "the pixels are damaged") if plane is None else np.asarray(plane, np.uint8)[..., None]


def _as_promised(pixels: object, header: Header) -> NDArray[np.uint8] | Refusal:
    if not isinstance(pixels, np.ndarray):
        return Refusal("undecodable", "the pixels are damaged")
    if pixels.shape != (header.height, header.width, 3) or pixels.dtype != np.uint8:
        return Refusal("undecodable", f"the header says {header.width} x {header.height} pixels, the file holds {pixels.shape}")
    return pixels
