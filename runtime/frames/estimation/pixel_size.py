"""Pixel size from the diameter of red cells, by a circular Hough transform.

Each edge pixel votes for the point one radius inwards, towards the darker side. At the right radius the votes of a disc's
rim meet in its middle, whether or not other cells hide half of the rim; pale middles vote outwards, and for nothing.
Reduced pictures keep the radius at 5 pixels or more, so that every scale is measured alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import ImagePyramid
from blastscope.runtime.types import Box

LEVELS = ((1, 9.9, 32.0), (3, 32.0, 68.0), (5, 68.0, 125.0), (9, 125.0, 400.0))  # factor, and diameters in px, from and to
STEPS = 6  # diameters in an octave
STEP = 2 ** (1 / STEPS)
WIDEST = 255  # a reduced picture's side: of a larger frame the middle tells
# The votes meet best a little inside of the rim. Over BCCD's training frames, at 0.2 to 2.4 of their size, the diameter
# found is 0.85 of the mean side of the boxes drawn around red cells.
FOUND_SHARE = 0.85
LEAST_FIT = 0.6  # a coarser level makes votes meet up to this much better
FADED = 0.4  # where so few edges are left at the next coarser level, they were noise: a cell's are seen there too
FEWEST = 0.3  # whole circles (a half circle counts as an eighth) that must meet before they count

Level = tuple[int, float, float]
FAINTEST = 5  # the gradient of an edge, gray levels a pixel where background is not dimmer than DIM_BACKGROUND
DIM_BACKGROUND = 100
BLUR = 0.15  # of votes, in radii: red cells aren't round
Avoid = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


class RedCells(NamedTuple):
    """The usual diameter of a frame's red cells, and how many whole circles show it.

    Attributes
    ----------
    diameter_px : float
        Diameter in pixels of the frame.
    circles : float
        Whole circles that show it.
    """

    diameter_px: float
    circles: float


def measure_red_cells(pictures: ImagePyramid, box: Box, avoid: Avoid, background: int) -> RedCells | None:
    """The red cells in a part of a frame.

    Parameters
    ----------
    pictures : ImagePyramid
        The frame.
    box : (x0, y0, x1, y1)
        The part, in pixels of the frame.
    avoid : callable
        Takes a reduced picture (h, w, 3), and tells which of its pixels show no red cell's rim: (h, w) bool.
    background : int
        Gray level of the background, 0 to 255.

    Returns
    -------
    RedCells or None
        None without enough of them.
    """
    search = _Search(pictures, box, avoid, background)
    # the finest level costs most, and few frames need it
    found = search.peak(LEVELS[1:])
    if found is None or found.diameter_px * FOUND_SHARE <= LEVELS[1][1] * 1.2:
        found = search.peak(LEVELS) or found
    return found


@dataclass(frozen=True, eq=False)
class _Diameter:
    """A diameter at which red cells are looked for. Votes are counted when they are asked for, since not all are needed.

    Attributes
    ----------
    edges : Edges
        Of the frame, downsampled.
    factor : int
        By which it was.
    diameter : float
        In pixels of the frame.
    fit : float
        What a height is multiplied by, so that it compares with those of the first level.
    """

    edges: Edges
    factor: int
    diameter: float
    fit: float = 1.0

    @cached_property
    def height(self) -> float:
        """How strongly the votes meet, as the first level would see it."""
        return self._meeting * self.fit

    @cached_property
    def circles(self) -> float:
        """How many whole circles meet."""
        return self._meeting * self.edges.shape[0] * self.edges.shape[1] * 6 * self.factor / math.pi / self.diameter

    @cached_property
    def _meeting(self) -> float:
        return hough_accumulator(self.edges, self.diameter / 2 / self.factor)


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Where red cells are looked for.

    Attributes
    ----------
    pictures : ImagePyramid
        The frame, downsampled.
    box : Box
        The part of the frame.
    avoid : Avoid
        Where no votes are taken from.
    background : int
        Level of the background.
    _seen : dict of int to Edges or None
        The edges by factor, once they were computed.
    """

    pictures: ImagePyramid
    box: Box
    avoid: Avoid
    background: int
    _seen: dict[int, Edges | None] = field(default_factory=dict)

    def peak(self, levels: tuple[Level, ...]) -> RedCells | None:
        """The red cells where votes meet best, of all that these levels cover; None where no neighbour is lower."""
        row = self._row(levels)
        top = _summit(row)
        if not 0 < top < len(row) - 1 or row[top].circles < FEWEST:
            return None
        left, middle, right = (row[place].height for place in (top - 1, top, top + 1))
        bend = left - 2 * middle + right
        diameter = row[top].diameter * 2 ** (0.5 * (left - right) / bend / STEPS if bend < 0 else 0.0) / FOUND_SHARE
        return RedCells(diameter, row[top].circles)

    def _row(self, levels: tuple[Level, ...]) -> list[_Diameter]:
        """The diameters of all levels that show something. Each level is fitted to the last one where that one ends."""
        row: list[_Diameter] = []
        for (factor, low, end), edges in self._shown(levels):
            diameter, fit = low, 1.0
            if row:
                height = _Diameter(edges, factor, row[-1].diameter).height
                diameter, fit = row[-1].diameter * STEP, row[-1].height / height if height > 0 else 1.0
            while diameter < end:
                row.append(_Diameter(edges, factor, diameter, min(max(fit, LEAST_FIT), 1.0)))
                diameter *= STEP
        return row

    def _shown(self, levels: tuple[Level, ...]) -> list[tuple[Level, Edges]]:
        """The levels that show more than noise, with their edges."""
        shown: list[tuple[Level, Edges]] = []
        for level in levels:
            edges = self._edges(level[0])
            if edges is None:
                break
            if shown and edges.share < FADED * shown[-1][1].share:
                shown.pop()
            shown.append((level, edges))
        return shown

    def _edges(self, factor: int) -> Edges | None:
        if factor not in self._seen:
            picture = self.pictures.within(_middle(self.box, WIDEST * factor), factor)
            self._seen[factor] = edges_of(picture, self.avoid, self.background)
        return self._seen[factor]


def _summit(row: list[_Diameter]) -> int:
    """The place of the highest.

    Heights change little from one diameter to the next, so every second one is looked at, and then what is beside the highest.
    Over BCCD's training frames in some fifty stains, cameras and sizes it was never another one.
    """
    top = max(range(0, len(row), 2), key=lambda place: row[place].height, default=0)
    while True:
        near = range(max(top - 1, 0), min(top + 2, len(row)))
        higher = max(near, key=lambda place: row[place].height, default=top)
        if higher == top or row[higher].height <= row[top].height:
            return top
        top = higher


def _middle(box: Box, widest: int) -> Box:
    """The middle of `box`, at most about `widest` across; as symmetric as the box."""
    spare_x, spare_y = max(box[2] - box[0] - widest, 0) // 2, max(box[3] - box[1] - widest, 0) // 2
    return box[0] + spare_x, box[1] + spare_y, box[2] - spare_x, box[3] - spare_y


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """The edge pixels of a reduced picture with their inward unit normals.

    Attributes
    ----------
    columns, rows : (K,) int64 array
        Where the K pixels lie.
    right, down : (K,) float32 array
        The normals, which point to the darker side.
    shape : (int, int)
        Rows and columns of the picture.
    """

    columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    right: NDArray[np.float32]
    down: NDArray[np.float32]
    shape: tuple[int, int]

    @property
    def share(self) -> float:
        """The share of all pixels."""
        return len(self.rows) / (self.shape[0] * self.shape[1])


def edges_of(picture: NDArray[np.uint8], avoid: Avoid, background: int = 255) -> Edges | None:
    """The edges that `picture` (h, w, 3) shows where `avoid` lets it; None of one that is too small.

    `background` is its gray level: in a dim frame the same edge is fainter.
    """
    height, width = picture.shape[:2]
    if min(height, width) < 16:
        return None
    gain = 0.5 * max(DIM_BACKGROUND / max(background, 1), 1.0)
    gray = cv2.transform(picture, np.asarray([[0, gain, gain]], np.float32))  # red cells hardly show in red
    smooth = cv2.GaussianBlur(gray, (3, 3), 0)
    # floats hold these whole numbers exactly
    across, down = (np.asarray(cv2.Sobel(smooth, cv2.CV_32F, *way), np.float32) for way in ((1, 0), (0, 1)))
    steep = across * across + down * down
    middle = steep[1:-1, 1:-1]
    wide, high = np.abs(across[1:-1, 1:-1]), np.abs(down[1:-1, 1:-1])
    ridge = (wide >= high) & (middle >= steep[1:-1, :-2]) & (middle >= steep[1:-1, 2:])
    ridge |= (wide <= high) & (middle >= steep[:-2, 1:-1]) & (middle >= steep[2:, 1:-1])
    ridge &= middle > (8 * FAINTEST // 2) ** 2
    ridge &= ~avoid(picture)[1:-1, 1:-1]
    rows, columns = np.divmod(np.flatnonzero(ridge), width - 2)
    at = (rows + 1) * width + columns + 1
    length = np.sqrt(steep.ravel()[at])
    return Edges(columns + 1, rows + 1, -across.ravel()[at] / length, -down.ravel()[at] / length, (height, width))


def hough_accumulator(edges: Edges, radius: float) -> float:
    """How strongly the votes at this radius meet: the sum of cubes of the share of a whole circle that meets in a point."""
    height, width = edges.shape
    margin = math.ceil(radius)  # so that no vote falls outside
    stride = width + 2 * margin
    # rounded away from the edge pixel, so that turned edges vote for turned points
    right, below = (np.rint(way * np.float32(radius)) for way in (edges.right, edges.down))
    places = edges.rows * stride + edges.columns + (below * np.float32(stride) + right).astype(np.int64)
    counts = np.bincount(places + margin * (stride + 1), minlength=(height + 2 * margin) * stride)
    inside = counts.reshape(-1, stride)[margin : margin + height, margin : margin + width]
    spread = BLUR * radius
    taps = 2 * round(3 * spread) + 1
    votes = cv2.GaussianBlur(inside.astype(np.float32), (taps, taps), spread)
    total = float(cv2.sumElems(cv2.pow(votes, 3))[0])
    return total * spread**4 / (2 * radius**2) / (height * width)
