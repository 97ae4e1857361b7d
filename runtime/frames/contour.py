"""`Contour`: the outline of a region at working resolution, in coordinates of the frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import Grid
from blastscope.runtime.frames.mask_geometry import Region, framed


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """A part of the picture that lies on `grid`. Its outline is traced when it is asked for, which takes its time."""

    part: Region
    grid: Grid
    shape: tuple[int, ...]  # of the frame that the grid is laid on
    corner: tuple[int, int] = (0, 0)  # of that frame, a tile, in the whole one

    def outline(self) -> NDArray[np.int32]:
        """(K, 2) the largest outer contour, x and y in pixels of the whole frame, and inside of it."""
        part, grid = self.part, self.grid
        mask = framed(part.mask * np.uint8(255), 1)
        size = (mask.shape[1] * grid.factor, mask.shape[0] * grid.factor)
        steps = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        round_ = cv2.blur(steps, (2 * grid.factor + 1, 2 * grid.factor + 1)) if grid.factor > 1 else steps
        fine = np.asarray(round_, np.uint8) >> 7
        left, top = (part.x - 1) * grid.factor + grid.x0, (part.y - 1) * grid.factor + grid.y0
        across, down = max(-left, 0), max(-top, 0)
        fine = np.ascontiguousarray(fine[down : self.shape[0] - top, across : self.shape[1] - left])
        x, y = left + across + self.corner[0], top + down + self.corner[1]
        outlines = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x, y))[0]
        return np.asarray(max(outlines, key=cv2.contourArea).reshape(-1, 2), np.int32)
