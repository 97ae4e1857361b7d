"""`TileTable`: one image of a TIFF as a grid of tiles or strips, decoded as they are asked for."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.budget import PIECE_BYTES, ReadBudget
from blastscope.runtime.io.slides.tiff_codec import (
    ALONE,
    BY_IMAGECODECS,
    DECODED,
    GRAY,
    JPEG,
    JPEG_2000,
    RATIONAL,
    RAW,
    RGB,
    TOGETHER,
    YCBCR,
    ReadError,
    Tag,
    TileFormat,
    decode_strips,
    decode_tile,
)
from blastscope.runtime.types import Box, Refusal, RefusalCode

if TYPE_CHECKING:
    import tifffile

GROUP_BYTES = 8 << 20  # of strips that are decoded at once
CACHE_BYTES = 64 << 20  # decoded pieces, since neighbouring regions share some
NOTHING = 255  # of a piece that a sparse file leaves out: empty glass
PLANAR = {JPEG, *JPEG_2000} | (DECODED - ALONE)  # what may hold one colour a piece
KINDS = {0: "gray", GRAY: "gray", RGB: "RGB", 3: "palette", 4: "mask", 5: "CMYK", YCBCR: "YCbCr", 8: "Lab"} | {
    32803: "raw sensor",
    34892: "raw sensor",
}
FORMS = {2: " signed", 3: " floating-point", 5: " complex", 6: " complex"}


def refuse(code: RefusalCode, detail: str) -> ReadError:
    """The error that carries this refusal."""
    return ReadError(Refusal(code, detail))


class SharedFile:
    """A file, or its bytes, that many threads read at once."""

    def __init__(self, source: Path | bytes) -> None:
        self._file, self._lock = BytesIO(source) if isinstance(source, bytes) else source.open("rb"), threading.Lock()
        self.size = len(source) if isinstance(source, bytes) else os.fstat(self._file.fileno()).st_size
        self.close = self._file.close

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises `ReadError`."""
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(count)
        if len(data) < count:
            raise refuse("undecodable", "the scan is truncated")
        return data


class TileTable:
    """One page of a TIFF, RGB or one plane of it (`plane`), as a grid of pieces. Many threads may read.

    Raises `ReadError` for a page whose pixels aren't 8-bit RGB, can't be decoded, or aren't there, and where reading it would
    take more than `budget`, which all pages of the image share.
    """

    def __init__(self, page: tifffile.TiffPage, file: SharedFile, budget: ReadBudget, *, plane: bool = False) -> None:
        self._file, self._lock, self._budget = file, threading.Lock(), budget
        self.width, self.height = page.imagewidth, page.imagelength
        _check_page(page, plane)
        self.opaque = page.samplesperpixel == 4  # to be: each piece is asked
        self.channels = 1 if plane else 3
        self._apart = page.samplesperpixel if int(page.planarconfig) == 2 else 0
        strip = min(page.rowsperstrip, self.height), self.width
        self._side = (page.tilelength, page.tilewidth) if page.is_tiled else strip
        self._together = not page.is_tiled and int(page.compression) in TOGETHER and int(page.photometric) != YCBCR
        self._across = -(-self.width // self._side[1])
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._format = _format_of(page, 1 if plane or self._apart else page.samplesperpixel)
        wanted = self._across * -(-self.height // self._side[0]) * max(self._apart, 1)
        if len(self._offsets) < wanted or len(self._counts) < wanted:
            raise refuse("undecodable", f"the TIFF is damaged: {len(self._offsets)} pieces of {wanted}")
        self._check_pieces(wanted)
        self._cache: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._cached = 0

    def _check_pieces(self, wanted: int) -> None:
        rows, columns = self._side
        self._piece_bytes = rows * columns * self._format.samples
        self._budget.check_layout(wanted, columns, rows, 0 if self._by_rows else min(self._piece_bytes, PIECE_BYTES))
        if not any(self._counts):  # whoever wrote it broke off: of a sparse scan some are there
            raise refuse("undecodable", "the TIFF holds no pixels: all of its pieces are left out")
        if max(map(sum, zip(self._offsets, self._counts, strict=False)), default=0) > self._file.size:
            raise refuse("undecodable", "the TIFF is truncated: a piece of it lies behind its end")
        if not self._by_rows and self._side[0] * self._side[1] > MAX_PIXELS:
            raise refuse(
                "bomb",
                f"{self.width} x {self.height} pixels in pieces of {self._side[1]} x {self._side[0]} that are only read whole, "
                f"more than {MAX_PIXELS}: save it in tiles",
            )
        stored = {offset: count for offset, count in zip(self._offsets, self._counts, strict=False) if count}
        shown = sum(map(bool, self._counts[:wanted])) * self._piece_bytes
        self._budget.check_stored(shown, sum(stored.values()))

    @property
    def _by_rows(self) -> bool:
        """Whether a row of a piece can be read without the others."""
        return self._format.compression == RAW and self._format.photometric != YCBCR and not self._format.reversed_bits

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3), or (h, w, 1) of a plane, of `box`, in an array of their own. Raises `ReadError`."""
        x0, y0, x1, y1 = box
        out = np.empty((y1 - y0, x1 - x0, self.channels), np.uint8)
        rows, columns = self._side
        if self._together:
            self._decode_strips(range(y0 // rows, -(-y1 // rows)))
        for down in range(y0 // rows, -(-y1 // rows)):
            for across in range(x0 // columns, -(-x1 // columns)):
                left, top = across * columns, down * rows
                part = (max(x0, left), max(y0, top), min(x1, left + columns), min(y1, top + rows))
                into = out[part[1] - y0 : part[3] - y0, part[0] - x0 : part[2] - x0]
                inside = (part[0] - left, part[1] - top, part[2] - left, part[3] - top)
                self._fill(into, down * self._across + across, inside)
        return out

    def blank(self, box: Box) -> bool:
        """Whether the file leaves out every piece of `box`."""
        rows, columns = self._side
        return all(
            self._counts[down * self._across + across] == 0
            for down in range(box[1] // rows, -(-box[3] // rows))
            for across in range(box[0] // columns, -(-box[2] // columns))
        )

    def _fill(self, into: NDArray[np.uint8], number: int, inside: Box) -> None:
        if not self._apart:
            if self._counts[number] == 0:
                into[...] = NOTHING
                return
            pixels = self._piece(number, inside)
            into[...] = pixels[..., : self.channels]
            if self.opaque:
                _check_opaque(pixels[..., 3])
            return
        plane = len(self._offsets) // self._apart
        for channel in range(self._apart):
            index = number + channel * plane
            pixels = self._piece(index, inside)[..., 0] if self._counts[index] else np.full(into.shape[:2], NOTHING, np.uint8)
            if channel < 3:
                into[..., channel] = pixels
            else:
                _check_opaque(pixels)

    def _piece(self, index: int, inside: Box) -> NDArray[np.uint8]:
        """The part `inside` of piece `index`."""
        x0, y0, x1, y1 = inside
        if self._by_rows:
            return self._raw(index, inside)
        with self._lock:
            pixels = self._cache.get(index)
            if pixels is not None:
                self._cache.move_to_end(index)
        if pixels is None:
            data = self._file.read(self._offsets[index], self._counts[index])
            with self._budget.decoding(self._piece_bytes):
                pixels = decode_tile(data, *self._sizes(index), self._format)
            with self._lock:
                self._keep(index, pixels)
        return pixels[y0:y1, x0:x1]

    def _decode_strips(self, numbers: range) -> None:
        """Decodes strips that are wanted together, as far as they aren't at hand."""
        rows, columns = self._side
        most = max(GROUP_BYTES // (rows * columns * self._format.samples), 1)
        for plane in range(max(self._apart, 1)):
            first = plane * (len(self._offsets) // max(self._apart, 1))
            with self._lock:
                missing = [first + number for number in numbers if first + number not in self._cache]
            missing = [index for index in missing if self._counts[index]]
            for at in range(0, len(missing), most):
                group = missing[at : at + most]
                height = rows * (len(group) - 1) + self._sizes(group[-1])[1][0]
                data = [self._file.read(self._offsets[index], self._counts[index]) for index in group]
                with self._budget.decoding(len(group) * self._piece_bytes):
                    strips = decode_strips(data, (height, columns), rows, self._format)
                with self._lock:
                    for index, pixels in zip(group, strips, strict=True):
                        self._keep(index, pixels)

    def _keep(self, index: int, pixels: NDArray[np.uint8]) -> None:
        if index in self._cache:  # another thread was faster
            return
        self._cache[index] = pixels
        self._cached += pixels.nbytes
        while self._cached > CACHE_BYTES and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes

    def _sizes(self, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of a piece, and of its part that lies inside of the image."""
        rows, columns = self._side
        down, across = divmod(index % (len(self._offsets) // max(self._apart, 1)), self._across)
        inside = min(rows, self.height - down * rows), min(columns, self.width - across * columns)
        return (rows, columns), inside

    def _raw(self, index: int, inside: Box) -> NDArray[np.uint8]:
        """Only the rows that are wanted: an uncompressed scan may be one strip of gigabytes."""
        x0, y0, x1, y1 = inside
        (_, width), (height, _) = self._sizes(index)
        samples = self._format.samples
        if self._counts[index] < height * width * samples:
            raise refuse("undecodable", "a piece of the scan is shorter than its pixels")
        row = width * samples
        start = self._offsets[index] + y0 * row
        if 2 * (x1 - x0) >= width:
            data = self._file.read(start, (y1 - y0) * row)
            return np.frombuffer(data, np.uint8).reshape(y1 - y0, width, samples)[:, x0:x1]
        lines = [self._file.read(start + line * row + x0 * samples, (x1 - x0) * samples) for line in range(y1 - y0)]
        return np.frombuffer(b"".join(lines), np.uint8).reshape(y1 - y0, x1 - x0, samples)


def _check_opaque(alpha: NDArray[np.uint8]) -> None:
    if not (alpha == 255).all():
        raise refuse(
            "not-8-bit-rgb", "a TIFF with transparent pixels, whose colour depends on what lies below: save it as 8-bit RGB"
        )


def _format_of(page: tifffile.TiffPage, samples: int) -> TileFormat:
    compression, photometric = int(page.compression), int(page.photometric)
    conversion: list[Tag] = []
    for number in (529, 532):  # YCbCrCoefficients and ReferenceBlackWhite, fractions as pairs of numbers
        values = page.tags.valueof(number)
        if photometric == YCBCR and isinstance(values, tuple):
            conversion.append((number, RATIONAL, tuple(map(int, values))))
    return TileFormat(
        compression=compression,
        photometric=GRAY if samples == 1 else photometric,
        samples=samples,
        predictor=page.predictor,
        tables=bytes(page.tags.valueof(347) or b""),
        header=bytes(page.jpegheader or b""),
        reversed_bits=int(page.fillorder) == 2,
        subsampling=(page.subsampling or (2, 2)) if photometric == YCBCR else (1, 1),
        conversion=tuple(conversion),
    )


def _check_page(page: tifffile.TiffPage, plane: bool) -> None:
    """Raises `ReadError` for what isn't 8-bit RGB, or can't be decoded here."""
    if page.imagewidth < 1 or page.imagelength < 1:
        raise refuse("undecodable", f"the header says {page.imagewidth} x {page.imagelength} pixels")
    compression, apart = int(page.compression), int(page.planarconfig) == 2
    _check_pixels(page, plane)
    unread = compression not in DECODED or (apart and compression not in PLANAR)
    if unread or (apart and int(page.photometric) == YCBCR and compression != JPEG):
        name = getattr(page.compression, "name", str(compression))
        layout = f"{name}, its colours apart in planes," if apart and compression in DECODED else name
        raise refuse("undecodable", f"pieces compressed as {layout} aren't read: save the scan with JPEG, LZW or deflate tiles")
    if compression in BY_IMAGECODECS and find_spec("imagecodecs") is None:
        name = getattr(page.compression, "name", str(compression))
        raise refuse("undecodable", f"pieces compressed as {name} are read by imagecodecs: pip install 'blastscope[slides]'")
    if page.tags.valueof(274, 1) not in (0, 1):
        raise refuse("undecodable", "a TIFF whose orientation tag wants it turned: save it upright")
    if page.imagedepth != 1:
        raise refuse("undecodable", f"a TIFF of {page.imagedepth} planes in depth: give each image a file of its own")


def _check_pixels(page: tifffile.TiffPage, plane: bool) -> None:
    photometric, samples = int(page.photometric), page.samplesperpixel
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample, default=0)
    alpha = samples == 4 and photometric == RGB and len(page.extrasamples) == 1 and int(page.compression) not in ALONE
    if plane:
        known = photometric == GRAY and samples == 1
    else:
        known = photometric in (RGB, YCBCR) and ((samples == 3 and not page.extrasamples) or alpha)
    if (bits, int(page.sampleformat)) == (8, 1) and known:
        return
    if samples > 1 and 258 not in page.tags:  # what tifffile can't read it leaves out
        raise refuse("undecodable", "the TIFF's header is damaged: it doesn't say how many bits a pixel has")
    kind = KINDS.get(photometric, "unknown")
    extra = " with an extra channel" if kind == "RGB" and samples > 3 else ""
    found = f"a TIFF of {bits}-bit{FORMS.get(int(page.sampleformat), '')} {kind} pixels{extra}"
    raise refuse("not-8-bit-rgb", f"{found}; it is not converted: save it as 8-bit RGB")
