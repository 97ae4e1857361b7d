"""From the nucleus to the whole cell: what is stained like a white cell, nearest to this nucleus, and in one piece with it."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.lobes import in_one_piece
from blastscope.runtime.frames.nuclei import Mask, fill_holes, nearest, squares_to

GROW_UM = 5.0  # cytoplasm around a nucleus
RIM_UM = 0.6  # next to the nucleus the optics blur it
SMOOTH_UM = 0.7  # bumps and threads of the outline that are narrower aren't the cell's


def cells_around(nuclei: list[Mask], stain: NDArray[np.int32], inside: Mask, limits: tuple[int, int], um: float) -> list[Mask]:
    """The cell around each nucleus. `stain` is smooth; `limits` bound what parts a cell from the rest."""
    squares = [squares_to(nucleus) for nucleus in nuclei]
    owner = nearest(squares)
    cells = []
    for number, (nucleus, far) in enumerate(zip(nuclei, squares, strict=True), 1):
        reach = far <= (GROW_UM / um) ** 2
        territory = (owner == number) & reach & (inside > 0)
        ring = territory & (far > (RIM_UM / um) ** 2)
        threshold = _between(stain[ring], limits)
        cells.append(_one_piece((territory & (stain > threshold)) | (nucleus > 0), nucleus, um))
    return cells


def _between(values: NDArray[np.int32], limits: tuple[int, int]) -> int:
    """Otsu's threshold of these values, no less and no more than the limits."""
    low, high = limits
    if high <= low or len(values) < 16:
        return low
    step = max((high + low) // 64, 1)  # from -low to 2 high: what lies beyond tells nothing about the border
    counts = np.bincount(np.clip((values + low) // step, 0, (2 * high + low) // step)).astype(np.float64)
    below = counts.cumsum()[:-1]
    above = len(values) - below
    mass = (counts * np.arange(len(counts))).cumsum()
    means = mass[:-1] / np.maximum(below, 1) - (mass[-1] - mass[:-1]) / np.maximum(above, 1)
    best = int(np.argmax(below * above * means * means)) if len(below) else 0
    return min(max((best + 1) * step - low, low), high)


def _one_piece(mask: NDArray[np.bool_], nucleus: Mask, um: float) -> Mask:
    """The part of the mask that holds the nucleus, smooth and without holes."""
    disc = _disc(SMOOTH_UM / um)
    smooth = opened(mask.astype(np.uint8), um) | nucleus
    closed = np.asarray(cv2.morphologyEx(in_one_piece(smooth, nucleus), cv2.MORPH_CLOSE, disc), np.uint8)
    return fill_holes(closed, float(closed.size))


def opened(mask: Mask, um: float) -> Mask:
    """The mask without what is narrower than a cell's bumps."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(SMOOTH_UM / um)), np.uint8)


def _disc(radius: float) -> Mask:
    """A symmetric disc: cv2's own ellipses aren't."""
    reach = max(math.floor(radius), 1)
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(rows * rows + columns * columns <= max(radius, 1.0) ** 2, np.uint8)
