"""`TiffSlide`: a TIFF of any size read in pieces (OME-TIFF, BigTIFF, slide scanners' pyramids), never as a whole."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from io import SEEK_CUR, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.slides.budget import MOST_PIXELS, ReadBudget
from blastscope.runtime.io.slides.metadata import (
    PixelSize,
    colour_order,
    first_usable,
    from_imagej,
    from_ome,
    from_philips,
    from_tags,
    from_text,
    pixels_element,
)
from blastscope.runtime.io.slides.tile_table import SharedFile, TileTable, refuse
from blastscope.runtime.types import Box

if TYPE_CHECKING:
    import tifffile

ASIDE = {"label", "macro", "thumbnail", "overview"}  # words in the names of pictures beside a slide's own
THUMBNAIL_SHARE = 0.25  # of a tiled image's pixels: a picture in strips that has fewer is one beside it
MOST_PAGES = 65_536  # a slide has a dozen, a stack of planes or times some thousands
DROPPED_ALPHA = "its alpha channel, opaque wherever it is read, is dropped"


class TiffVendor(NamedTuple):
    """A scanner's kind of TIFF.

    Attributes
    ----------
    name : str
        For people, with its article.
    stitched : bool
        Whether its tiles overlap, or lie in several areas: OpenSlide puts them together.
    """

    name: str
    stitched: bool


BY_FLAG = {  # of tifffile
    "bif": TiffVendor("a Ventana slide (.bif)", True),
    "scn": TiffVendor("a Leica slide (.scn)", True),
    "ndpi": TiffVendor("a Hamamatsu slide (.ndpi)", False),
    "philips": TiffVendor("a Philips slide", False),
    "svs": TiffVendor("an Aperio slide (.svs)", False),
}


def tiff_vendor(tiff: tifffile.TiffFile) -> TiffVendor | None:
    """The scanner that wrote `tiff`; None of another program."""
    known = next((vendor for flag, vendor in BY_FLAG.items() if getattr(tiff, f"is_{flag}")), None)
    page = tiff.pages.first
    if known is None and page.software.startswith("MedScan"):
        overlaps = page.description.partition("OverlapsXY=")[2].partition(";")[0].split()
        return TiffVendor("a Trestle slide", any(overlap.strip("0") for overlap in overlaps))
    return known


class _Image(NamedTuple):
    """What is read of a TIFF.

    Attributes
    ----------
    pages : sequence of TiffPage
        One, or one of each colour.
    levels : sequence of sequences of TiffPage
        Its smaller copies.
    number : int
        Of its series.
    note : str
        Which of several images is read, and its size; empty where there is one.
    """

    pages: Sequence[tifffile.TiffPage]
    levels: Sequence[Sequence[tifffile.TiffPage]]
    number: int
    note: str


class _Table(Protocol):
    """`TileTable`, or several as one."""

    width: int
    height: int
    opaque: bool

    def read(self, box: Box) -> NDArray[np.uint8]: ...

    def blank(self, box: Box) -> bool: ...


class PlaneTables:
    """An RGB image whose colours are pages of their own, in the order red, green, blue. Raises `ReadError`."""

    opaque = False

    def __init__(self, pages: Sequence[tifffile.TiffPage], file: SharedFile, budget: ReadBudget) -> None:
        self._planes = [TileTable(page, file, budget, plane=True) for page in pages]
        self.width, self.height = self._planes[0].width, self._planes[0].height
        if len({(plane.width, plane.height) for plane in self._planes}) > 1:
            raise refuse("undecodable", "the TIFF's colours are planes of different sizes")

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`. Raises `ReadError`."""
        return np.concatenate([plane.read(box) for plane in self._planes], axis=2)

    def blank(self, box: Box) -> bool:
        """Whether the file leaves out every piece of `box`."""
        return all(plane.blank(box) for plane in self._planes)


class TiffSlide:
    """A `Slide` of a TIFF, a file or its bytes.

    Raises `ReadError` where it shows no single 8-bit RGB image, or one of more than `most_pixels`.
    """

    def __init__(self, source: Path | bytes, most_pixels: int = MOST_PIXELS) -> None:
        self._file = SharedFile(source)
        try:
            with _open_tiff(source) as tiff:
                vendor = tiff_vendor(tiff)
                if vendor is not None and vendor.stitched:
                    remedy = "which OpenSlide puts together from its tiles: use 'blastscope examine'"
                    raise refuse("undecodable", f"{vendor.name}, {remedy}")
                image = _the_image(tiff)
                page = image.pages[0]
                if page.imagewidth * page.imagelength > most_pixels:
                    raise refuse("bomb", f"{page.imagewidth} x {page.imagelength} pixels, more than {most_pixels}")
                budget = ReadBudget(page.imagewidth, page.imagelength)
                self._table = _table(image.pages, self._file, budget)
                self.reduced = tuple(_same_view(self._table, [_table(level, self._file, budget) for level in image.levels]))
                scale = _scale(tiff, page, image.number)
        except BaseException:
            self._file.close()
            raise
        self.width, self.height = self._table.width, self._table.height
        self.pixel_um = scale.pixel_um if scale else None
        alpha = DROPPED_ALPHA if self._table.opaque else ""
        self.notes = tuple(filter(None, (image.note, alpha, scale.note if scale else "")))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        return self._table.read(box)

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        return self._table.blank(box)

    def close(self) -> None:
        """See `Slide`."""
        self._file.close()


def look_into_tiff(path: Path) -> tuple[TiffVendor | None, PixelSize | None]:
    """Which scanner wrote the TIFF at `path`, and the scale that its first page says.

    Raises `ReadError` for sizes that can't be: OpenSlide asks for memory by them, and ends the process where it gets none.
    """
    with _open_tiff(path) as tiff:
        vendor = tiff_vendor(tiff)
        if vendor is None:
            return None, None
        for page in (one.aspage() for one in tiff.pages):
            width, height = page.imagewidth, page.imagelength
            across, down = (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(page.rowsperstrip, height))
            if width * height > MOST_PIXELS or (page.is_tiled and across * down > MAX_PIXELS):
                found = f"{width} x {height} pixels in pieces of {across} x {down}"
                raise refuse("bomb", f"{vendor.name} that says {found}: more than any scanner writes")
        return vendor, _scale(tiff, tiff.pages.first, 0)


def _table(pages: Sequence[tifffile.TiffPage], file: SharedFile, budget: ReadBudget) -> _Table:
    return TileTable(pages[0], file, budget) if len(pages) == 1 else PlaneTables(pages, file, budget)


def _same_view(whole: _Table, levels: Sequence[_Table]) -> list[_Table]:
    """The levels that show what `whole` does. Some scanners pad small ones to whole tiles: places in them would be off."""
    return [level for level in levels if abs(level.width * whole.height / whole.width - level.height) < 2]


# ---- its pages


def _open_tiff(source: Path | bytes) -> tifffile.TiffFile:
    """The TIFF, alone where it points at other files. Raises `ReadError` where its chain of pages has no end."""
    import tifffile

    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        _check_chain(file, hamamatsu=isinstance(source, Path) and source.suffix == ".ndpi")
    return tifffile.TiffFile(BytesIO(source) if isinstance(source, bytes) else source, _multifile=False)


def _check_chain(file: BinaryIO, hamamatsu: bool) -> None:
    """Follows the offset from each page to the next: tifffile walks a chain that comes back to a page without end.

    tifffile reads what comes before where a chain breaks off. In Hamamatsu's classic TIFFs an offset has 8 bytes.
    """
    order = {b"II": "<", b"MM": ">"}.get(file.read(2), "")
    version = file.read(2)
    big = order != "" and version == struct.pack(f"{order}H", 43)
    counted, tag_bytes, offset = ("Q", 20, "Q") if big else ("H", 12, "Q" if hamamatsu and order == "<" else "I")
    if not order or (big and len(file.read(4)) < 4):
        return
    seen: set[int] = set()
    try:
        while (place := _number(file, order + offset)) and place not in seen:
            if len(seen) == MOST_PAGES:
                raise refuse("bomb", f"a TIFF of more than {MOST_PAGES} pages")
            seen.add(place)
            file.seek(place)
            file.seek(_number(file, order + counted) * tag_bytes, SEEK_CUR)
    except (struct.error, OverflowError, OSError):
        return  # past the end of the file
    if place:
        raise refuse("undecodable", f"the TIFF is damaged: its page {len(seen)} leads back to an earlier one")


def _number(file: BinaryIO, form: str) -> int:
    """The number that stands next in the file."""
    number: int = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return number


# ---- which of the images


def _the_image(tiff: tifffile.TiffFile) -> _Image:
    """The image that is meant, its smaller copies, and a note where the file holds more. Raises `ReadError`."""
    series = tiff.series
    if not series:
        raise refuse("undecodable", "the TIFF holds no image")
    meant = [one for one in series if not _is_aside(one)] or list(series)
    tiled = [one for one in meant if one.keyframe.is_tiled]
    main = (tiled or meant)[0]
    most = THUMBNAIL_SHARE * main.keyframe.imagewidth * main.keyframe.imagelength if tiled else 0
    others = [one for one in meant if one is not main and (one in tiled or _area(one) >= most)]
    if others:
        raise refuse("undecodable", f"a TIFF of {1 + len(others)} images: give each image a file of its own")
    number = series.index(main)
    order = _plane_order(main, _ome_pixels(tiff, main.keyframe, number))
    levels = [_pages(level, order) for level in main.levels[1:]]
    page = main.keyframe
    count = len(tiff.pages)
    if count == len(order) and not levels and len(series) == 1:
        return _Image(_pages(main, order), [], number, "")
    copies = f" with {len(levels)} smaller cop{'y' if len(levels) == 1 else 'ies'} of it" if levels else ""
    which = f"page {page.index + 1} of {count}" if len(order) == 1 else f"image {number + 1} of {len(series)}"
    if page.parent is not tiff or page.is_subifd:
        which = f"a page below page 1 of {count}"
    note = f"read: {which}{copies}, {page.imagewidth} x {page.imagelength} pixels"
    return _Image(_pages(main, order), levels, number, note)


def _is_aside(series: tifffile.TiffPageSeries) -> bool:
    """Whether it is flagged as a smaller copy, or named as a picture beside the slide: 'Label', 'macro image'."""
    return bool(series.keyframe.is_reduced) or not ASIDE.isdisjoint(re.findall(r"[a-z]+", series.name.lower()))


def _area(series: tifffile.TiffPageSeries) -> int:
    return int(series.keyframe.imagewidth * series.keyframe.imagelength)


def _ome_pixels(tiff: tifffile.TiffFile, page: tifffile.TiffPage, number: int) -> Element | None:
    xml = tiff.ome_metadata if tiff.is_ome else None
    return pixels_element(xml, number, (page.imagewidth, page.imagelength)) if xml else None


def _plane_order(main: tifffile.TiffPageSeries, ome: Element | None) -> tuple[int, ...]:
    """Which of the series' pages are wanted: its only one, or those of red, green and blue. Raises `ReadError`."""
    whole = main.keyframe is not None and main.size == main.keyframe.size
    if len(main.pages) == 1 and whole:
        return (0,)
    order = colour_order(ome) if main.axes == "CYX" and len(main.pages) == 3 else None
    if order:
        return order
    shape = " x ".join(map(str, main.shape))
    remedy = "save its channels as one RGB image" if main.axes == "CYX" else "give each image a file of its own"
    raise refuse("undecodable", f"a TIFF of {max(len(main.pages), main.shape[0])} pages ({main.axes}: {shape}): {remedy}")


def _pages(series: tifffile.TiffPageSeries, order: Sequence[int]) -> list[tifffile.TiffPage]:
    """The pages of a series in this order. Those of planes are read in full: a stack's later pages are kept in short."""
    if len(order) == 1:
        return [series.keyframe]
    found = []
    for place in order:
        page = series.pages[place]
        if page is None:
            raise refuse("undecodable", "the TIFF is damaged: one of its colours is missing")
        found.append(page.aspage())
    return found


# ---- its scale


def _scale(tiff: tifffile.TiffFile, page: tifffile.TiffPage, number: int) -> PixelSize | None:
    """OME-XML before text before the tags alone, which many programs fill in without a thought."""
    density = page.tags.valueof(282), page.tags.valueof(283)
    unit, text = int(page.tags.valueof(296, 2)), page.description or ""
    # a slide's description stands on its first page, whichever is read
    first = tiff.pages.first
    texts = dict.fromkeys((text, first.description or ""))
    ome = _ome_pixels(tiff, page, number)
    return first_usable(
        from_ome(ome) if ome is not None else None,
        *(found for one in texts for found in (from_text(one), from_philips(one))),
        from_imagej(text, density),
        from_tags(density, unit, page.software),
    )
