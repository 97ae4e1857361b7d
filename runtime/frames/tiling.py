"""Large frames: tiles, each with the cells whose centre it holds, and the windows that are examined before them.

`sample` chooses windows that tell scale and stain; `foreground_map` finds where there is only background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import FrameParameters, SegmentedCell
from blastscope.runtime.io.slides.slide import Readable, Slide, read_overview, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Box

WINDOW_PX, WINDOWS, GRID = 1024, 8, 6  # a scan is surveyed on so many windows, chosen from a grid of GRID x GRID

# Pixels of a smaller copy in which the palest nucleus that can be found still differs from background: it covers most of one.
COARSEST_FOREGROUND_UM = 1.5
NOT_BACKGROUND = 8  # levels darker than background in any channel; the noise of single pixels is averaged out of a smaller copy
BLOCK = 16  # pixels of the smaller copy along one block of the map
BAND_PIXELS = 16_000_000  # of the smaller copy that are read at once
STRIPE = 3  # tiles across: what two of them share, beside and below each other, is then still at hand, decoded, for the second


class Tile(NamedTuple):
    """What is looked at for the cells of one part of a frame.

    Attributes
    ----------
    core : (x0, y0, x1, y1)
        Whose cells it gives. The cores of all tiles cover the frame once.
    region : (x0, y0, x1, y1)
        The core, and all around it that may change what is found in it.
    """

    core: Box
    region: Box

    @property
    def core_in_region(self) -> Box:
        """The core in pixels of the region."""
        (left, top), (x0, y0, x1, y1) = self.region[:2], self.core
        return x0 - left, y0 - top, x1 - left, y1 - top


def owns(core: Box, box: Box) -> bool:
    """Whether the centre of `box` is in `core`; a centre on an edge belongs to the right or lower tile."""
    x0, y0, x1, y1 = core  # twice the centre is a whole number: no rounding decides
    return 2 * x0 <= box[0] + box[2] < 2 * x1 and 2 * y0 <= box[1] + box[3] < 2 * y1


def tiles_of(width: int, height: int, *, side_px: int, margin_px: int) -> Iterator[Tile]:
    """The tiles of a frame, in stripes of some tiles across, from the top to the bottom of each.

    Parameters
    ----------
    width, height : int
        Of the frame, in pixels.
    side_px : int
        Side of a tile's core.
    margin_px : int
        How far a tile's region goes beyond its core. A cell that is no longer than this lies whole in its tile's region.

    Yields
    ------
    Tile
    """
    stripe = STRIPE * side_px
    corners = (
        (left, top)
        for first in range(0, width, stripe)
        for top in range(0, height, side_px)
        for left in range(first, min(first + stripe, width), side_px)
    )
    for left, top in corners:
        right, bottom = min(left + side_px, width), min(top + side_px, height)
        yield Tile((left, top, right, bottom), _grown((left, top, right, bottom), margin_px, (0, 0, width, height)))


def _grown(box: Box, margin: int, within: Box) -> Box:
    return (
        max(box[0] - margin, within[0]),
        max(box[1] - margin, within[1]),
        min(box[2] + margin, within[2]),
        min(box[3] + margin, within[3]),
    )


def parameters_in(parameters: FrameParameters, tile: Tile) -> FrameParameters:
    """The parameters of the whole frame, as they hold for the pixels of the region of `tile`."""
    left, top, _, _ = tile.region

    def moved_box(box: Box) -> Box:
        return box[0] - left, box[1] - top, box[2] - left, box[3] - top

    return replace(parameters, content=moved_box(parameters.content), extent=moved_box(parameters.extent))


def shift_cell(cell: SegmentedCell, tile: Tile) -> SegmentedCell:
    """`cell`, found in the region of `tile`, in pixels of the whole frame."""
    left, top, _, _ = tile.region
    x0, y0, x1, y1 = cell.box
    box, contour = (x0 + left, y0 + top, x1 + left, y1 + top), cell.contour + np.array((left, top), np.int32)
    return replace(cell, box=box, contour=contour, core=replace(cell.core, corner=(left, top)))


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
        greens = (np.ascontiguousarray(read_region(scan, box)[::2, ::2, 1]) for box in boxes)
        return [float(cv2.meanStdDev(green)[1][0, 0]) for green in greens]  # in a fifth of numpy's time
    small = read_overview(scan, WINDOW_PX)
    scale = small.shape[1] / scan.width
    parts = (small[int(y0 * scale) : int(y1 * scale) + 1, int(x0 * scale) : int(x1 * scale) + 1, 1] for x0, y0, x1, y1 in boxes)
    return [float(part.std()) for part in parts]


@dataclass(frozen=True, slots=True, eq=False)
class ForegroundMap:
    """Where a scan shows anything but empty background, in blocks.

    Attributes
    ----------
    shown : (rows, columns) uint8 array
        1 where a block, or one beside it, shows something.
    across, down : float
        Pixels of the scan along one block.
    """

    shown: NDArray[np.uint8]
    across: float
    down: float

    def content(self, box: Box) -> Box | None:
        """The box of all foreground in `box`, in pixels of the scan; None where there is none."""
        rows, columns = self.shown.shape
        left, top = int(box[0] / self.across), int(box[1] / self.down)
        right, bottom = (min(int((side - 1) / step) + 1, most) for side, step, most in self._ends(box, columns, rows))
        x, y, width, height = cv2.boundingRect(self.shown[top:bottom, left:right])
        if not width:
            return None
        return (
            max(int((left + x) * self.across), box[0]),
            max(int((top + y) * self.down), box[1]),
            min(int((left + x + width) * self.across) + 1, box[2]),
            min(int((top + y + height) * self.down) + 1, box[3]),
        )

    def _ends(self, box: Box, columns: int, rows: int) -> tuple[tuple[int, float, int], tuple[int, float, int]]:
        return (box[2], self.across, columns), (box[3], self.down, rows)

    def cropped(self, tile: Tile, margin_px: int) -> Tile | None:
        """`tile` with its region reduced to the foreground and `margin_px` around it; None where its core holds none."""
        content = self.content(tile.region)
        return tile._replace(region=_grown(content, margin_px, tile.region)) if content and self.content(tile.core) else None


def foreground_map(scan: Slide, parameters: FrameParameters) -> ForegroundMap | None:
    """Where `scan` shows anything but background, by the smallest of its copies in which nuclei still show.

    None where it has no such copy, or a damaged one.
    """
    fine = [level for level in scan.reduced if parameters.pixel_um * scan.width / level.width <= COARSEST_FOREGROUND_UM]
    if not fine:
        return None
    level = min(fine, key=lambda one: one.width)
    try:
        shown = _shown_blocks(level, parameters)
    except ReadError:  # the pixels that count may be whole
        return None
    beside = np.asarray(cv2.dilate(shown, np.ones((3, 3), np.uint8)), np.uint8)  # copies may lie a pixel off
    return ForegroundMap(beside, BLOCK * scan.width / level.width, BLOCK * scan.height / level.height)


def _shown_blocks(level: Readable, parameters: FrameParameters) -> NDArray[np.uint8]:
    """(rows, columns) 1 for each block of `level` that shows something. What is brighter than background is no stain."""
    red, green, blue = (max(level - NOT_BACKGROUND, 0.0) for level in parameters.background)
    rows, columns = -(-level.height // BLOCK), -(-level.width // BLOCK)
    shown = np.empty((rows, columns), np.uint8)
    step = max(BAND_PIXELS // level.width // BLOCK, 1)
    for top in range(0, rows, step):
        bottom = min(top + step, rows)
        band = read_region(level, (0, top * BLOCK, level.width, min(bottom * BLOCK, level.height)))
        background = cv2.inRange(band, (red, green, blue), (255.0, 255.0, 255.0))
        beyond = (bottom - top) * BLOCK - background.shape[0], columns * BLOCK - background.shape[1]
        whole = cv2.copyMakeBorder(background, 0, beyond[0], 0, beyond[1], cv2.BORDER_CONSTANT, value=(255,))
        # means over whole squares: 255 only where all of it is background
        means = cv2.resize(whole, (columns, bottom - top), interpolation=cv2.INTER_AREA)
        shown[top:bottom] = means < 255
    return shown
