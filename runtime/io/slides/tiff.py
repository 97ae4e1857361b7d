"""`TiffSlide`: a TIFF of any size read in pieces (OME-TIFF, BigTIFF, slide scanners' pyramids), never as a whole."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_header import MAX_PIXELS, TIFF_KINDS
from blastscope.runtime.io.slides.pixel_size_metadata import PixelSize, from_imagej, from_ome, from_tags, from_text
from blastscope.runtime.io.slides.tiff_codec import DECODED, JPEG, RAW, RGB, WEBP, YCBCR, ReadError, TileFormat, decode_tile
from blastscope.runtime.types import Box, Refusal, RefusalCode

if TYPE_CHECKING:
    import tifffile

MAX_SCAN_PIXELS = 40_000_000_000  # a slide at 0.1 micrometres a pixel, and some
CACHE_BYTES = 64 << 20  # decoded pieces, since neighbouring regions share some
NOTHING = 255  # of a piece that a sparse file leaves out: empty glass
ASIDE = {"label", "macro", "thumbnail", "overview"}  # pictures beside a slide's own


def _refuse(code: RefusalCode, detail: str) -> ReadError:
    return ReadError(Refusal(code, detail))


class SharedFile:
    """A file that many threads read at once."""

    def __init__(self, path: Path) -> None:
        self._file, self._lock = path.open("rb"), threading.Lock()
        self.size = os.fstat(self._file.fileno()).st_size
        self.close = self._file.close

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises `ReadError`."""
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(count)
        if len(data) < count:
            raise _refuse("undecodable", "the scan is truncated")
        return data


class TileTable:
    """One image of a TIFF as a grid of tiles or strips. Many threads may read."""

    def __init__(self, page: tifffile.TiffPage, file: SharedFile) -> None:
        self._file, self._lock = file, threading.Lock()
        self.width, self.height = page.imagewidth, page.imagelength
        _check_page(page)
        self._apart = int(page.planarconfig) == 2
        self._side = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        self._tiled = page.is_tiled
        self._across = -(-self.width // self._side[1])
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        samples = 1 if self._apart else 3
        kind = 1 if self._apart else int(page.photometric)
        tables = page.tags.valueof(347) or b""
        self._format = TileFormat(int(page.compression), kind, samples, page.predictor, bytes(tables))
        wanted = self._across * -(-self.height // self._side[0]) * (3 if self._apart else 1)
        if len(self._offsets) < wanted or len(self._counts) < wanted:
            raise _refuse("undecodable", f"the TIFF is damaged: {len(self._offsets)} pieces of {wanted}")
        if not any(self._counts):  # whoever wrote it broke off: of a sparse scan some are there
            raise _refuse("undecodable", "the TIFF holds no pixels: all of its pieces are left out")
        if max(map(sum, zip(self._offsets, self._counts, strict=False)), default=0) > file.size:
            raise _refuse("undecodable", "the TIFF is truncated: a piece of it lies behind its end")
        if self._format.compression != RAW and self._side[0] * self._side[1] > MAX_PIXELS:
            raise _refuse(
                "bomb",
                f"{self.width} x {self.height} pixels in compressed pieces of {self._side[1]} x {self._side[0]}, more than "
                f"{MAX_PIXELS}: save it in tiles",
            )
        self._cache: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._cached = 0

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`, in an array of their own. Raises `ReadError`."""
        x0, y0, x1, y1 = box
        out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        rows, columns = self._side
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
            into[...] = NOTHING if self._counts[number] == 0 else self._piece(number, inside)
            return
        plane = len(self._offsets) // 3
        for channel in range(3):
            index = number + channel * plane
            into[..., channel] = NOTHING if self._counts[index] == 0 else self._piece(index, inside)[..., 0]

    def _piece(self, index: int, inside: Box) -> NDArray[np.uint8]:
        """The part `inside` of piece `index`."""
        x0, y0, x1, y1 = inside
        if self._format.compression == RAW:
            return self._raw(index, inside)
        with self._lock:
            pixels = self._cache.get(index)
            if pixels is not None:
                self._cache.move_to_end(index)
        if pixels is None:
            pixels = decode_tile(self._file.read(self._offsets[index], self._counts[index]), *self._shape(index), self._format)
            with self._lock:
                self._keep(index, pixels)
        return pixels[y0:y1, x0:x1]

    def _keep(self, index: int, pixels: NDArray[np.uint8]) -> None:
        if index in self._cache:  # another thread was faster
            return
        self._cache[index] = pixels
        self._cached += pixels.nbytes
        while self._cached > CACHE_BYTES and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes

    def _shape(self, index: int) -> tuple[int, int]:
        """Height and width of a piece: tiles are padded to their size, the last strip is shorter."""
        rows, columns = self._side
        down = index % (len(self._offsets) // 3 if self._apart else len(self._offsets)) // self._across
        return (rows if self._tiled else min(rows, self.height - down * rows)), columns

    def _raw(self, index: int, inside: Box) -> NDArray[np.uint8]:
        """Only the rows that are wanted: an uncompressed scan may be one strip of gigabytes."""
        x0, y0, x1, y1 = inside
        samples, (height, width) = self._format.samples, self._shape(index)
        if self._counts[index] < height * width * samples:
            raise _refuse("undecodable", "a piece of the scan is shorter than its pixels")
        row = width * samples
        start = self._offsets[index] + y0 * row
        if 2 * (x1 - x0) >= width:
            data = self._file.read(start, (y1 - y0) * row)
            return np.frombuffer(data, np.uint8).reshape(y1 - y0, width, samples)[:, x0:x1]
        lines = [self._file.read(start + line * row + x0 * samples, (x1 - x0) * samples) for line in range(y1 - y0)]
        return np.frombuffer(b"".join(lines), np.uint8).reshape(y1 - y0, x1 - x0, samples)


def _check_page(page: tifffile.TiffPage) -> None:
    """Raises `ReadError` for what isn't 8-bit RGB, or can't be decoded here."""
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1:
        raise _refuse("undecodable", f"the header says {width} x {height} pixels")
    if width * height > MAX_SCAN_PIXELS:
        raise _refuse("bomb", f"{width} x {height} pixels, more than {MAX_SCAN_PIXELS}")
    compression, photometric = int(page.compression), int(page.photometric)
    kind = TIFF_KINDS.get(photometric, "unknown")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample, default=0)
    plain = (bits, page.samplesperpixel, int(page.sampleformat)) == (8, 3, 1) and not page.extrasamples
    if not plain or not (photometric == RGB or (photometric == YCBCR and compression == JPEG)):
        extra = " with an extra channel" if kind == "RGB" and page.samplesperpixel > 3 else ""
        raise _refuse("not-8-bit-rgb", f"a TIFF of {bits}-bit {kind} pixels{extra}; it is not converted: save it as 8-bit RGB")
    if compression not in DECODED or (compression in (JPEG, WEBP) and int(page.planarconfig) == 2):
        name = getattr(page.compression, "name", str(compression))
        raise _refuse("undecodable", f"pieces compressed as {name} aren't read: save the scan with JPEG, LZW or deflate tiles")
    if page.tags.valueof(274, 1) not in (0, 1):
        raise _refuse("undecodable", "a TIFF whose orientation tag wants it turned: save it upright")
    if page.imagedepth != 1:
        raise _refuse("undecodable", f"a TIFF of {page.imagedepth} planes in depth: give each image a file of its own")


class TiffSlide:
    """A `Scan` of the file `path`. Raises `ReadError` where it shows no single 8-bit RGB image."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self._file = SharedFile(path)
        try:
            with tifffile.TiffFile(path, _multifile=False) as tiff:  # an OME-TIFF that points at other files is read alone
                page, levels, note = _the_image(tiff)
                self._pieces = TileTable(page, self._file)
                self.reduced = tuple(TileTable(level, self._file) for level in levels)
                scale = _scale(tiff, page)
        except BaseException:
            self._file.close()
            raise
        self.width, self.height = self._pieces.width, self._pieces.height
        self.pixel_um = scale.pixel_um if scale else None
        self.notes = tuple(filter(None, (note, scale.note if scale else "")))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Scan`."""
        return self._pieces.read(box)

    def blank(self, box: Box) -> bool:
        """See `Scan`."""
        return self._pieces.blank(box)

    def close(self) -> None:
        """See `Scan`."""
        self._file.close()


def _the_image(tiff: tifffile.TiffFile) -> tuple[tifffile.TiffPage, list[tifffile.TiffPage], str]:
    """The page that is meant, its smaller copies, and a note where the file holds more. Raises `ReadError`."""
    series = tiff.series
    if not series:
        raise _refuse("undecodable", "the TIFF holds no image")
    main = series[0]
    if len(main.pages) != 1 or main.keyframe is None:
        shape = " x ".join(map(str, main.shape))
        remedy = "save its channels as one RGB image" if main.axes == "CYX" else "give each image a file of its own"
        raise _refuse("undecodable", f"a TIFF of {len(main.pages)} pages ({main.axes}: {shape}): {remedy}")
    others = [one for one in series[1:] if not (one.name.lower() in ASIDE or one.keyframe.is_reduced)]
    if others:
        raise _refuse("undecodable", f"a TIFF of {1 + len(others)} images: give each image a file of its own")
    levels = [level.keyframe for level in main.levels[1:]]
    page = main.keyframe
    count = len(tiff.pages)
    if count == 1 and not levels:
        return page, [], ""
    copies = f" with {len(levels)} smaller cop{'y' if len(levels) == 1 else 'ies'} of it" if levels else ""
    return page, levels, f"read: page {page.index + 1} of {count}{copies}, {page.imagewidth} x {page.imagelength} pixels"


def _scale(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> PixelSize | None:
    """OME-XML before text before the tags alone, which many programs fill in without a thought."""
    by_ome = from_ome(tiff.ome_metadata) if tiff.is_ome and tiff.ome_metadata else None
    density = page.tags.valueof(282), page.tags.valueof(283)
    by_text = from_text(page.description or "") or from_imagej(page.description or "", density)
    return by_ome or by_text or from_tags(density, int(page.tags.valueof(296, 2)))
