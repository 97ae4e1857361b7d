"""`NikonSlide`: the colour picture in a Nikon ND2 file of NIS-Elements 4 or later (format 3), without a library.

Such a file is made of chunks, which a map at its end lists by name: attributes and metadata, trees of typed values that may be
deflated, and one chunk a picture, whose rows lie as the camera gave them, blue first, or are deflated as a whole. Of what is
deflated no more is inflated than a microscope writes: of the trees `MOST_TREE` bytes, of a picture those of its own pixels.
"""

from __future__ import annotations

import mmap
import struct
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.slides.budget import ReadBudget
from blastscope.runtime.io.slides.metadata import PixelSize, plausible_pixel_size
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.io.slides.tile_table import refuse
from blastscope.runtime.types import Box

NAME = "a Nikon ND2 file"
SIGNATURE = b"ND2 FILE SIGNATURE CHUNK NAME01!"
MAP_NAME, MAP_END = b"ND2 FILEMAP SIGNATURE NAME 0001!", b"ND2 CHUNK MAP SIGNATURE 0000001!"
MAGIC = 0x0ABECEDA
HEAD, PLACE, ITEM, LEVEL = struct.Struct("<IIQ"), struct.Struct("<QQ"), struct.Struct("<BB"), struct.Struct("<IQ")
ATTRIBUTES, METADATA, PICTURE = b"ImageAttributesLV!", b"ImageMetadataSeqLV|0!", b"ImageDataSeq|"
TIME_BYTES = 8  # at which a picture was taken, before its pixels
# bytes of a tree, bytes and entries of the map, values and levels of a tree
MOST_TREE, MOST_MAP, MOST_CHUNKS, MOST_VALUES, MOST_DEEP = 16 << 20, 64 << 20, 500_000, 100_000, 32
MOST_NAME = 4096  # bytes of a chunk's name, which is padded
DEFLATED, LOSSY = 0, 1  # by `eCompression`; others are as they are
TREE, ZIPPED, TEXT, BYTES = 11, 76, 8, 9  # types of values
ZIP_HEAD = 12  # bytes before what is deflated
NUMBERS = {kind: struct.Struct(f"<{code}") for kind, code in {1: "B", 2: "i", 3: "I", 4: "q", 5: "Q", 6: "d", 7: "Q"}.items()}
EXPORT = "export the ones that you mean as TIFF, each to a file of its own"


class NikonSlide:
    """A `Slide` of the only picture in the file `path`. Many threads may read.

    Raises `ReadError` for several pictures, other pixels than 8-bit RGB, and files older than NIS-Elements 4.
    """

    reduced = ()

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._open(_Chunks(self._map))
        except (struct.error, KeyError, ValueError, TypeError, zlib.error) as error:
            self.close()
            raise _damaged(str(error) or type(error).__name__) from error
        except ReadError:
            self.close()
            raise

    def _open(self, chunks: _Chunks) -> None:
        said = _tree(chunks.read(ATTRIBUTES, MOST_TREE), "SLxImageAttributes")
        metadata = _tree(chunks.read(METADATA, MOST_TREE), "SLxPictureMetadata")
        self.width, self.height, row = (int(said[name]) for name in ("uiWidth", "uiHeight", "uiWidthBytes"))
        self._budget = ReadBudget(self.width, self.height)
        pictures = max(chunks.pictures, int(said["uiSequenceCount"]))
        if pictures != 1:
            raise refuse("undecodable", f"{NAME} of {pictures} pictures: {EXPORT}")
        _check_pixels(said, metadata)
        if any(
            said.get(name, 0) not in (0, side) for name, side in (("uiTileWidth", self.width), ("uiTileHeight", self.height))
        ):
            raise refuse("undecodable", f"{NAME} kept in tiles: export it as TIFF")
        if row < 3 * self.width:
            raise _damaged(f"rows of {row} bytes for {self.width} pixels")
        self._lock, self._deflated = threading.Lock(), False
        self._shape, self._steps, size = (self.height, self.width, 3), (row, 3, 1), row * self.height
        start, length = chunks.place(PICTURE + b"0!")
        self._pixels: NDArray[np.uint8] | None = None
        if said.get("eCompression") == DEFLATED:
            self._budget.check_layout(1, self.width, self.height, size)
            # deflate makes nothing larger by more than some thousandths: what comes behind isn't the picture's
            self._stored = _Place(start + TIME_BYTES, min(length - TIME_BYTES, size + size // 100 + 1024))
            self._deflated = True
        elif length < TIME_BYTES + size:
            raise _damaged(f"{self.width} x {self.height} pixels don't lie in {length} bytes")
        else:
            self._pixels = np.ndarray(self._shape, np.uint8, self._map, start + TIME_BYTES, self._steps)
        scale = _scale(metadata)
        self.pixel_um = scale.pixel_um if scale else None
        self.notes = tuple(filter(None, (scale.note if scale else "",)))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        x0, y0, x1, y1 = box
        with self._lock:
            if self._deflated:
                self._pixels, self._deflated = self._inflated(), False
            pixels = self._pixels
        assert pixels is not None
        with self._budget.decoding(3 * (x1 - x0) * (y1 - y0)):
            return np.ascontiguousarray(pixels[y0:y1, x0:x1, ::-1])

    def _inflated(self) -> NDArray[np.uint8]:
        """The picture, of which one byte more is inflated at most than its rows take."""
        size = self._steps[0] * self.height
        with self._budget.decoding(size):
            try:
                start, length = self._stored
                inflate = zlib.decompressobj()
                content = inflate.decompress(self._map[start : start + length], size)
                inflate.decompress(inflate.unconsumed_tail, 1)  # the checksum, which follows the last pixel
            except zlib.error as error:
                raise _damaged(str(error)) from error
        if len(content) < size:
            raise _damaged(f"{self.width} x {self.height} pixels don't lie in {len(content)} bytes")
        return np.ndarray(self._shape, np.uint8, content, 0, self._steps)

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        return False

    def close(self) -> None:
        """See `Slide`."""
        self._pixels = None
        with suppress(BufferError):  # somebody is still reading: it is freed when they are done
            self._map.close()


class _Place(NamedTuple):
    """Where a chunk's bytes lie.

    Attributes
    ----------
    start, length : int
        In bytes of the file.
    """

    start: int
    length: int


class _Chunks:
    """The chunks of a file. Raises `ReadError` where it isn't of format 3, or was cut off."""

    def __init__(self, file: mmap.mmap) -> None:
        self._file = file
        version = bytes(file[HEAD.size + len(SIGNATURE) : HEAD.size + len(SIGNATURE) + 6])
        if bytes(file[HEAD.size : HEAD.size + len(SIGNATURE)]) != SIGNATURE or not version.startswith(b"Ver"):
            raise _damaged("it has no header")
        if not version.startswith(b"Ver3."):
            told = version.decode("ascii", "replace")
            raise refuse(
                "undecodable", f"{NAME} of another kind ({told}): save it as 8-bit RGB TIFF in the microscope's program"
            )
        tail = len(file) - len(MAP_END) - 8
        if tail < 0 or file[tail : tail + len(MAP_END)] != MAP_END:
            raise _damaged("it was cut off")
        where = self._at(int.from_bytes(file[tail + len(MAP_END) :], "little"), MAP_NAME)
        if where.length > MOST_MAP:
            raise refuse("bomb", f"{NAME} whose list of parts takes {where.length} bytes, more than {MOST_MAP}")
        self._places = _listed(file[where.start : where.start + where.length])
        self.pictures = sum(name.startswith(PICTURE) for name in self._places)

    def place(self, name: bytes) -> _Place:
        """Where the bytes of the chunk `name` lie."""
        if name not in self._places:
            raise _damaged(f"it lacks {name.decode('ascii', 'replace')}")
        return self._at(self._places[name], name)

    def read(self, name: bytes, most: int) -> bytes:
        """The bytes of the chunk `name`, if they are at most so many."""
        start, length = self.place(name)
        if length > most:
            raise refuse("bomb", f"{NAME} with {length} bytes of {name.decode('ascii')}, more than {most}")
        return self._file[start : start + length]

    def _at(self, offset: int, name: bytes) -> _Place:
        told = name.decode("ascii", "replace")
        if offset + HEAD.size > len(self._file):
            raise _damaged(f"{told} lies beyond its end")
        magic, letters, length = HEAD.unpack_from(self._file, offset)
        start = offset + HEAD.size + letters
        if magic != MAGIC or letters > MOST_NAME or not self._file[offset + HEAD.size : start].startswith(name):
            raise _damaged(f"{told} doesn't lie where its list says")
        if start + length > len(self._file):
            raise _damaged(f"{told} reaches beyond its end")
        return _Place(start, length)


def _listed(content: bytes) -> dict[bytes, int]:
    """The offsets of the chunks by name, as the map tells them."""
    places: dict[bytes, int] = {}
    at = 0
    while True:
        end = content.index(b"!", at) + 1
        name = content[at:end]
        if name == MAP_END:
            return places
        if len(places) >= MOST_CHUNKS:
            raise refuse("bomb", f"{NAME} of more than {MOST_CHUNKS} parts: export the picture that you mean as TIFF")
        places[name] = PLACE.unpack_from(content, end)[0]
        at = end + PLACE.size


def _tree(content: bytes, name: str) -> dict[str, Any]:
    """The values of the level `name` of a tree, inner levels as dicts; texts and arrays of bytes are passed over."""
    if content[:1] == bytes((ZIPPED,)):
        inflate = zlib.decompressobj()
        content = inflate.decompress(content[ZIP_HEAD:], MOST_TREE)
        if inflate.unconsumed_tail:
            raise refuse("bomb", f"{NAME} whose description inflates to more than {MOST_TREE} bytes")
    inside = _Tree(content).values(0, len(content), 1, MOST_DEEP)[0][name]
    if not isinstance(inside, dict):
        raise _damaged(f"{name} is no level")
    return inside


class _Tree:
    """A tree of typed values, each byte of which is looked at once."""

    def __init__(self, content: bytes) -> None:
        self._content, self._left = content, MOST_VALUES

    def values(self, at: int, end: int, count: int, deep: int) -> tuple[dict[str, Any], int]:
        """So many values from a place on, which end before `end`, by name, and where they do."""
        found: dict[str, Any] = {}
        for _ in range(count):
            self._left -= 1
            if self._left < 0 or deep < 1:
                raise refuse("bomb", f"{NAME} with more than {MOST_VALUES} values, or {MOST_DEEP} levels, in its description")
            begun = at
            kind, letters = ITEM.unpack_from(self._content, at)
            at += ITEM.size + 2 * letters
            name = self._content[begun + ITEM.size : at].decode("utf-16-le").rstrip("\0")
            if kind in NUMBERS:
                (found[name],) = NUMBERS[kind].unpack_from(self._content, at)
                at += NUMBERS[kind].size
            elif kind == TREE:
                inner, length = LEVEL.unpack_from(self._content, at)
                found[name], last = self.values(at + LEVEL.size, min(begun + length, end), inner, deep - 1)
                if last > begun + length:
                    raise _damaged(f"the level {name} is longer than it says")
                at = begun + length + 8 * inner  # after the places of its values
            elif kind == BYTES:
                at += 8 + int.from_bytes(self._content[at : at + 8], "little")
            elif kind == TEXT:
                at = self._after_text(at, end)
            else:
                raise _damaged(f"a value of kind {kind}")
            if at > end:
                raise _damaged(f"the value {name} reaches beyond its level")
        return found, at

    def _after_text(self, at: int, end: int) -> int:
        """The place after the two zeros that end the text in UTF-16 at a place."""
        stop = self._content.find(b"\0\0", at, end)
        while stop >= 0 and (stop - at) % 2:
            stop = self._content.find(b"\0\0", stop + 1, end)
        return end + 1 if stop < 0 else stop + 2


def _check_pixels(said: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Whether a picture is of a colour camera, with 8 bits a colour. Raises `ReadError`."""
    channels = int(metadata["sPicturePlanes"]["uiCount"])
    bits, parts = int(said["uiBpcInMemory"]), int(said["uiComp"])
    if (bits, int(said["uiBpcSignificant"]), parts, channels) != (8, 8, 3, 1):
        colours = "in red, green and blue" if (parts, channels) == (3, 1) else "that aren't a colour camera's"
        told = f"{NAME} of {parts} channels of {said['uiBpcSignificant']} bits {colours}"
        raise refuse("not-8-bit-rgb", f"{told}; it is not converted: save it as 8-bit RGB")
    if said.get("eCompression") == LOSSY:
        raise refuse("undecodable", f"{NAME} that is compressed with losses: save it as 8-bit RGB TIFF")


def _scale(metadata: dict[str, Any]) -> PixelSize | None:
    """The size of a pixel, where it was calibrated."""
    across = metadata.get("dCalibration")
    return plausible_pixel_size(float(across), None, "the Nikon metadata") if across and metadata.get("bCalibrated") else None


def _damaged(detail: str) -> ReadError:
    return refuse("undecodable", f"{NAME} that is damaged: {detail}")
