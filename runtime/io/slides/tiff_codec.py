"""One piece (tile or strip) of a TIFF as pixels: JPEG, WebP and PNG by OpenCV, the rest by zlib, lzma and Pillow.

tifffile finds the pieces; by itself it decodes neither LZW nor JPEG, and deflate without a limit on what comes out. A piece in
LZW, packbits or Zstandard is wrapped as a TIFF of its own for Pillow: its libtiff fills a buffer of the size that the header
promised, and no more.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_decode import decode_gray_jpeg, decode_picture
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.types import Refusal

RAW, JPEG, DEFLATE, PNG, WEBP = 1, 7, 8, 34933, 50001
GRAY, RGB, YCBCR = 1, 2, 6
DEFLATES, LZMA = {DEFLATE, 32946}, 34925
BYTEWISE = {RAW, 5, *DEFLATES, 32773, LZMA, 50000}  # 5 is LZW, 32773 packbits, 50000 Zstandard
APERIO_YCBCR = 33003  # JPEG 2000 of YCbCr that doesn't say so
JPEG_2000 = {APERIO_YCBCR, 33004, 33005, 34712}  # 33004 is Bio-Formats' lossy kind, 33005 Aperio's RGB
BY_IMAGECODECS = {50002: "jpegxl", 52546: "jpegxl", 22610: "jpegxr", 34934: "jpegxr"}
TOGETHER = BYTEWISE - {RAW, *DEFLATES, LZMA}  # where Pillow's start costs more than a strip: several are decoded at once
DECODED = {*BYTEWISE, *JPEG_2000, *BY_IMAGECODECS, JPEG, PNG, WEBP}
ALONE = DECODED - BYTEWISE  # each piece is a picture with a header of its own, whose size may differ from the page's
SHORT, LONG, RATIONAL = 3, 4, 5
HORIZONTAL = 2  # the predictor by which a pixel is stored as its difference to the one before it
LZMA_BYTES = 256 << 20  # of memory
SPARE_BYTES = 4096  # that may follow the pixels of a piece
LARGER, SPARE_PIXELS = 4, 1 << 16  # a piece that is a picture of its own may be larger than the page says, but not without end
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

Tag = tuple[int, int, tuple[int, ...]]  # number, type and values


class ReadError(Exception):
    """Carries a refusal out of a reader; caught where a report is made."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.detail)


class TileFormat(NamedTuple):
    """What all pieces of a TIFF page have in common.

    Attributes
    ----------
    compression, photometric : int
        TIFF's numbers of them.
    samples : int
        In one piece: 3 or 4, or 1 where the colours lie apart.
    predictor : int
        TIFF's number: 1 none, 2 horizontal differences.
    tables : bytes
        Of JPEG: the tables that all pieces share.
    header : bytes
        Of JPEG where a piece is a part of a larger one, in Hamamatsu's NDPI.
    reversed_bits : bool
        Whether the first pixel stands in the lowest bit of a byte.
    subsampling : (int, int)
        Of YCbCr that isn't JPEG: how many pixels share a colour, across and down.
    conversion : tuple of Tag
        What the page says on how its YCbCr becomes RGB.
    """

    compression: int
    photometric: int
    samples: int
    predictor: int = 1
    tables: bytes = b""
    header: bytes = b""
    reversed_bits: bool = False
    subsampling: tuple[int, int] = (1, 1)
    conversion: tuple[Tag, ...] = ()


def decode_tile(data: bytes, size: tuple[int, int], needed: tuple[int, int], form: TileFormat) -> NDArray[np.uint8]:
    """The pixels (h, w, samples) of one piece, RGB or a plane of it.

    Parameters
    ----------
    data
        The piece as it stands in the file.
    size
        Height and width that the page promises. No more comes out.
    needed
        The part of it that lies inside of the image. A piece at the edge may be stored without the rest.
    form
        What the page says of all its pieces.

    Raises
    ------
    ReadError
        Where the piece is damaged, or shows less than is needed.
    """
    if form.reversed_bits and form.compression in BYTEWISE:
        data = data.translate(REVERSED)
    if form.compression in BYTEWISE:
        kept = needed[0], size[1]  # the last strip is shorter than the others, or padded
        return _converted(data, kept, size[0], form) if form.photometric == YCBCR else _bytewise(data, kept, size[0], form)
    most = LARGER * size[0] * size[1] + SPARE_PIXELS
    if form.compression in JPEG_2000:
        pixels = _by_pillow(data, "JPEG2000", form, most)
    elif form.compression in BY_IMAGECODECS:
        pixels = _by_imagecodecs(data, (size, (needed[0], size[1]), needed), form)
    else:
        pixels = _by_opencv(data, form, most)
    (height, width), (rows, columns) = pixels.shape[:2], needed
    if height < rows or width < columns or pixels.shape[2:] != (form.samples,) or pixels.dtype != np.uint8:
        raise _damaged(f"it holds {width} x {height} pixels of {size[1]} x {size[0]}")
    return pixels[: size[0], : size[1]]


def decode_strips(data: Sequence[bytes], size: tuple[int, int], rows: int, form: TileFormat) -> list[NDArray[np.uint8]]:
    """The pixels of strips one below the other, whose compression is in `TOGETHER`.

    Parameters
    ----------
    data
        The strips as they stand in the file.
    size
        Height and width of all of them.
    rows
        Of each of them but the last.
    form
        What the page says of them.

    Raises
    ------
    ReadError
        Where one of them is damaged.
    """
    strips = [strip.translate(REVERSED) for strip in data] if form.reversed_bits else data
    return np.split(_by_libtiff(strips, size, rows, form), range(rows, size[0], rows))


def _damaged(detail: object) -> ReadError:
    return ReadError(Refusal("undecodable", f"a piece of the scan is damaged: {detail}"))


# ---- pieces that are bytes of pixels, packed or not


def _bytewise(data: bytes, size: tuple[int, int], rows: int, form: TileFormat) -> NDArray[np.uint8]:
    """The first pixels of a piece of so many `rows`, of this height and width."""
    if form.compression == RAW:
        return _uncompressed(data, size, form)
    # libtiff stops where its buffer is full, before the checksum that tells damage
    unpacked = _unpacked(data, form.compression, rows * size[1] * form.samples)
    if unpacked is None:
        return _by_libtiff([data], size, size[0], form)
    pixels = _uncompressed(unpacked, size, form)
    if form.predictor == HORIZONTAL:
        return np.cumsum(pixels, axis=1, dtype=np.uint8)
    if form.predictor != 1:
        raise ReadError(Refusal("undecodable", f"pieces with predictor {form.predictor} aren't read"))
    return pixels


def _unpacked(data: bytes, compression: int, most: int) -> bytes | None:
    """The bytes of a piece in deflate or LZMA, up to its checksum but few more than `most`; None of another compression."""
    limit = most + most // 8 + SPARE_BYTES
    try:
        if compression in DEFLATES:
            inflater = zlib.decompressobj()
            unpacked, ended = inflater.decompress(data, limit), inflater.eof
        elif compression == LZMA:
            unpacker = lzma.LZMADecompressor(memlimit=LZMA_BYTES)
            unpacked, ended = unpacker.decompress(data, limit), unpacker.eof
        else:
            return None
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise _damaged(error) from error
    if not ended:
        raise _damaged("it breaks off before its checksum" if len(unpacked) < limit else "it goes on after its pixels")
    return unpacked


def _uncompressed(data: bytes, size: tuple[int, int], form: TileFormat) -> NDArray[np.uint8]:
    needed = size[0] * size[1] * form.samples
    if len(data) < needed:
        raise ReadError(Refusal("undecodable", f"a piece of the scan is truncated: {len(data)} bytes of {needed}"))
    return np.frombuffer(data, np.uint8, needed).reshape(*size, form.samples)


# ---- pieces that are pictures of their own


def _by_opencv(data: bytes, form: TileFormat, most: int) -> NDArray[np.uint8]:
    if form.compression != JPEG:
        pixels = decode_picture(data, most)
    elif form.samples == 1:
        pixels = decode_gray_jpeg(_whole_jpeg(data, form, b""), most)
    else:
        # A piece's JPEG doesn't say whether it is RGB or YCbCr: the page does.
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([form.photometric == YCBCR])
        pixels = decode_picture(_whole_jpeg(data, form, adobe), most)
    if isinstance(pixels, Refusal):
        raise _damaged(pixels.detail)
    return pixels


def _whole_jpeg(data: bytes, form: TileFormat, marker: bytes) -> bytes:
    """A piece's JPEG with what stands elsewhere in the file: tables that all pieces share, or the whole header."""
    if form.header:
        restart = len(data) > 1 and data[-2] == 0xFF and 0xD0 <= data[-1] <= 0xD7
        return b"\xff\xd8" + marker + form.header[2:] + (data[:-2] if restart else data) + b"\xff\xd9"
    return b"\xff\xd8" + marker + form.tables[2:-2] + data[2:]


def _by_imagecodecs(data: bytes, sizes: Iterable[tuple[int, int]], form: TileFormat) -> NDArray[np.uint8]:
    """The pixels of a piece, of the first of `sizes` that is its own: the library fills what it is given, and no more."""
    import imagecodecs

    decode: Callable[..., object] = getattr(imagecodecs, f"{BY_IMAGECODECS[form.compression]}_decode")
    for size in dict.fromkeys(sizes):
        out = np.empty((*size, form.samples), np.uint8)
        try:
            decode(data, out=out)
        except (imagecodecs.DelayedImportError, RuntimeError, ValueError) as error:  # the library's own are RuntimeErrors
            why = error
        else:
            return out
    raise _damaged(why) from why


def _by_pillow(data: bytes, kind: str, form: TileFormat, most: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=(kind,)) as image:
            if image.width * image.height > most:
                raise _damaged(f"{image.width} x {image.height} pixels, more than {most}")
            # of a codestream with fewer colours than pixels the library knows by itself that it is YCbCr
            hidden = form.compression == APERIO_YCBCR and image.mode == "RGB" and not _subsampled_codestream(data)
            pixels = np.asarray(image)
            if hidden:
                pixels = np.asarray(Image.frombytes("YCbCr", image.size, pixels.tobytes()).convert("RGB"))
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, struct.error) as error:
        raise _damaged(error) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _subsampled_codestream(data: bytes) -> bool:
    """Whether the second component of a JPEG 2000 has fewer samples than the first: by its SIZ marker."""
    at = data.find(b"\xff\x4f\xff\x51")
    steps = data[at + 42 : at + 42 + 9]  # precision, step across and step down of each component
    return at >= 0 and len(steps) == 9 and (steps[4], steps[5]) != (steps[1], steps[2])


# ---- by libtiff


def _by_libtiff(data: Sequence[bytes], size: tuple[int, int], rows: int, form: TileFormat) -> NDArray[np.uint8]:
    """The pixels of strips one below the other, all but the last of so many `rows`."""
    pixels = _by_pillow(_as_tiff(data, size, rows, form), "TIFF", form, MAX_PIXELS)
    if pixels.shape != (*size, form.samples) or pixels.dtype != np.uint8:
        raise _damaged(f"it holds {pixels.shape}, not {size[1]} x {size[0]} pixels")
    return pixels


def _converted(data: bytes, size: tuple[int, int], rows: int, form: TileFormat) -> NDArray[np.uint8]:
    """The first pixels of a piece of YCbCr of so many `rows` that isn't JPEG, as RGB.

    libtiff converts it, but passes over damage while it does. So the bytes are first taken out as gray ones, strictly.
    """
    across, down = form.subsampling
    if form.predictor != 1 or across not in (1, 2, 4) or down not in (1, 2, 4):
        raise ReadError(Refusal("undecodable", "YCbCr pixels with a predictor, or with an unusual subsampling, aren't read"))
    kept, row = -(-size[0] // down), -(-size[1] // across) * (across * down + 2)
    gray = TileFormat(form.compression, GRAY, 1)
    stored = _bytewise(data, (kept, row), -(-rows // down), gray)
    wrapped = form._replace(compression=DEFLATE)  # Pillow itself reads uncompressed ones, and knows no subsampling
    return _by_libtiff([zlib.compress(stored.tobytes(), 1)], size, size[0], wrapped)


def _as_tiff(data: Sequence[bytes], size: tuple[int, int], rows: int, form: TileFormat) -> bytes:
    """A little-endian TIFF of these strips."""
    (height, width), counts = size, tuple(map(len, data))
    starts = tuple(accumulate(counts, initial=8))[:-1]
    tags: list[Tag] = [
        (256, LONG, (width,)),
        (257, LONG, (height,)),
        (258, SHORT, (8,) * form.samples),
        (259, SHORT, (form.compression,)),
        (262, SHORT, (form.photometric,)),
        (273, LONG, starts),
        (277, SHORT, (form.samples,)),
        (278, LONG, (rows,)),
        (279, LONG, counts),
        (284, SHORT, (1,)),
    ]
    if form.predictor != 1:
        tags.append((317, SHORT, (form.predictor,)))
    if form.samples == 4:
        tags.append((338, SHORT, (2,)))
    if form.photometric == YCBCR:
        tags += [(530, SHORT, form.subsampling), *form.conversion]
    body = b"".join(data) + b"\0" * (sum(counts) % 2)
    directory, spilled = [struct.pack("<H", len(tags))], b""
    after = 8 + len(body) + 2 + 12 * len(tags) + 4  # where values stand that don't fit into their tag
    for number, kind, values in sorted(tags):
        packed = struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        count = len(values) // 2 if kind == RATIONAL else len(values)
        if len(packed) > 4:
            place, spilled = struct.pack("<I", after + len(spilled)), spilled + packed
        else:
            place = packed.ljust(4, b"\0")
        directory.append(struct.pack("<HHI", number, kind, count) + place)
    return b"".join([struct.pack("<2sHI", b"II", 42, 8 + len(body)), body, *directory, b"\0\0\0\0", spilled])
