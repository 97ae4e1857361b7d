"""Frames and scans from files: `open_slide` gives pixels piece by piece, or the reason why there are none.

A scan that nobody waits for any more gives nothing more: whoever looks at a slide for an hour ends within seconds.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import BlastscopeError, Closed
from blastscope.runtime.io.image_decode import SUFFIXES, decode_picture, read_content, read_whole_header, refused_folder
from blastscope.runtime.io.image_header import MAX_PIXELS, Header
from blastscope.runtime.io.paths import SkippedFiles, as_paths, nothing_in
from blastscope.runtime.io.slides.container import HEAD_BYTES, TIFF_MAGIC, Container, container_of, is_zarr
from blastscope.runtime.io.slides.dicom import SUFFIXES as DICOM_SUFFIXES
from blastscope.runtime.io.slides.dicom import DicomSlide, has_wsidicom, slides_among
from blastscope.runtime.io.slides.leica import LeicaSlide
from blastscope.runtime.io.slides.nikon import NikonSlide
from blastscope.runtime.io.slides.ome_zarr import ZarrSlide
from blastscope.runtime.io.slides.tiff import TiffSlide, look_into_tiff
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.io.slides.vendor import CziSlide, HeifSlide, VendorSlide, has_czi, has_openslide
from blastscope.runtime.types import Box, Refusal

SCAN_SUFFIXES = (
    *SUFFIXES,
    *(
        ".bif",
        ".btf",
        ".czi",
        ".heic",
        ".heif",
        ".lif",
        ".mrxs",
        ".nd2",
        ".ndpi",
        ".scn",
        ".svs",
        ".svslide",
        ".tf8",
        ".vms",
        ".vmu",
        ".vsi",
    ),
)
OVERLAY = ".overlay.png"  # how the pictures end that were drawn of frames, and are none
BAND_PIXELS = 16_000_000  # that an overview takes at once
T = TypeVar("T")


class Readable(Protocol):
    """An image that gives any part of itself, to many threads at once."""

    width: int
    height: int

    def read(self, box: Box) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) RGB of `box`, which lies inside. Raises `ReadError`."""
        ...


class Slide(Readable, Protocol):
    """A frame of any size. `close` it."""

    pixel_um: float | None  # where the file says it
    notes: tuple[str, ...]  # what was read, where the file left a choice, and where the scale comes from

    @property
    def reduced(self) -> Sequence[Readable]:
        """Smaller copies of the same, the largest first."""
        ...

    def blank(self, box: Box) -> bool:
        """Whether it is known without reading that nothing is there."""
        ...

    def close(self) -> None:
        """Frees the file."""
        ...


class ArraySlide:
    """A `Slide` of a frame in memory: parts are views of it."""

    pixel_um: float | None = None
    notes: tuple[str, ...] = ()
    reduced: tuple[Readable, ...] = ()

    def __init__(self, frame: NDArray[np.uint8], pixel_um: float | None = None) -> None:
        self._frame, self.pixel_um = frame, pixel_um
        self.height, self.width = frame.shape[:2]

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        return self._frame[box[1] : box[3], box[0] : box[2]]

    def blank(self, box: Box) -> bool:
        """See `Slide`."""
        return False

    def close(self) -> None:
        """See `Slide`."""


class EncodedSlide(ArraySlide):
    """A `Slide` of a file that is decoded as a whole, when it is first read; its size is known before."""

    def __init__(self, content: bytes, header: Header) -> None:
        self._content, self._decoding = content, threading.Lock()
        self.width, self.height, self.notes = header.width, header.height, header.notes

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Slide`."""
        with self._decoding:
            if self._content:
                frame = decode_picture(self._content)
                if isinstance(frame, Refusal):
                    raise ReadError(frame)
                self._frame, self._content = frame, b""
        return super().read(box)


def open_slide(path: Path | str) -> Slide | Refusal:
    """The frame or scan at `path`: a picture, any TIFF, a scanner's own format, or the folder of an OME-Zarr.

    A PNG, JPEG, BMP or WebP is decoded when it is first read; of the others only what is asked for is ever read. What can't be
    read is a refusal, but for `MissingLibrary`, where zarr is not installed.
    """
    path = Path(path)

    def opened() -> Slide | Refusal:
        if path.is_dir():
            return ZarrSlide(path) if is_zarr(path) else refused_folder(path)
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            return Refusal("undecodable", "not a file")
        with path.open("rb") as file:
            container = container_of(path, file.read(HEAD_BYTES))
        if container is not None:
            return _open_container(path, container)
        content = read_content(path)
        return content if isinstance(content, Refusal) else _open_picture(content)

    return _guarded(opened)


def open_content(content: bytes) -> Slide | Refusal:
    """The frame in the bytes of an image file: a picture, or a TIFF."""
    return open_tiff(content) if content.startswith(TIFF_MAGIC) else _open_picture(content)


def _open_picture(content: bytes) -> Slide | Refusal:
    header = read_whole_header(content)
    return header if isinstance(header, Refusal) else EncodedSlide(content, header)


def _guarded(opened: Callable[[], T | Refusal]) -> T | Refusal:
    """What `opened` gives, or the reason why it gives nothing."""
    try:
        return opened()
    except ReadError as unreadable:
        return unreadable.refusal
    except (BlastscopeError, MemoryError):
        raise
    except OSError as error:
        return Refusal("undecodable", f"can't be read: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 what a damaged header makes the reading libraries raise is anything
        return Refusal("undecodable", f"the header is damaged: {error or type(error).__name__}")


def _open_container(path: Path, container: Container) -> Slide | Refusal:
    """A TIFF by our own reader where it reads it rightly, and slides of other kinds by OpenSlide."""
    if container.reader in READERS:
        return READERS[container.reader](path, container.name)
    if container.reader != "tiff":
        return Refusal("undecodable", f"{container.name}, which isn't read here: {container.remedy}")
    vendor, scale = look_into_tiff(path)
    if vendor is None or not (vendor.stitched or has_openslide()):
        return TiffSlide(path)
    try:
        return VendorSlide(path, vendor.name, scale)
    except ReadError:
        if vendor.stitched:
            raise
        return TiffSlide(path)  # some files bear a scanner's marks and lack what it always writes


def _open_czi(path: Path, name: str) -> Slide:
    """By pylibCZIrw, which reads all of them; by OpenSlide where that is missing."""
    return VendorSlide(path, name) if has_openslide() and not has_czi() else CziSlide(path)


def _open_dicom(path: Path, name: str) -> Slide:
    """By OpenSlide; by wsidicom what that doesn't read, or where it is missing."""
    if not has_openslide() and not has_wsidicom():
        return VendorSlide(path, name)  # which says what is missing
    try:
        return VendorSlide(path, name)
    except ReadError as unread:
        if not has_wsidicom():
            raise
        return DicomSlide(path, unread.refusal if has_openslide() else None)


READERS: dict[str, Callable[[Path, str], Slide]] = {
    "openslide": VendorSlide,
    "czi": _open_czi,
    "dicom": _open_dicom,
    "heif": lambda path, _: HeifSlide(path),
    "lif": lambda path, _: LeicaSlide(path),
    "nd2": lambda path, _: NikonSlide(path),
}


def decode_tiff(content: bytes) -> NDArray[np.uint8] | Refusal:
    """The pixels (H, W, 3) RGB of the one image in a TIFF whose bytes are `content`, or why there are none."""
    slide = open_tiff(content)
    if isinstance(slide, Refusal):
        return slide
    try:
        return read_region(slide, (0, 0, slide.width, slide.height))
    except ReadError as unreadable:
        return unreadable.refusal
    finally:
        slide.close()


def open_tiff(content: bytes) -> TiffSlide | Refusal:
    """The TIFF whose bytes are `content`, of the size of an image that is read whole."""
    return _guarded(lambda: TiffSlide(content, MAX_PIXELS))


def read_region(scan: Readable, box: Box) -> NDArray[np.uint8]:
    """`scan.read(box)`. Raises `ReadError` whatever a damaged file makes the reading libraries raise."""
    try:
        return scan.read(box)
    except (ReadError, MemoryError, BlastscopeError):
        raise
    except Exception as error:  # as in open_scan
        raise ReadError(Refusal("undecodable", f"can't be read at {box}: {error or type(error).__name__}")) from error


def read_overview(scan: Slide, longest_px: int) -> NDArray[np.uint8]:
    """The whole scan, made smaller so that no side is longer than `longest_px`. Raises `ReadError`."""
    scale = min(1.0, longest_px / max(scan.width, scan.height))
    width, height = max(round(scan.width * scale), 1), max(round(scan.height * scale), 1)
    enough = [level for level in scan.reduced if level.width >= width and level.height >= height]
    level: Readable = min(enough, key=lambda one: one.width) if enough else scan
    if (level.width, level.height) == (width, height):
        return read_region(level, (0, 0, width, height))
    out = np.empty((height, width, 3), np.uint8)
    rows = max(int(BAND_PIXELS / level.width * height / level.height), 1)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = (0, top * level.height // height, level.width, -(-bottom * level.height // height))
        out[top:bottom] = cv2.resize(read_region(level, band), (width, bottom - top), interpolation=cv2.INTER_AREA)
    return out


def find_frames(paths: Iterable[Path | str], *, passed: SkippedFiles | None = None) -> list[Path]:
    """The frames that `paths` name, in the order given: files and OME-Zarrs as they are, folders as what is below them, sorted.

    A file is taken whatever its suffix, a path with nothing behind it too, and a folder that can't be looked into: each gets a
    refusal. Of the DICOM files of a folder one a slide is taken. Files in folders that aren't taken are noted in `passed`.
    Raises `DataError` for a folder without a frame.
    """
    found: list[Path] = []
    passed = SkippedFiles() if passed is None else passed
    for path in as_paths(paths):
        below = sorted(_frames_below(path, passed)) if path.is_dir() and not is_zarr(path) else [path]
        if not below:
            raise nothing_in(path, "frame", (*SCAN_SUFFIXES, *DICOM_SUFFIXES, ".zarr"), passed)
        found += below
    return found


def _frames_below(folder: Path, passed: SkippedFiles) -> Iterator[Path]:
    unread: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: unread.append(Path(error.filename))):
        here = Path(place)
        scans = [name for name in folders if is_zarr(here / name)]
        folders[:] = [name for name in folders if name not in scans and not name.startswith(".")]
        yield from (here / name for name in scans)
        dicom = {name for name in names if Path(name).suffix.lower() in DICOM_SUFFIXES and not name.startswith(".")}
        found = slides_among([here / name for name in dicom])
        yield from found.slides
        for name, reason in found.left_out:
            passed.note(name, reason)
        for name in names:
            if name in dicom:
                continue
            if has_frame_suffix(name):
                yield here / name
            elif not name.endswith(OVERLAY):
                passed.note(name)
    yield from unread


def has_frame_suffix(name: str) -> bool:
    """Whether a file in a folder is taken for a frame: by its suffix, unless it is hidden or an overlay."""
    return Path(name).suffix.lower() in SCAN_SUFFIXES and not name.startswith(".") and not name.endswith(OVERLAY)


class CancellableImage:
    """A `Readable` whose `read` raises `Closed` once `left` is set."""

    def __init__(self, image: Readable, left: threading.Event) -> None:
        self._image, self._left = image, left
        self.width, self.height = image.width, image.height

    def read(self, box: Box) -> NDArray[np.uint8]:
        """See `Readable`."""
        if self._left.is_set():
            raise Closed("nobody waits for this frame any more")
        return self._image.read(box)


class CancellableSlide(CancellableImage):
    """The same of a `Slide` and its smaller copies."""

    def __init__(self, scan: Slide, left: threading.Event) -> None:
        super().__init__(scan, left)
        self._scan = scan
        self.pixel_um, self.notes = scan.pixel_um, scan.notes
        self.blank, self.close = scan.blank, scan.close

    @property
    def reduced(self) -> Sequence[Readable]:
        """See `Slide`."""
        return [CancellableImage(level, self._left) for level in self._scan.reduced]
