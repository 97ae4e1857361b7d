"""`ThumbnailCollector`: thumbnails of cells and frames, made while each frame is open."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.cell_crop import cut_from
from blastscope.runtime.frames.report.explanation_image import AROUND, around_cell, draw_heat, draw_labelled
from blastscope.runtime.frames.report.overlay import draw_box_lines, draw_cell_lines, draw_overlay
from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification
from blastscope.runtime.inference.explanation import Explanation
from blastscope.runtime.inference.neighbours import Neighbour
from blastscope.runtime.io.atomic import write_file
from blastscope.runtime.io.slides.slide import Slide, read_overview, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Box, ClassName

THUMB_PX = 128
MAP_PX = 1100
OVERLAY_PX = 4096
MOST_THUMBS = 20_000  # some 5 kB each
MOST_MAPS = 40  # on one page, some 120 kB each
WHITE = 255

Explain = Callable[[NDArray[np.uint8]], Explanation]
Nearest = Callable[[NDArray[np.uint8]], Sequence[Neighbour]]


@dataclass(frozen=True)
class WhyCalled:
    """What a page shows of the reasons for a call.

    Attributes
    ----------
    heat : bytes
        What the call rests on, as a JPEG.
    alike : tuple of (Neighbour, bytes or None)
        Labelled cells that are like this one, the nearest first, each with a JPEG where it has a picture.
    """

    heat: bytes
    alike: tuple[tuple[Neighbour, bytes | None], ...] = ()


@dataclass(frozen=True)
class Thumbnail:
    """A frame's report with its pictures, all as JPEG.

    Attributes
    ----------
    report : FrameReport
        The frame's.
    thumbs : tuple of (bytes or None)
        One a cell; None where there was no room for more.
    map : bytes or None
        The frame, smaller, with its cells drawn in.
    explained : mapping of int to WhyCalled
        What a cell's call rests on, by the cell's place in the report.
    """

    report: FrameReport
    thumbs: tuple[bytes | None, ...] = ()
    map: bytes | None = None
    explained: Mapping[int, WhyCalled] = field(default_factory=dict)


class ThumbnailCollector:
    """Pictures of frames. `collect` is for `Scope.examine_files`, which calls it from several threads."""

    def __init__(self, *, overlays: Mapping[Path, Path] | None = None, cells: bool = False, maps: int = 0) -> None:
        self._overlays = overlays or {}  # where the overlay of each frame goes
        self._cells = cells
        self._shown: defaultdict[Path | None, list[Thumbnail]] = defaultdict(list)  # a frame may be given twice
        self._left, self._maps_left = MOST_THUMBS, maps
        self._lock = threading.Lock()
        self._explain: Explain | None = None
        self._nearest: Nearest | None = None
        self._spec, self._most_explained = FrameSpecification(), 0

    def explain_with(
        self, explain: Explain, spec: FrameSpecification | None, most: int, *, nearest: Nearest | None = None
    ) -> None:
        """Also keeps explanations of calls.

        Parameters
        ----------
        explain : callable
            Explains the call on an image of one cell on black (h, w, 3) uint8 RGB: `Scope.explain`.
        spec : FrameSpecification or None
            What the frames are examined by; None for the defaults.
        most : int
            How many cells of a frame, the likeliest ALL first.
        nearest : callable, optional
            Gives labelled cells that are like the one on such an image: `LabelledArchive.nearest`.
        """
        self._explain, self._spec, self._most_explained = explain, spec or FrameSpecification(), most
        self._nearest = nearest

    def collect(self, scan: Slide, report: FrameReport) -> None:
        """Writes the overlay of the frame, and keeps what a sheet or page shows of it."""
        if report.refusal:
            return
        try:
            place = self._overlays.get(report.path) if report.path else None
            if place:
                picture = _encoded(
                    draw_overlay(read_overview(scan, OVERLAY_PX), report), ".png", cv2.IMWRITE_PNG_COMPRESSION, 1
                )
                write_file(place, lambda path: _fill(path, picture))
            if self._cells:
                shown = Thumbnail(report, self._thumbs(scan, report), self._map(scan, report), self._explanations(scan, report))
                with self._lock:
                    self._shown[report.path].append(shown)
        except (ReadError, MemoryError):  # a file that changes meanwhile, or too large a picture: the report stands without
            return

    def shown(self, report: FrameReport) -> Thumbnail:
        """Hands out the pictures of the frame that `report` is of, where there are any, and keeps them no longer."""
        with self._lock:
            kept = self._shown.get(report.path)
            return kept.pop(0) if kept else Thumbnail(report)

    def _map(self, scan: Slide, report: FrameReport) -> bytes | None:
        with self._lock:
            self._maps_left -= 1
            wanted = self._maps_left >= 0
        return jpeg(draw_overlay(read_overview(scan, MAP_PX), report)) if wanted else None

    def _thumbs(self, scan: Slide, report: FrameReport) -> tuple[bytes | None, ...]:
        with self._lock:
            count = min(len(report.cells), self._left)
            self._left -= count
        taken = [jpeg(draw_thumbnail(scan, cell)) for cell in report.cells[:count]]
        return (*taken, *[None] * (len(report.cells) - count))

    def _explanations(self, scan: Slide, report: FrameReport) -> dict[int, WhyCalled]:
        if self._explain is None or report.parameters is None:
            return {}
        scores = {place: cell.prediction.score for place, cell in enumerate(report.cells) if cell.prediction and cell.label}
        chosen = sorted(scores, key=lambda place: -(scores[place] or 0.0))[: self._most_explained]
        found = {}
        for place in chosen:
            image = cut_from(scan, report.cells[place].found, report.parameters, self._spec)
            try:
                heat = around_cell(draw_heat(self._explain(image)))
                alike = self._nearest(image) if self._nearest else ()
            except UsageError:  # the cell is refused when it is cut out by itself: there is no call to explain
                continue
            shown = jpeg(cv2.resize(heat, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.uint8))
            found[place] = WhyCalled(shown, tuple((one, _labelled(one)) for one in alike))
        return found


def _labelled(neighbour: Neighbour) -> bytes | None:
    return None if neighbour.cell.image is None else jpeg(draw_labelled(neighbour))


def draw_thumbnail(scan: Slide, cell: FrameCell) -> NDArray[np.uint8]:
    """`cell` in the middle of what is around it, (THUMB_PX, THUMB_PX, 3), its outline drawn in."""
    return draw_around(scan, cell.box, [cell])


def draw_around(
    scan: Slide, box: Box, cells: Sequence[FrameCell], labels: Sequence[tuple[Box, ClassName]] = ()
) -> NDArray[np.uint8]:
    """`box` in the middle of what is around it, (THUMB_PX, THUMB_PX, 3), with the outlines of `cells` and labelled boxes."""
    x0, y0, x1, y1 = box
    side = thumbnail_side(box)
    left, top = (x0 + x1 - side) // 2, (y0 + y1 - side) // 2
    inside = (max(left, 0), max(top, 0), min(left + side, scan.width), min(top + side, scan.height))
    patch = np.full((side, side, 3), WHITE, np.uint8)
    patch[inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left] = read_region(scan, inside)
    scale = THUMB_PX / side
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    thumb = np.asarray(cv2.resize(patch, (THUMB_PX, THUMB_PX), interpolation=how), np.uint8)
    for labelled, label in labels:
        draw_box_lines(thumb, labelled, label, scale=scale, corner=(left, top))
    for cell in cells:
        draw_cell_lines(thumb, cell, scale=scale, corner=(left, top), boxed=False)
    return thumb


def thumbnail_side(box: Box) -> int:
    """How many pixels of the frame the thumbnail of a cell's `box` shows, in width and in height."""
    x0, y0, x1, y1 = box
    return max(math.ceil(AROUND * max(x1 - x0, y1 - y0)), 8)


def jpeg(image: Image.Image | NDArray[np.uint8]) -> bytes:
    """The image (H, W, 3) as a JPEG whose thin lines keep their colour."""
    full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    return _encoded(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 85, *full)


def _encoded(image: Image.Image | NDArray[np.uint8], suffix: str, *options: int) -> bytes:
    """By OpenCV, which writes a PNG ten times faster than Pillow."""
    return bytes(cv2.imencode(suffix, np.asarray(image)[..., ::-1], options)[1])


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
