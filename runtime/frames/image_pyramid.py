"""Downsampled images whose grid follows the content: a frame that is shifted, turned or flipped gives the same pixels.

The factor is odd and the grid is centred on a given box. A centred grid of an odd factor has the box's own symmetry
whatever its parity: with an even factor a box of odd width has no middle that a grid could share.

`ImagePyramid`: a frame, and what it was reduced to, for all who look at it one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.concurrency import parallel_map, row_strips, threads_for
from blastscope.runtime.io.image import check_array
from blastscope.runtime.types import Box

T = TypeVar("T", np.uint8, np.int16)
# Large pictures by a multiple of three are reduced from this one, in a tenth of the time: cells are mostly looked for in it,
# too. Each step rounds, which a small and dim frame can't afford.
THIRD, LARGE_PIXELS = 3, 1_000_000  # of the frame in the picture's box, since background around it must change nothing
STRIP_PIXELS = 160_000  # of the frame: a strip that the processor's cache holds
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Grid:
    """The position of a downsampled picture in its frame.

    Attributes
    ----------
    x0, y0 : int
        Left and top edge of its first pixel, in pixels of the frame; may lie outside.
    factor : int
        Pixels of the frame along one pixel of the picture.
    width, height : int
        In pixels of the picture.
    """

    x0: int
    y0: int
    factor: int
    width: int
    height: int

    def inside(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """The rows and columns of the picture that lie wholly in a frame of this shape."""
        return self.within((0, 0, shape[1], shape[0]))

    def within(self, box: Box) -> tuple[slice, slice]:
        """The rows and columns of the picture that lie wholly in `box`, in pixels of the frame."""
        left, top, right, bottom = (
            max(length // self.factor, 0)
            for length in (
                box[0] - self.x0 + self.factor - 1,
                box[1] - self.y0 + self.factor - 1,
                box[2] - self.x0,
                box[3] - self.y0,
            )
        )
        return slice(top, bottom), slice(left, right)

    def holds(self, other: Grid) -> bool:
        """Whether all squares of `other` are whole squares of this one, or several of them."""
        across, down = other.x0 - self.x0, other.y0 - self.y0
        step = other.factor // self.factor
        return (
            not (across % self.factor or down % self.factor or other.factor % self.factor)
            and 0 <= across <= (self.width - step * other.width) * self.factor
            and 0 <= down <= (self.height - step * other.height) * self.factor
        )

    def place_of(self, other: Grid) -> Grid:
        """Where `other`, which it may hold, lies on it: a grid in pixels of its picture."""
        x, y = (other.x0 - self.x0) // self.factor, (other.y0 - self.y0) // self.factor
        return Grid(x, y, other.factor // self.factor, other.width, other.height)

    def part(self, window: Grid) -> Grid:
        """Where `window`, a grid of single pixels of the picture, lies in the frame."""
        x0, y0 = self.x0 + window.x0 * self.factor, self.y0 + window.y0 * self.factor
        return Grid(x0, y0, self.factor, window.width, window.height)


def odd_factor(coarsest: float) -> int:
    """The largest odd whole number up to `coarsest`, at least 1."""
    return max(2 * int((coarsest + 1) // 2) - 1, 1)


def nearest_odd_factor(wanted: float) -> int:
    """The odd whole number whose ratio to `wanted` is nearest to 1."""
    below = odd_factor(wanted)
    return below + 2 if (below + 2) / wanted < wanted / below else below


def grid_around(box: Box, factor: int, margin: int = 0) -> Grid:
    """The grid centred on `box` that covers it and `margin` of its own pixels on each side."""
    (x0, width), (y0, height) = _centred(box[0], box[2], factor, margin), _centred(box[1], box[3], factor, margin)
    return Grid(x0, y0, factor, width, height)


def grid_within(box: Box, factor: int) -> Grid:
    """The grid centred on `box` of all whole squares in it; around a box too narrow for one."""
    (x0, width), (y0, height) = _halved(box[0], box[2], factor), _halved(box[1], box[3], factor)
    return Grid(x0, y0, factor, width, height) if width > 0 and height > 0 else grid_around(box, factor)


def grid_over(shape: tuple[int, ...], box: Box, factor: int) -> Grid:
    """The grid centred on `box`, as far as it covers a frame of this shape."""
    around = grid_around(box, factor)
    (x0, width), (y0, height) = _over(shape[1], factor, around.x0), _over(shape[0], factor, around.y0)
    return Grid(x0, y0, factor, width, height)


def downsample(picture: NDArray[T], grid: Grid) -> NDArray[T]:
    """(grid.height, grid.width[, C]) means over the grid's squares; outside the frame its nearest pixels go on.

    Where the squares are single pixels it may be a view.
    """
    across, down = grid.width * grid.factor, grid.height * grid.factor
    x0, y0, x1, y1 = grid.x0, grid.y0, grid.x0 + across, grid.y0 + down
    height, width = picture.shape[:2]
    patch = picture[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    beyond = max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0)
    if any(beyond):
        patch = np.asarray(cv2.copyMakeBorder(patch, *beyond, cv2.BORDER_REPLICATE), picture.dtype)
    if grid.factor == 1:
        return patch
    size = (grid.width, grid.height)
    # the most usual, and INTER_AREA is slow at it; an odd number of pixels has no mean that rounds two ways
    if grid.factor == 3:
        means = cv2.resize(cv2.blur(patch, (3, 3), anchor=(0, 0)), size, interpolation=cv2.INTER_NEAREST)
    else:
        means = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    return np.asarray(means, picture.dtype)


def _centred(low: int, high: int, factor: int, margin: int) -> tuple[int, int]:
    """The start and the number of squares along one axis."""
    length = high - low
    squares = -(-length // factor)
    squares += (squares - length) % 2  # the spare pixels must halve evenly
    squares += 2 * margin
    return low - (squares * factor - length) // 2, squares


def _over(length: int, factor: int, at: int) -> tuple[int, int]:
    """The start and the number of squares along one axis, of which one begins `at` there, and all of `length` is covered."""
    start = at % factor - factor if at % factor else 0
    return start, -(-(length - start) // factor)


def _halved(low: int, high: int, factor: int) -> tuple[int, int]:
    """The start and the number of squares along one axis, none of which reaches beyond it."""
    length = high - low
    squares = length // factor
    squares -= (length - squares) % 2  # the spare pixels must halve evenly
    return low + (length - squares * factor) // 2, squares


@dataclass(frozen=True, slots=True, eq=False)
class ImagePyramid:
    """A frame (H, W, 3) and its downsampled pictures, each made once. `threads` limits the threads; results don't depend on it.

    Attributes
    ----------
    frame : (H, W, 3) uint8 array
        RGB.
    threads : int or None
        How many at most; None: as many as the process may use.
    memo : dict
        What others found in these pictures, and need not look for again.
    """

    frame: Picture
    threads: int | None = None
    _over: dict[Grid, Picture] = field(default_factory=dict)
    _within: dict[int, tuple[Grid, Picture]] = field(default_factory=dict)  # by factor
    memo: dict[object, object] = field(default_factory=dict)

    def over(self, box: Box, factor: int) -> tuple[Grid, Picture]:
        """The whole frame, reduced over `grid_over(..., box, factor)`."""
        grid = grid_over(self.frame.shape, box, factor)
        if factor == 1:
            return grid, self.frame
        if grid not in self._over:
            self._over[grid] = self._reduced(grid)
        return grid, self._over[grid]

    def within(self, box: Box, factor: int) -> Picture:
        """The frame reduced over `grid_within(box, factor)`; a large box by a multiple of three in two steps."""
        grid = grid_within(box, factor)
        if factor not in self._within or not self._within[factor][0].holds(grid):
            large = (box[2] - box[0]) * (box[3] - box[1]) > LARGE_PIXELS
            by_third = factor == THIRD or (factor % THIRD == 0 and large)
            whole, picture = self.over(box, THIRD if by_third else 1)
            self._within[factor] = grid, downsample(picture, whole.place_of(grid))
        whole, picture = self._within[factor]
        return downsample(picture, whole.place_of(grid))

    def _reduced(self, grid: Grid) -> Picture:
        """The frame over `grid`, which covers it: by strips, and what reaches beyond it apart, since it takes longer."""
        picture = np.empty((grid.height, grid.width, 3), np.uint8)
        rows, columns = grid.inside(self.frame.shape)
        left, right, every = slice(0, columns.start), slice(columns.stop, grid.width), slice(0, grid.width)

        def reduce(down: slice, across: slice = columns) -> None:
            window = Grid(across.start, down.start, 1, across.stop - across.start, down.stop - down.start)
            if window.width > 0 and window.height > 0:
                picture[down, across] = downsample(self.frame, grid.part(window))

        for down, across in (
            (slice(0, rows.start), every),
            (slice(rows.stop, grid.height), every),
            (rows, left),
            (rows, right),
        ):
            reduce(down, across)
        pieces = row_strips(rows, STRIP_PIXELS // (self.frame.shape[1] * grid.factor))
        parallel_map(reduce, pieces, threads_for(self.frame.size // 3, self.threads))
        return picture


def image_pyramid(frame: Picture | ImagePyramid, threads: int | None = None) -> ImagePyramid:
    """The pictures of `frame`, by so many threads; `frame` itself where it is pictures already, which have their own number.

    Raises `ImageError` for any other array than (H, W, 3) uint8.
    """
    if isinstance(frame, ImagePyramid):
        return frame
    pixels = check_array(frame)
    row, *within = pixels.strides
    part = within == [3, 1] and row >= 3 * pixels.shape[1]  # of a larger picture: OpenCV reads its rows where they lie
    return ImagePyramid(pixels if part else np.ascontiguousarray(pixels), threads)
