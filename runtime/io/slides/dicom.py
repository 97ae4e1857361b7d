"""`DicomSlide`: a whole slide image in DICOM, read tile by tile with wsidicom (the extra `slides`)."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.slides.budget import ReadBudget
from blastscope.runtime.io.slides.metadata import plausible_pixel_size
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.io.slides.tile_table import refuse
from blastscope.runtime.types import Box, Refusal

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
ONE_SERIES = ("SOPClassUID", "SeriesInstanceUID")
WHICH = (*ONE_SERIES, "ImageType", "TotalPixelMatrixColumns", "TotalPixelMatrixRows")
SUFFIXES = (".dcm", ".dicom")
NO_SLIDE = "DICOM files that hold no whole slide image"
NO_PIXELS = "DICOM files with a slide's label or overview and no slide beside them"
NO_LIBRARY = "DICOM files, which pydicom reads (pip install 'blastscope[slides]')"
# what pydicom and wsidicom raise of damaged files, beside their own errors
DAMAGE = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, EOFError, OSError, struct.error)
TILES = ("DimensionOrganizationType", "Rows", "Columns", "PerFrameFunctionalGroupsSequence")


def has_wsidicom() -> bool:
    """Whether wsidicom is installed."""
    return find_spec("wsidicom") is not None


class DicomLevel:
    """A smaller copy of a `DicomSlide`. Many threads may read, one at a time."""

    def __init__(self, slide: Any, number: int, size: tuple[int, int], lock: threading.Lock, budget: ReadBudget) -> None:
        self._slide, self._number, self._lock, self._budget = slide, number, lock, budget
        self.width, self.height = size

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) of `box`. Raises `ReadError`."""
        from wsidicom.errors import WsiDicomError

        width, height = box[2] - box[0], box[3] - box[1]
        with self._lock, self._budget.decoding(3 * width * height):
            try:
                region = self._slide.read_region((box[0], box[1]), self._number, (width, height))
            except (WsiDicomError, ValueError, OSError) as error:
                raise refuse("undecodable", f"a piece of the slide is damaged: {error}") from error
        if region.mode != "RGB":
            raise refuse("not-8-bit-rgb", f"a DICOM slide of {region.mode} pixels; it is not converted: save it as 8-bit RGB")
        return np.asarray(region)


class DicomSlide(DicomLevel):
    """A `Slide` of the series that the file `path` belongs to; its levels are files of the same folder.

    Raises `ReadError` for what is no slide. `unread` is why another reader didn't read it, and is given as the reason then.
    """

    def __init__(self, path: Path, unread: Refusal | None = None) -> None:
        from wsidicom import WsiDicom
        from wsidicom.errors import WsiDicomError

        files = list(_series(path))
        if not files:
            raise ReadError(unread or Refusal("undecodable", "a DICOM file that is no whole slide image"))
        try:
            for file in files:
                _check_grid(file)
            slide = WsiDicom.open(files)
        except (WsiDicomError, *DAMAGE) as error:
            raise ReadError(unread or Refusal("undecodable", f"a DICOM slide that wsidicom doesn't read: {error}")) from error
        try:
            levels = sorted(slide.pyramid, key=lambda level: -level.size.width)
            base, *smaller = levels
            lock, budget = threading.Lock(), ReadBudget(base.size.width, base.size.height)
            super().__init__(slide, base.level, (base.size.width, base.size.height), lock, budget)
            self.reduced = tuple(
                DicomLevel(slide, level.level, (level.size.width, level.size.height), lock, budget) for level in smaller
            )
            scale = plausible_pixel_size(base.mpp.width, base.mpp.height, "the DICOM header")
        except BaseException:
            slide.close()
            raise
        self.pixel_um = scale.pixel_um if scale else None
        what = f"read: by wsidicom, {len(files)} files of a series, {self.width} x {self.height} pixels"
        self.notes = tuple(filter(None, (what, scale.note if scale else "")))

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        return False

    def close(self) -> None:
        """See `Slide`."""
        self._slide.close()


class FolderSlides(NamedTuple):
    """What the DICOM files of one folder are.

    Attributes
    ----------
    slides : list of Path
        One file a slide, that of its full resolution; and files that can't be read, about which a reader says why.
    left_out : list of (str, str)
        Names of files that are no part of a slide, each with the reason.
    """

    slides: list[Path]
    left_out: list[tuple[str, str]]


def slides_among(files: Sequence[Path]) -> FolderSlides:
    """The slides that the DICOM files of one folder make up: each series is one, whose files are its levels.

    Parameters
    ----------
    files : sequence of Path
        The folder's DICOM files.

    Returns
    -------
    FolderSlides
    """
    if not files or find_spec("pydicom") is None:
        return FolderSlides([], [(path.name, NO_LIBRARY) for path in files])
    slides: list[Path] = []
    left_out: list[tuple[str, str]] = []
    series: dict[str, list[_Instance]] = {}
    for path in sorted(files):
        found = _instance(path)
        if found is None:
            slides.append(path)
        elif found.kind != SLIDE_CLASS:
            left_out.append((path.name, NO_SLIDE))
        else:
            series.setdefault(found.series, []).append(found)
    for instances in series.values():
        levels = [one for one in instances if one.shows_slide]
        if levels:
            slides.append(max(levels, key=lambda one: one.pixels).path)  # the first of equals: parts of one level
        else:
            left_out += [(one.path.name, NO_PIXELS) for one in instances]
    return FolderSlides(sorted(slides), left_out)


class _Instance(NamedTuple):
    """What a DICOM file says of itself.

    Attributes
    ----------
    path : Path
        The file.
    kind : str
        Its SOP class.
    series : str
        UID of its series.
    shows_slide : bool
        Whether it is a picture of the slide, and no label or macro image.
    pixels : int
        Of the total pixel matrix.
    """

    path: Path
    kind: str
    series: str
    shows_slide: bool
    pixels: int


def _instance(path: Path) -> _Instance | None:
    """What the file says of itself; None where it can't be read as DICOM."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        found = dcmread(path, stop_before_pixels=True, specific_tags=list(WHICH))
        flavour = [str(one).upper() for one in found.get("ImageType", ())][2:3]
        pixels = int(found.get("TotalPixelMatrixColumns", 0)) * int(found.get("TotalPixelMatrixRows", 0))
        shows = flavour not in (["LABEL"], ["OVERVIEW"], ["THUMBNAIL"])
        return _Instance(path, str(found.SOPClassUID), str(found.get("SeriesInstanceUID", path)), shows, pixels)
    except (InvalidDicomError, AttributeError, OSError, TypeError, ValueError, EOFError):
        return None


def _series(path: Path) -> Iterator[Path]:
    """The files beside `path` that hold images of the same slide; none where it is no slide."""
    own = _header(path)
    if own is None or own[0] != SLIDE_CLASS:
        return
    yield from (other for other in sorted(path.parent.iterdir()) if other == path or _header(other) == own)


def _check_grid(path: Path) -> None:
    """Raises `ReadError` where tiles don't lie side by side in a grid: wsidicom 0.36 moves each to the next place of one.

    DICOM lets them lie anywhere, and over each other, unless the file says TILED_FULL. OpenSlide refuses such files.
    """
    from pydicom import dcmread

    found = dcmread(path, stop_before_pixels=True, specific_tags=list(TILES))
    if found.get("DimensionOrganizationType") == "TILED_FULL":
        return
    for frame in found.get("PerFrameFunctionalGroupsSequence", ()):
        for place in frame.get("PlanePositionSlideSequence", ()):
            x, y = int(place.ColumnPositionInTotalImagePixelMatrix) - 1, int(place.RowPositionInTotalImagePixelMatrix) - 1
            if x % found.Columns or y % found.Rows:
                remedy = "save it with tiles side by side (TILED_FULL)"
                raise refuse("undecodable", f"a DICOM slide whose tiles lie in no grid, one of them at ({x}, {y}): {remedy}")


def _header(path: Path) -> tuple[str, str] | None:
    """The class and the series of a DICOM file; None of another."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    if not path.is_file():
        return None
    try:
        found = dcmread(path, stop_before_pixels=True, specific_tags=list(ONE_SERIES))
        return str(found.SOPClassUID), str(found.SeriesInstanceUID)
    except (InvalidDicomError, AttributeError, OSError, ValueError, EOFError):
        return None
