"""`Pictures`: a frame, and what it was reduced to, for all who look at it one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.grids import Grid, grid_over, grid_within, reduced
from blastscope.runtime.frames.spreading import spread, strips, threads_for
from blastscope.runtime.image import check_array
from blastscope.runtime.prediction import Box

# Large pictures by a multiple of three are reduced from this one, in a tenth of the time: cells are mostly looked for in it,
# too. Each step rounds, which a small and dim frame can't afford.
THIRD, LARGE_PIXELS = 3, 1_000_000  # of the frame in the picture's box, since glass around it must change nothing
STRIP_PIXELS = 160_000  # of the frame: a strip that the processor's cache holds

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """A frame (H, W, 3) and its reduced pictures, none made twice. At most `threads` are at work, which changes nothing."""

    frame: Picture
    threads: int | None = None
    _over: dict[Grid, Picture] = field(default_factory=dict)
    _within: dict[int, tuple[Grid, Picture]] = field(default_factory=dict)  # by factor

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
            self._within[factor] = grid, reduced(picture, whole.place_of(grid))
        whole, picture = self._within[factor]
        return reduced(picture, whole.place_of(grid))

    def _reduced(self, grid: Grid) -> Picture:
        """The frame over `grid`, which covers it: by strips, and what reaches beyond it apart, since it takes longer."""
        picture = np.empty((grid.height, grid.width, 3), np.uint8)
        rows, columns = grid.inside(self.frame.shape)
        left, right, every = slice(0, columns.start), slice(columns.stop, grid.width), slice(0, grid.width)

        def reduce(down: slice, across: slice = columns) -> None:
            window = Grid(across.start, down.start, 1, across.stop - across.start, down.stop - down.start)
            if window.width > 0 and window.height > 0:
                picture[down, across] = reduced(self.frame, grid.part(window))

        for down, across in (
            (slice(0, rows.start), every),
            (slice(rows.stop, grid.height), every),
            (rows, left),
            (rows, right),
        ):
            reduce(down, across)
        pieces = strips(rows, STRIP_PIXELS // (self.frame.shape[1] * grid.factor))
        spread(reduce, pieces, threads_for(self.frame.size // 3, self.threads))
        return picture


def pictures_of(frame: Picture | Pictures, threads: int | None = None) -> Pictures:
    """The pictures of `frame`, by so many threads; `frame` itself where it is pictures already, which have their own number.

    Raises `ImageError` for any other array than (H, W, 3) uint8.
    """
    return frame if isinstance(frame, Pictures) else Pictures(np.ascontiguousarray(check_array(frame)), threads)
