"""Image files as bytes and as pixels: read whole, decoded unchanged, or refused. Called by `runtime.io.image`."""

from __future__ import annotations

import os
import stat
import struct
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_header import MAX_PIXELS, Header, breaks_off, read_gray_jpeg_header, read_header, turn_upright
from blastscope.runtime.io.jpeg_markers import without_comments
from blastscope.runtime.types import Refusal

SUFFIXES = (".bmp", ".dib", ".jfif", ".jif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_BYTES = 4 * MAX_PIXELS  # no file of an image that is let through is larger
# Nothing is converted but the order of channels. The EXIF orientation is applied here: OpenCV does it for some formats only.
DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
DECODE_ALPHA = cv2.IMREAD_UNCHANGED  # which leaves the orientation alone, too
OPAQUE = 255
NO_MEMORY = Refusal("failed", "there is not memory enough for it: free some, or take fewer threads")
ENDS = (b"\x00" * 64, b"\x55" * 64, b"\xaa" * 64, bytes(range(1, 255)))  # bits that would make different blocks


def read_content(path: Path | str) -> bytes | Refusal:
    """The bytes of a file, or the reason why it can't be an image.

    Parameters
    ----------
    path : Path or str
        The file.

    Returns
    -------
    bytes or Refusal
        A refusal for a file that isn't there, can't be read, is a folder, or is larger than `MAX_BYTES`.
    """
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
    return Refusal(
        "undecodable", "a folder, not a file, or one without an image" if readable else "a folder that can't be looked into"
    )


def read_whole_header(content: bytes) -> Header | Refusal:
    """`read_header`, and of a JPEG without its end marker whether its last blocks are there."""
    return _with_all_blocks(content, read_header(content))


def _of_at_most(pixels: int, header: Header | Refusal) -> Header | Refusal:
    if isinstance(header, Header) and header.width * header.height > pixels:
        return Refusal("bomb", f"{header.width} x {header.height} pixels, more than {pixels}")
    return header


def _with_all_blocks(content: bytes, header: Header | Refusal) -> Header | Refusal:
    if isinstance(header, Header) and header.open_end and not _holds_all_blocks(content):
        return Refusal(*breaks_off(content))
    return header


def decode_picture(content: bytes, most_pixels: int = MAX_PIXELS) -> NDArray[np.uint8] | Refusal:
    """The pixels of an encoded image that is no TIFF, or the reason why there are none.

    Parameters
    ----------
    content : bytes
        The bytes of an image file.
    most_pixels : int
        A larger image is refused as 'bomb', by its header.

    Returns
    -------
    (H, W, 3) uint8 array in RGB, upright, or Refusal
    """
    header = _with_all_blocks(content, _of_at_most(most_pixels, read_header(content)))
    if isinstance(header, Refusal):
        return header
    content = _ended(content) if header.open_end else content
    try:
        pixels: object = cv2.imdecode(np.frombuffer(content, np.uint8), DECODE_ALPHA if header.alpha else DECODE)
    except cv2.error as error:
        return Refusal("undecodable", f"the decoder gave up: {error.err}")
    if header.alpha:
        pixels = _without_alpha(pixels, content)
        if isinstance(pixels, Refusal):
            return pixels
    return _as_promised(pixels, header)


def decode_gray_jpeg(content: bytes, most_pixels: int = MAX_PIXELS) -> NDArray[np.uint8] | Refusal:
    """The pixels of a JPEG with one colour, or the reason why there are none.

    Parameters
    ----------
    content : bytes
        The bytes of the file.
    most_pixels : int
        A larger image is refused as 'bomb', by its header.

    Returns
    -------
    (H, W, 1) uint8 array, as stored, or Refusal
    """
    header = _with_all_blocks(content, _of_at_most(most_pixels, read_gray_jpeg_header(content)))
    if isinstance(header, Refusal):
        return header
    content = _ended(content) if header.open_end else content
    try:
        plane = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        return Refusal("undecodable", f"the decoder gave up: {error.err}")
    return Refusal("undecodable", "the pixels are damaged") if plane is None else np.asarray(plane, np.uint8)[..., None]


def _as_promised(pixels: object, header: Header) -> NDArray[np.uint8] | Refusal:
    if not isinstance(pixels, np.ndarray):
        return Refusal("undecodable", "the pixels are damaged")
    if pixels.shape != (*header.stored, 3) or pixels.dtype != np.uint8:
        height, width = header.stored
        return Refusal("undecodable", f"the header says {width} x {height} pixels, the file holds {pixels.shape}")
    return turn_upright(pixels, header.orientation)


def _without_alpha(pixels: object, content: bytes) -> object:
    """RGB of decoded BGRA that is opaque everywhere; a refusal where it isn't, since what shows through is the viewer's."""
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3:
        return None
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else _fourth_bytes(content)  # OpenCV drops a BMP's, whatever it is
    if alpha is not None and not (alpha == OPAQUE).all():
        return Refusal("not-8-bit-rgb", "its alpha isn't opaque everywhere; it is not converted: save it as 8-bit RGB")
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _fourth_bytes(content: bytes) -> NDArray[np.uint8] | None:
    """What a BMP of 32 bits holds beside its colours: alpha, or where it is 0 everywhere nothing; None of other files."""
    if content[:2] != b"BM":
        return None
    start, (width, height) = struct.unpack_from("<I", content, 10)[0], struct.unpack_from("<ii", content, 18)
    fourth = np.frombuffer(content, np.uint8, 4 * width * abs(height), start)[3::4]
    return fourth if fourth.any() else None


def _holds_all_blocks(content: bytes) -> bool:
    """Whether a JPEG without its end marker holds the last blocks of its scan: they don't change with what is put behind."""
    from PIL import Image  # OpenCV's decoder writes a warning to stderr for each

    seen, bare = None, without_comments(content)  # Pillow warns of damaged EXIF
    for end in ENDS:
        try:
            with Image.open(BytesIO(_ended(bare, end)), formats=("JPEG",)) as image:
                pixels = np.asarray(image)
        except (OSError, ValueError, SyntaxError):
            return False
        if seen is not None and not np.array_equal(pixels, seen):
            return False
        seen = pixels
    return True


def _ended(content: bytes, end: bytes = b"") -> bytes:
    return content.removesuffix(b"\xff") + end + b"\xff\xd9"
