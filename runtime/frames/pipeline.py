"""Examines a frame or slide: estimates its parameters, segments, crops and classifies its cells, in tiles if large."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.frames.cell_crop import cut_cell
from blastscope.runtime.frames.detection.cells import detect_cells, red_cells_found
from blastscope.runtime.frames.detection.detector import Detector
from blastscope.runtime.frames.doubts import doubts_about
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.estimation.pixel_size import RedCells
from blastscope.runtime.frames.features import cell_features
from blastscope.runtime.frames.image_pyramid import ImagePyramid, image_pyramid, nearest_odd_factor
from blastscope.runtime.frames.journal import WHOLE, FrameRecord, Journal, TileRecord, in_order
from blastscope.runtime.frames.segmentation.pipeline import COARSEST_UM, reach_px, segment_cells
from blastscope.runtime.frames.segmentation.split_nuclei import MOST_PARTS
from blastscope.runtime.frames.segmentation.stain_map import WORKING_UM
from blastscope.runtime.frames.tiling import Tile, foreground_map, parameters_in, sample, shift_cell, tiles_of
from blastscope.runtime.frames.types import Doubt, FrameCell, FrameParameters, FrameReport, FrameSpecification
from blastscope.runtime.io.concurrency import Allowance, SingleThread, ordered_map
from blastscope.runtime.io.image_decode import NO_MEMORY
from blastscope.runtime.io.printable import printable
from blastscope.runtime.io.slides.metadata import check_pixel_um
from blastscope.runtime.io.slides.slide import ArraySlide, CancellableSlide, Slide, open_content, open_slide, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Box, Prediction, Refusal

WHOLE_PIXELS = 8_000_000  # a frame up to this size is looked at as a whole
TILE_PX = 4096
WORKING_TILE_PX = 2304  # and no more than this at working resolution, which takes the memory
MOST_TILES = 4  # at work at once, some 80 MB each
MOST_PIXELS = MOST_TILES * WHOLE_PIXELS  # of frames that are looked at at once as a whole

Classify = Callable[[Sequence[NDArray[np.uint8]]], list[Prediction]]
FrameCallback = Callable[[Slide, FrameReport], object]
TileCallback = Callable[["TileProgress"], object]
LOG = logging.getLogger(__name__)
BLACK = 24
TOO_MANY = f"where more than {MOST_PARTS} stained parts hang together no cell is looked for: they are taken for noise or tissue"
UNLIT = "most of the frame is black: is the lamp on? images of single cells on black are for 'blastscope classify'"


@dataclass(frozen=True, slots=True)
class TileProgress:
    """A part of a frame that has just been examined: a tile of a scan, or the whole of a smaller frame.

    Attributes
    ----------
    path : Path or None
        The frame's.
    cells : tuple of FrameCell
        What was found in this part, in pixels of the frame.
    done, total : int
        How many parts of the frame are done, and how many it has.
    """

    path: Path | None
    cells: tuple[FrameCell, ...]
    done: int
    total: int


@dataclass(frozen=True)
class _Run:
    """Who hears of the parts of one frame as they are examined, and where they are kept."""

    path: Path | None = None  # of the frame
    on_tile: TileCallback | None = None  # is called with the `TileProgress` of each part
    record: FrameRecord | None = None  # keeps the parts, for a run that is resumed
    done: Iterator[int] = field(default_factory=lambda: count(1))  # numbers the parts that are examined

    def part(self, number: int, total: int, examine: Callable[[], TileRecord]) -> TileRecord:
        """What an earlier run found in this part; else what `examine` finds, which is kept."""
        found = self.record.tile(number) if self.record else None
        if found is None:
            found = examine()
            if self.record:
                self.record.keep_tile(number, found)
        if self.on_tile:
            self.on_tile(TileProgress(self.path, tuple(found.cells), next(self.done), total))
        return found

    def parameters(self, measure: Callable[[], FrameParameters]) -> FrameParameters:
        """What an earlier run measured; else what `measure` does, which is kept."""
        if self.record is None:
            return measure()
        if self.record.parameters is not None:
            return self.record.parameters
        parameters = measure()
        self.record.keep_parameters(parameters)
        return parameters


@dataclass(frozen=True)
class Examiner:
    """Examines frames in one way. Many threads may use it at once. `classify` gives the calls on cells on black.

    Attributes
    ----------
    classify : Classify
        Gives the calls on images of cells on black.
    spec : FrameSpecification
        What is assumed of frames and cells.
    pixel_um : float or None
        Micrometres per pixel, before the specification's and the file's.
    threads : int
        CPU threads.
    validated : bool
        Whether the site has validated this bundle and specification.
    detector : Detector or None
        What finds the cells; None: they are found by their stain.
    whole_pixels : int
        Frames with more pixels are read tile by tile.
    tile_px : int
        Side of a tile, at most.
    crowded : SingleThread
        Takes crowded frames one at a time.
    """

    classify: Classify
    spec: FrameSpecification = field(default_factory=FrameSpecification)
    pixel_um: float | None = None
    threads: int = 1
    validated: bool = False
    detector: Detector | None = None
    whole_pixels: int = WHOLE_PIXELS
    tile_px: int = TILE_PX
    crowded: SingleThread = field(default_factory=lambda: SingleThread("blastscope-crowded"), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises `UsageError` for a scale that no microscope has."""
        if self.pixel_um is not None:
            check_pixel_um(self.pixel_um)

    def examine(
        self, frame: NDArray[np.uint8] | bytes, metadata: Mapping[str, Any] | None = None, *, stated_um: float | None = None
    ) -> FrameReport:
        """The report on one frame in memory.

        Parameters
        ----------
        frame : (H, W, 3) uint8 array in RGB, or bytes
            Pixels, which are neither kept nor written to, or an image file's bytes.
        metadata : mapping, optional
            Comes back in the report.
        stated_um : float, optional
            Micrometres per pixel by the file or layer that an array comes from, which red cells may overrule.

        Returns
        -------
        FrameReport
        """
        stated_um = stated_um or None  # 0 is what programs say where none is set
        if stated_um is not None:
            check_pixel_um(stated_um, "stated_um")
        if isinstance(frame, bytes):
            slide = open_content(frame)
            if isinstance(slide, Refusal):
                return FrameReport((), None, slide, None, self.validated, metadata or {})
            try:
                return self.examine_scan(slide, metadata=metadata)
            finally:
                slide.close()
        return self.examine_scan(ArraySlide(np.ascontiguousarray(frame), stated_um), metadata=metadata)

    def examine_files(
        self,
        paths: Iterable[Path],
        on_frame: FrameCallback | None = None,
        *,
        on_tile: TileCallback | None = None,
        journal: Path | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> Iterator[FrameReport]:
        """The report on each file, in order, several at a time; large ones one at a time.

        Leaving early, with Ctrl-C too, waits for the tiles that are at work, not for their frames.

        Parameters
        ----------
        paths : iterable of Path
            Frames and scans.
        on_frame : callable, optional
            Sees each file with its report while it is open.
        on_tile : callable, optional
            Is told of each part as it is done, in one of several threads.
        journal : Path, optional
            File that keeps what is found; what it holds isn't examined again. It must have been begun with this examiner and
            `origin`.
        origin : mapping of str to str, optional
            What else changes the findings, such as the bundle's digest.

        Yields
        ------
        FrameReport
        """
        made_with = {**(origin or {}), "specification": self.spec.model_dump(), "pixel size": self.pixel_um, **self._tiling}
        kept = Journal(Path(journal), made_with) if journal else None  # what is wrong with it is said now
        return self._reports(paths, on_frame, on_tile, kept)

    @property
    def _tiling(self) -> dict[str, int]:
        return {"tile size": self.tile_px, "size of whole frames": self.whole_pixels}

    def _reports(
        self, paths: Iterable[Path], on_frame: FrameCallback | None, on_tile: TileCallback | None, journal: Journal | None
    ) -> Iterator[FrameReport]:
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
                    report = self._examined(scan, _Run(path, on_tile, journal.frame(path) if journal else None))
                    if on_frame:
                        on_frame(scan, report)
                    return report
            finally:
                scan.close()

        with journal or nullcontext():
            for _, report in ordered_map(examine, paths, workers=self.threads + 1, leave=left.set):
                yield report

    def _examined(self, scan: Slide, run: _Run) -> FrameReport:
        """The report on `scan`. An error of the program costs this frame alone, and not what was found in a thousand others."""
        try:
            return self._report(scan, run)
        except BlastscopeError:
            raise
        except MemoryError:
            return FrameReport((), None, NO_MEMORY, run.path, self.validated)
        except Exception as error:
            LOG.warning("examining '%s' broke off", printable(run.path), exc_info=True)
            return FrameReport((), None, Refusal("failed", f"{type(error).__name__}: {error}"), run.path, self.validated)

    def examine_scan(self, scan: Slide, *, metadata: Mapping[str, Any] | None = None) -> FrameReport:
        """The report on a frame of any size, of which no more is read at once than the tiles in progress."""
        return self._report(scan, _Run(), metadata)

    def _report(self, scan: Slide, run: _Run, metadata: Mapping[str, Any] | None = None) -> FrameReport:
        parameters: FrameParameters | None = None
        refusal: Refusal | None = None
        found: list[TileRecord] = []
        cells: list[FrameCell] = []
        notes, doubts = scan.notes, list[Doubt]()
        try:
            if scan.width * scan.height == 0:
                raise ReadError(Refusal("empty", f"the frame has no pixels: {scan.width} x {scan.height}"))
            if scan.width * scan.height > self.whole_pixels:
                parameters = run.parameters(lambda: self._estimated_on_windows(scan))
                found = self._tiles(scan, parameters, run)
            else:
                parameters, whole, unlit = self._whole(scan, run)
                found, notes = [whole], notes + ((UNLIT,) if unlit else ())
            cells = in_order([cell for part in found for cell in part.cells])
            doubts += doubts_about(scan, parameters, cells, self.whole_pixels)
        except ReadError as unreadable:
            refusal, notes = unreadable.refusal, ()  # they tell what was made of pixels that can't be read
        notes += (
            *(doubt.detail for doubt in doubts),
            *_too_coarse(parameters),
            *([TOO_MANY] if any(part.crowded for part in found) else []),
        )
        return FrameReport(
            cells=tuple(cells),
            parameters=parameters,
            refusal=refusal,
            path=run.path,
            metadata=metadata or {},
            size=(scan.width, scan.height),
            validated=self.validated,
            notes=notes,
            doubts=tuple(doubts),
        )

    def _whole(self, scan: Slide, run: _Run) -> tuple[FrameParameters, TileRecord, bool]:
        """The parameters of a frame that is looked at as a whole, what is found in it, and whether it is black instead."""
        whole = 0, 0, scan.width, scan.height
        pictures = image_pyramid(read_region(scan, whole), self.threads)
        parameters = run.parameters(lambda: self._estimated(pictures, scan))
        found = run.part(WHOLE, 1, lambda: self._cells_of(pictures, parameters, Tile(whole, whole)))
        return parameters, found, not found.cells and _mostly_black(pictures.frame)

    def _estimated(self, pictures: ImagePyramid, scan: Slide) -> FrameParameters:
        detector, given_um, stated_um = self.detector, self.pixel_um or self.spec.pixel_um, scan.pixel_um

        def measure(pictures: ImagePyramid, content: Box) -> RedCells | None:
            assert detector is not None
            guess_um = given_um or stated_um
            return red_cells_found(detector, pictures, content, guess_um=guess_um, red_cell_um=self.spec.red_cell_um)

        return estimate_frame_parameters(
            pictures, self.spec, pixel_um=given_um, stated_um=stated_um, measure=measure if detector else None
        )

    def _estimated_on_windows(self, scan: Slide) -> FrameParameters:
        """What holds for the whole of a large `scan`, measured on windows that show something."""
        windows = image_pyramid(sample(scan), self.threads)
        parameters = self._estimated(windows, scan)
        if windows.frame.shape[:2] == (scan.height, scan.width):
            return parameters
        whole = 0, 0, scan.width, scan.height  # windows side by side don't tell where something begins
        return replace(parameters, content=whole, extent=whole)

    def _tiles(self, scan: Slide, parameters: FrameParameters, run: _Run) -> list[TileRecord]:
        """What is found in a large `scan`, tile by tile."""
        margin = math.ceil(self.detector.margin_um / parameters.pixel_um) if self.detector else reach_px(parameters)
        side = min(self.tile_px, WORKING_TILE_PX * nearest_odd_factor(WORKING_UM / parameters.pixel_um))
        tiles = list(tiles_of(scan.width, scan.height, side_px=side, margin_px=margin))
        workers, foreground = min(self.threads, MOST_TILES, len(tiles)), foreground_map(scan, parameters)

        def found_in(numbered: tuple[int, Tile]) -> TileRecord:
            number, tile = numbered
            shown = foreground.cropped(tile, margin) if foreground else tile
            return run.part(number, len(tiles), lambda: self._tile(scan, parameters, shown, workers))

        return [part for _, part in ordered_map(found_in, enumerate(tiles), workers=workers)]

    def _tile(self, scan: Slide, parameters: FrameParameters, tile: Tile | None, workers: int) -> TileRecord:
        if tile is None or scan.blank(tile.region):
            return TileRecord([], crowded=False)
        pictures = image_pyramid(read_region(scan, tile.region), self.threads // workers)
        return self._cells_of(pictures, parameters, tile)

    def _cells_of(self, pictures: ImagePyramid, parameters: FrameParameters, tile: Tile) -> TileRecord:
        """The cells that `tile`, of which these are the pictures, owns; all classified in one batch."""
        here, skipped = parameters_in(parameters, tile), list[Box]()
        if self.detector:
            found = detect_cells(self.detector, pictures, here, core=tile.core_in_region)
        else:
            found = segment_cells(pictures, here, self.spec, crowded=self.crowded, skipped=skipped, core=tile.core_in_region)
        called = [cell for cell in found if cell.refusal is None]
        wanted = [cut_cell(pictures.frame, cell, parameters, self.spec) for cell in called]
        calls = iter(self.classify(wanted) if wanted else [])
        looks = map(cell_features, wanted)
        moved = [shift_cell(cell, tile) for cell in found]
        cells = [FrameCell(cell, None) if cell.refusal else FrameCell(cell, next(calls), next(looks)) for cell in moved]
        return TileRecord(cells, crowded=bool(skipped))


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


def _too_coarse(parameters: FrameParameters | None) -> Iterator[str]:
    if parameters and parameters.pixel_um > COARSEST_UM:
        yield f"at {parameters.pixel_um:.4g} micrometres a pixel a nucleus can't be told from dirt: no cell is looked for"


def _opened(path: Path) -> Slide | Refusal:
    try:
        return open_slide(path)
    except MemoryError:
        return NO_MEMORY


def _mostly_black(frame: NDArray[np.uint8]) -> bool:
    dark = cv2.inRange(frame, (0, 0, 0), (BLACK, BLACK, BLACK))
    return 2 * cv2.countNonZero(dark) > dark.size
