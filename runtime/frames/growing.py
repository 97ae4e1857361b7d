"""From the nucleus to the whole cell: what is stained like a white cell, nearest to this nucleus, and in one piece with it."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.lobes import in_one_piece
from blastscope.runtime.frames.nuclei import Mask, fill_holes, nearest, squares_to

GROW_UM = 5.0  # cytoplasm around a nucleus
RIM_UM = 0.25  # of the cell's edge is lost to the threshold and the smoothing
THREAD_UM = 0.7  # what is narrower than twice this isn't cytoplasm
SMOOTH_UM = 1.1  # bumps and threads of the outline that are narrower aren't the cell's


def cells_around(nuclei: list[Mask], stained: Mask, um: float) -> list[Mask]:
    """The cell around each nucleus. `stained` masks what is stained like a white cell, cytoplasm included."""
    squares = [squares_to(nucleus) for nucleus in nuclei]
    owner = nearest(squares)
    cells = []
    for number, (nucleus, far) in enumerate(zip(nuclei, squares, strict=True), 1):
        territory = (owner == number) & (far <= (GROW_UM / um) ** 2)
        cells.append(_one_piece((territory & (stained > 0)) | (nucleus > 0), nucleus, um))
    return cells


def _one_piece(mask: NDArray[np.bool_], nucleus: Mask, um: float) -> Mask:
    """The part of the mask that holds the nucleus, smooth and without holes."""
    disc = _disc(SMOOTH_UM / um)
    smooth = np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc), np.uint8) | nucleus
    closed = np.asarray(cv2.morphologyEx(in_one_piece(smooth, nucleus), cv2.MORPH_CLOSE, disc), np.uint8)
    whole = fill_holes(closed, float(closed.size))
    return np.asarray(cv2.dilate(whole, _disc(RIM_UM / um)), np.uint8)


def opened(mask: Mask, um: float) -> Mask:
    """The mask without what is narrower than a cell's bumps."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(THREAD_UM / um)), np.uint8)


def _disc(radius: float) -> Mask:
    """A symmetric disc: cv2's own ellipses aren't."""
    reach = max(math.floor(radius), 1)
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(rows * rows + columns * columns <= max(radius, 1.0) ** 2, np.uint8)
