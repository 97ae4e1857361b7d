"""One piece (tile or strip) of a TIFF as pixels: JPEG and WebP by the door of all images, the rest by Pillow's libtiff.

tifffile finds the pieces; by itself it decodes neither LZW nor JPEG, and deflate without a limit on what comes out. So a piece
of another kind is wrapped as a TIFF of its own: libtiff fills a buffer of the size that the header promised, and no more.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_decode import decode_picture
from blastscope.runtime.types import Refusal

RAW = 1
JPEG = 7
RGB, YCBCR = 2, 6
WEBP = 50001
JPEG_2000 = {33005, 34712}
DECODED = {RAW, 5, JPEG, 8, 32773, 32946, 34925, 50000, WEBP, *JPEG_2000}  # LZW, deflate, packbits, LZMA, Zstandard
SHORT, LONG = 3, 4


class ReadError(Exception):
    """Carries a refusal out of a reader; caught where a report is made."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.detail)


class TileFormat(NamedTuple):
    """What all pieces of a TIFF page have in common."""

    compression: int
    photometric: int
    samples: int  # in one piece: 3, or 1 where the colours lie apart
    predictor: int
    tables: bytes  # of JPEG, which all pieces share


def decode_tile(data: bytes, height: int, width: int, form: TileFormat) -> NDArray[np.uint8]:
    """The pixels (height, width, samples) of one piece. Raises `ReadError`."""
    if form.compression == RAW:
        needed = height * width * form.samples
        if len(data) < needed:
            raise ReadError(Refusal("undecodable", f"a piece of the scan is truncated: {len(data)} bytes of {needed}"))
        return np.frombuffer(data, np.uint8, needed).reshape(height, width, form.samples)
    alone = {JPEG: _with_tables, WEBP: _as_it_is}.get(form.compression)
    pixels = _by_the_door(alone(data, form)) if alone else _by_pillow(data, height, width, form)
    if pixels.shape != (height, width, form.samples) or pixels.dtype != np.uint8:
        raise ReadError(Refusal("undecodable", f"a piece of the scan holds {pixels.shape}, not {width} x {height} pixels"))
    return pixels


def _with_tables(data: bytes, form: TileFormat) -> bytes:
    """A piece's JPEG lacks the tables that all pieces share, and doesn't say whether it is RGB or YCbCr: the page does."""
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([form.photometric == YCBCR])
    return b"\xff\xd8" + adobe + form.tables[2:-2] + data[2:]


def _as_it_is(data: bytes, form: TileFormat) -> bytes:
    return data


def _by_the_door(content: bytes) -> NDArray[np.uint8]:
    pixels = decode_picture(content)
    if isinstance(pixels, Refusal):
        raise ReadError(Refusal("undecodable", f"a piece of the scan is damaged: {pixels.detail}"))
    return pixels


def _by_pillow(data: bytes, height: int, width: int, form: TileFormat) -> NDArray[np.uint8]:
    from PIL import Image

    alone = form.compression in JPEG_2000
    content = data if alone else _as_tiff(data, height, width, form)
    try:
        with Image.open(BytesIO(content), formats=("JPEG2000" if alone else "TIFF",)) as image:
            pixels = np.asarray(image if image.size == (width, height) else ())
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, struct.error) as error:
        raise ReadError(Refusal("undecodable", f"a piece of the scan is damaged: {error}")) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _as_tiff(data: bytes, height: int, width: int, form: TileFormat) -> bytes:
    """A little-endian TIFF of one strip."""
    tags: list[tuple[int, int, tuple[int, ...]]] = [
        (256, LONG, (width,)),
        (257, LONG, (height,)),
        (258, SHORT, (8,) * form.samples),
        (259, SHORT, (form.compression,)),
        (262, SHORT, (form.photometric,)),
        (273, LONG, (8,)),
        (277, SHORT, (form.samples,)),
        (278, LONG, (height,)),
        (279, LONG, (len(data),)),
        (284, SHORT, (1,)),
    ]
    if form.predictor != 1:
        tags.append((317, SHORT, (form.predictor,)))
    body = data + b"\0" * (len(data) % 2)
    directory, spilled = [struct.pack("<H", len(tags))], b""
    after = 8 + len(body) + 2 + 12 * len(tags) + 4  # where values stand that don't fit into their tag
    for number, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        if len(packed) > 4:
            place, spilled = struct.pack("<I", after + len(spilled)), spilled + packed
        else:
            place = packed.ljust(4, b"\0")
        directory.append(struct.pack("<HHI", number, kind, len(values)) + place)
    return b"".join([struct.pack("<2sHI", b"II", 42, 8 + len(body)), body, *directory, b"\0\0\0\0", spilled])
