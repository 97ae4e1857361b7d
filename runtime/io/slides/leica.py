"""`LeicaSlide`: the colour picture in a Leica LIF file, whose description is read by liffile (the extra `slides`).

Its pixels lie uncompressed in one block of the file, so a part of them is read where it lies.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.slides.budget import ReadBudget
from blastscope.runtime.io.slides.metadata import UNITS, PixelSize, parse_xml, plausible_pixel_size
from blastscope.runtime.io.slides.tile_table import refuse
from blastscope.runtime.types import Box

NAME = "a Leica LIF file"
HEAD, MARK, TEST = struct.Struct("<IIBI"), 0x70, 0x2A  # mark, bytes that follow, test mark, characters of XML
BLOCKS = {1: struct.Struct("<IIBIBI"), 2: struct.Struct("<IIBQBI")}  # by the version; the fourth is the pixels' size
MOST_XML, MOST_NAME, MOST_BLOCKS = 64 << 20, 4096, 20_000  # bytes, letters, pictures of one file
RED_GREEN_BLUE = (1, 2, 3)  # the tags of colour channels
X, Y = 1, 2  # the format's numbers of directions
DIRECTIONS = {3: "Z", 4: "T", 5: "wavelength", 6: "rotation", 9: "excitation", 10: "tiles"}
DESCRIPTION = "./Data/Image/ImageDescription"


def has_liffile() -> bool:
    """Whether liffile is installed."""
    return find_spec("liffile") is not None


class LeicaSlide:
    """A `Slide` of the only picture in the file `path`. Many threads may read.

    Raises `ReadError` for several pictures, stacks, mosaics, other pixels than 8-bit RGB, and where the library is missing.
    """

    reduced = ()

    def __init__(self, path: Path) -> None:
        if not has_liffile():
            raise refuse("undecodable", f"{NAME}, which is read by liffile: pip install 'blastscope[slides]'")
        from liffile import LifFile

        with path.open("rb") as stream:
            _check_head(stream)
        with LifFile(path, squeeze=False) as file:
            images = list(file.images)
            if len(images) != 1:
                held = f"{NAME} of {len(images)} pictures"
                raise refuse("undecodable", f"{held}: export the ones that you mean as TIFF, each to a file of its own")
            (image,) = images
            if image.is_flim:
                raise refuse("not-8-bit-rgb", f"{NAME} of photon counts: export a picture of it as 8-bit RGB TIFF")
            block = image.memory_block
            offset, size = block.offset, block.size
            axes, channels = _axes(image), _channels(image)
        self.width, self.height = axes[X].pixels, axes[Y].pixels
        self._budget = ReadBudget(self.width, self.height)
        down, across = axes[Y].step, axes[X].step
        last = (self.height - 1) * down + (self.width - 1) * across + max(channels)
        if min(down, across, *(one + 1 for one in channels)) < 1 or max(last + 1, 3 * self.width * self.height) > size:
            raise refuse(
                "undecodable", f"{NAME} that is damaged: {self.width} x {self.height} pixels don't lie in {size} bytes"
            )
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < offset + size:
            self._map.close()
            raise refuse("undecodable", f"{NAME} that is damaged: it was cut off")
        shape, steps = (self.height, self.width), (down, across)
        self._colours: tuple[NDArray[np.uint8], ...] = tuple(
            np.ndarray(shape, np.uint8, self._map, offset + one, steps) for one in channels
        )
        scale = _scale(axes)
        self.pixel_um = scale.pixel_um if scale else None
        self.notes = tuple(filter(None, (scale.note if scale else "",)))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        x0, y0, x1, y1 = box
        with self._budget.decoding(3 * (x1 - x0) * (y1 - y0)):
            return np.stack([plane[y0:y1, x0:x1] for plane in self._colours], axis=2)

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        return False

    def close(self) -> None:
        """See `Slide`."""
        self._colours = ()
        with suppress(BufferError):  # somebody is still reading: it is freed when they are done
            self._map.close()


def _check_head(stream: BinaryIO) -> None:
    """Whether the file's description and its list of blocks are as large as a microscope's, before a library reads them."""
    head = stream.read(HEAD.size)
    mark, _, test, letters = HEAD.unpack(head) if len(head) == HEAD.size else (0, 0, 0, 0)
    if (mark, test) != (MARK, TEST):
        raise refuse("undecodable", f"{NAME} that is damaged: it has no header")
    if 2 * letters > MOST_XML:
        raise refuse("bomb", f"{NAME} with {2 * letters} bytes of description, more than {MOST_XML}")
    root = parse_xml(stream.read(2 * letters).decode("utf-16-le", "replace"))
    version = root.get("Version", "") if root is not None else ""
    if version not in ("1", "2"):
        raise refuse("undecodable", f"{NAME} that is damaged, or of another kind: export the picture as TIFF")
    layout, end = BLOCKS[int(version)], os.fstat(stream.fileno()).st_size
    for _ in range(MOST_BLOCKS):
        head = stream.read(layout.size)
        if len(head) < layout.size:
            return
        pixels, name = layout.unpack(head)[3::2]
        if name > MOST_NAME or pixels > end:
            raise refuse("undecodable", f"{NAME} that is damaged or cut off: a block reaches beyond its end")
        stream.seek(2 * name + pixels, os.SEEK_CUR)
    raise refuse("bomb", f"{NAME} of more than {MOST_BLOCKS} blocks: export the picture that you mean as TIFF")


class _Axis(NamedTuple):
    """One direction of a picture.

    Attributes
    ----------
    pixels : int
        How many.
    length : float
        From the middle of the first pixel to that of the last, in `unit`.
    unit : str
        As the file names it.
    step : int
        Bytes from one pixel to the next.
    """

    pixels: int
    length: float
    unit: str
    step: int


def _axes(image: Any) -> dict[int, _Axis]:
    """The directions of the picture, X and Y among them; others must be one deep. Raises `ReadError`."""
    axes = {
        int(one.attrib["DimID"]): _Axis(
            int(one.attrib["NumberOfElements"]), float(one.attrib["Length"]), one.attrib["Unit"], int(one.attrib["BytesInc"])
        )
        for one in image.xml_element.findall(f"{DESCRIPTION}/Dimensions/DimensionDescription")
    }
    deep = {number: axis.pixels for number, axis in axes.items() if number not in (X, Y) and axis.pixels > 1}
    if deep or not {X, Y} <= set(axes):
        told = ", ".join(f"{DIRECTIONS.get(number, number)}: {count}" for number, count in deep.items())
        kind = f"a Leica stack or mosaic ({told})" if deep else "a Leica line scan"
        raise refuse("undecodable", f"{kind}: merge it, or choose a plane, and export one picture as TIFF")
    return axes


def _channels(image: Any) -> tuple[int, int, int]:
    """Where red, green and blue begin in the block, in bytes. Raises `ReadError` for other pixels than 8-bit RGB."""
    found = [one.attrib for one in image.xml_element.findall(f"{DESCRIPTION}/Channels/ChannelDescription")]
    starts = {int(one["ChannelTag"]): int(one["BytesInc"]) for one in found}
    bits = sorted({int(one["Resolution"]) for one in found})
    floats = any(int(one["DataType"]) for one in found)
    coloured = len(found) == 3 and set(starts) == set(RED_GREEN_BLUE)
    if not coloured or bits != [8] or floats:
        kind = "floats" if floats else f"{'/'.join(map(str, bits)) or 'no'} bits"
        colours = "in red, green and blue" if coloured else "that aren't a colour camera's"
        told = f"{NAME} of {len(found)} channels of {kind} {colours}"
        raise refuse("not-8-bit-rgb", f"{told}; it is not converted: save it as 8-bit RGB")
    red, green, blue = (starts[tag] for tag in RED_GREEN_BLUE)
    return red, green, blue


def _scale(axes: dict[int, _Axis]) -> PixelSize | None:
    """The size of a pixel."""
    across, down = (
        axis.length * UNITS.get(axis.unit, math.nan) / (axis.pixels - 1) if axis.pixels > 1 else math.nan
        for axis in (axes[X], axes[Y])
    )
    return plausible_pixel_size(across, down, "the Leica description")
