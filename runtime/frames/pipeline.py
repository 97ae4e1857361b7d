"""Examines a frame or slide: estimates its parameters, segments, crops and classifies its cells, in tiles if large."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import BlastscopeError, UsageError
from blastscope.runtime.frames.cell_crop import cut_cell
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.features import cell_features
from blastscope.runtime.frames.image_pyramid import ImagePyramid, image_pyramid
from blastscope.runtime.frames.segmentation.pipeline import COARSEST_UM, reach_px, segment_cells
from blastscope.runtime.frames.segmentation.split_nuclei import MOST_PARTS
from blastscope.runtime.frames.tiling import Tile, facts_in, shift_cell, tiles_of
from blastscope.runtime.frames.types import FrameCell, FrameParameters, FrameReport, FrameSpecification
from blastscope.runtime.io.concurrency import Allowance, SingleThread, ordered_map
from blastscope.runtime.io.image_decode import NO_MEMORY
from blastscope.runtime.io.printable import printable
from blastscope.runtime.io.slides.pixel_size_metadata import LEAST_UM, MOST_UM
from blastscope.runtime.io.slides.slide import (
    ArraySlide,
    CancellableSlide,
    Slide,
    open_content,
    open_slide,
    read_overview,
    read_region,
)
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Box, Prediction, Refusal

WHOLE_PIXELS = 8_000_000  # a frame up to this size is looked at as a whole
TILE_PX = 2048
MOST_TILES = 4  # at work at once, some 50 MB each
MOST_PIXELS = MOST_TILES * WHOLE_PIXELS  # of frames that are looked at at once as a whole
WINDOW_PX, WINDOWS, GRID = 1024, 8, 6  # a scan is surveyed on so many windows, chosen from a grid of GRID x GRID

Classify = Callable[[Sequence[NDArray[np.uint8]]], list[Prediction]]
Look = Callable[[Slide, FrameReport], object]
LOG = logging.getLogger(__name__)
BLACK = 24
TOO_MANY = f"where more than {MOST_PARTS} stained parts hang together no cell is looked for: they are taken for noise or tissue"
UNLIT = "most of the frame is black: is the lamp on? images of single cells on black are for 'blastscope classify'"


@dataclass(frozen=True)
class Examiner:
    """Examines frames in one way. Many threads may use it at once. `classify` gives the calls on cells on black."""

    classify: Classify
    spec: FrameSpecification = field(default_factory=FrameSpecification)
    pixel_um: float | None = None  # the caller's word on the scale, before the specification's and the file's
    threads: int = 1
    validated: bool = False  # by the site, with this bundle and specification
    whole_pixels: int = WHOLE_PIXELS
    tile_px: int = TILE_PX
    crowded: SingleThread = field(default_factory=lambda: SingleThread("blastscope-crowded"), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises `UsageError` for a scale that no microscope has."""
        if self.pixel_um is not None and not LEAST_UM < self.pixel_um < MOST_UM:
            raise UsageError(f"pixel_um is {self.pixel_um}: micrometres per pixel must lie between {LEAST_UM} and {MOST_UM}")

    def examine(
        self, frame: NDArray[np.uint8] | bytes, metadata: Mapping[str, Any] | None = None, *, stated_um: float | None = None
    ) -> FrameReport:
        """The report on a frame in memory: an array (H, W, 3) uint8 RGB, neither kept nor written to, or an image file's bytes.

        `stated_um` is the scale by the file or layer that an array comes from, which red cells may overrule.
        """
        if isinstance(frame, bytes):
            slide = open_content(frame)
            if isinstance(slide, Refusal):
                return FrameReport((), None, slide, None, self.validated, metadata or {})
            try:
                return self.examine_scan(slide, metadata=metadata)
            finally:
                slide.close()
        return self.examine_scan(ArraySlide(np.ascontiguousarray(frame), stated_um), metadata=metadata)

    def examine_files(self, paths: Iterable[Path], look: Look | None = None) -> Iterator[FrameReport]:
        """The report on each file, in order, several at a time; large ones one at a time. `look` sees each while it is open.

        Leaving early, with Ctrl-C too, waits for the tiles that are at work, not for their frames.
        """
        alone = threading.Lock()  # whoever holds it may fill the memory with one large frame
        room = Allowance(MOST_PIXELS)  # of the others
        left = threading.Event()

        def examine(path: Path) -> FrameReport:
            opened = _opened(path)
            if isinstance(opened, Refusal):
                return FrameReport((), None, opened, path, self.validated)
            scan = CancellableSlide(opened, left)
            try:
                pixels = scan.width * scan.height
                with alone if pixels > self.whole_pixels else room.taken(pixels):
                    report = self._examined(scan, path)
                    if look:
                        look(scan, report)
                    return report
            finally:
                scan.close()

        return (report for _, report in ordered_map(examine, paths, workers=self.threads + 1, leave=left.set))

    def _examined(self, scan: Slide, path: Path) -> FrameReport:
        """The report on `scan`. An error of the program costs this frame alone, and not what was found in a thousand others."""
        try:
            return self.examine_scan(scan, path=path)
        except BlastscopeError:
            raise
        except MemoryError:
            return FrameReport((), None, NO_MEMORY, path, self.validated)
        except Exception as error:
            LOG.warning("examining '%s' broke off", printable(path), exc_info=True)
            return FrameReport((), None, Refusal("failed", f"{type(error).__name__}: {error}"), path, self.validated)

    def examine_scan(self, scan: Slide, *, path: Path | None = None, metadata: Mapping[str, Any] | None = None) -> FrameReport:
        """The report on a frame of any size, of which no more is read at once than the tiles that are at work."""
        facts: FrameParameters | None = None
        refusal: Refusal | None = None
        cells: list[FrameCell] = []
        skipped: list[Box] = []
        notes = scan.notes
        try:
            if scan.width * scan.height == 0:
                raise ReadError(Refusal("empty", f"the frame has no pixels: {scan.width} x {scan.height}"))
            if scan.width * scan.height > self.whole_pixels:
                facts = self._surveyed(scan)
                cells = self._cells(scan, facts, skipped)
            else:
                whole = 0, 0, scan.width, scan.height
                pictures = image_pyramid(read_region(scan, whole), self.threads)
                facts = self._estimated(pictures, scan)
                cells = self._cells_of(pictures, facts, Tile(whole, whole), skipped)
                if not cells and _mostly_black(pictures.frame):
                    notes += (UNLIT,)
        except ReadError as unreadable:
            refusal = unreadable.refusal
        notes += (*_scale_notes(facts), *([TOO_MANY] if skipped else []))
        return FrameReport(
            cells=tuple(cells),
            facts=facts,
            refusal=refusal,
            path=path,
            metadata=metadata or {},
            size=(scan.width, scan.height),
            validated=self.validated,
            notes=notes,
        )

    def _estimated(self, pictures: ImagePyramid, scan: Slide) -> FrameParameters:
        return estimate_frame_parameters(pictures, self.spec, pixel_um=self.pixel_um, stated_um=scan.pixel_um)

    def _surveyed(self, scan: Slide) -> FrameParameters:
        """What holds for the whole of a large `scan`, measured on windows that show something."""
        windows = image_pyramid(sample(scan), self.threads)
        facts = self._estimated(windows, scan)
        if windows.frame.shape[:2] == (scan.height, scan.width):
            return facts
        whole = 0, 0, scan.width, scan.height  # windows side by side don't tell where something begins
        return replace(facts, content=whole, extent=whole)

    def _cells(self, scan: Slide, facts: FrameParameters, skipped: list[Box]) -> list[FrameCell]:
        """The cells of a large `scan`, in tiles."""
        tiles = list(tiles_of(scan.width, scan.height, side_px=self.tile_px, margin_px=reach_px(facts, self.spec)))
        workers = min(self.threads, MOST_TILES, len(tiles))

        def cells_of(tile: Tile) -> list[FrameCell]:
            if scan.blank(tile.region):
                return []
            pictures = image_pyramid(read_region(scan, tile.region), self.threads // workers)
            return self._cells_of(pictures, facts, tile, skipped)

        parts = (part for _, part in ordered_map(cells_of, tiles, workers=workers))
        return sorted((cell for part in parts for cell in part), key=lambda cell: (cell.box[1], cell.box[0], cell.box))

    def _cells_of(self, pictures: ImagePyramid, facts: FrameParameters, tile: Tile, skipped: list[Box]) -> list[FrameCell]:
        """The cells that `tile`, of which these are the pictures, owns; all classified in one batch."""
        found = segment_cells(pictures, facts_in(facts, tile), self.spec, crowded=self.crowded, skipped=skipped)
        pairs = [(cell, shift_cell(cell, tile)) for cell in found]
        own = [(here, cell) for here, cell in pairs if tile.owns(cell.box)]
        called = [here for here, _ in own if here.refusal is None]
        wanted = [cut_cell(pictures.frame, cell, facts, self.spec) for cell in called]
        calls = iter(self.classify(wanted) if wanted else [])
        looks = map(cell_features, wanted)
        return [FrameCell(cell, None) if cell.refusal else FrameCell(cell, next(calls), next(looks)) for _, cell in own]


def call_pictures(
    reports: Iterable[FrameReport], refused: Callable[[Refusal], Prediction]
) -> Iterator[tuple[Path, Prediction]]:
    """Of each report on a file its path, and the call on the cell nearest to the middle; without one, the refusal of why."""
    for report in reports:
        assert report.path is not None
        cell = report.middle_cell
        if cell is not None and cell.prediction is not None:
            yield report.path, cell.prediction
        else:
            refusal = report.refusal or (cell.refusal if cell else None)
            yield report.path, refused(refusal or Refusal("empty", "no white cell was found in the picture"))


def _scale_notes(facts: FrameParameters | None) -> Iterator[str]:
    if facts and facts.scale_note:
        yield facts.scale_note
    if facts and facts.pixel_um > COARSEST_UM:
        yield f"at {facts.pixel_um:.4g} micrometres a pixel a nucleus can't be told from dirt: no cell is looked for"


def _opened(path: Path) -> Slide | Refusal:
    try:
        return open_slide(path)
    except MemoryError:
        return NO_MEMORY


def _mostly_black(frame: NDArray[np.uint8]) -> bool:
    dark = cv2.inRange(frame, (0, 0, 0), (BLACK, BLACK, BLACK))
    return 2 * cv2.countNonZero(dark) > dark.size


def sample(scan: Slide) -> NDArray[np.uint8]:
    """Windows of a large `scan` side by side, of the range from sparse to crowded."""
    boxes = [box for box in _grid(scan.width, scan.height) if not scan.blank(box)] or _grid(scan.width, scan.height)[:1]
    shown = _content(scan, boxes)
    busy = [
        box for box, content in sorted(zip(boxes, shown, strict=True), key=lambda pair: pair[1]) if content >= max(shown) / 4
    ]
    taken = [busy[index * (len(busy) - 1) // max(WINDOWS - 1, 1)] for index in range(WINDOWS)]
    windows = [read_region(scan, box) for box in dict.fromkeys(taken)]
    return np.concatenate(windows, axis=1 if windows[0].shape[0] >= windows[0].shape[1] else 0)


def _grid(width: int, height: int) -> list[Box]:
    across, down = min(WINDOW_PX, width), min(WINDOW_PX, height)
    columns = sorted({(width - across) * step // (GRID - 1) for step in range(GRID)})
    rows = sorted({(height - down) * step // (GRID - 1) for step in range(GRID)})
    return [(x, y, x + across, y + down) for y in rows for x in columns]


def _content(scan: Slide, boxes: Sequence[Box]) -> list[float]:
    """How much each of `boxes` shows: the spread of its green, which all blood stains darken."""
    if not scan.reduced:
        return [float(read_region(scan, box)[::2, ::2, 1].std()) for box in boxes]
    small = read_overview(scan, WINDOW_PX)
    scale = small.shape[1] / scan.width
    parts = (small[int(y0 * scale) : int(y1 * scale) + 1, int(x0 * scale) : int(x1 * scale) + 1, 1] for x0, y0, x1, y1 in boxes)
    return [float(part.std()) for part in parts]
