"""`Piece`: a part of a training picture with what it shows, before it is put into its place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OVERSAMPLED = 1.7  # frames and cells are kept at this multiple of the working scale, so that enlarged ones stay sharp
LEAST_SHOWN = 0.5  # of a box: what is cut off further is neither a cell nor none
UNKNOWN = -1  # of a group


class Piece(NamedTuple):
    """A part of a picture before it is put into its place."""

    picture: NDArray[np.uint8]
    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    sized: NDArray[np.bool_]
    complete: NDArray[np.float32]  # (2, h, w)


def clip_boxes(piece: Piece) -> Piece:
    """The piece with its boxes cut at its edges; of what shows too little, the place is marked as not known."""
    height, width = piece.picture.shape[:2]
    limits = np.asarray([width, height] * 2, np.float32)
    cut = np.clip(piece.corners, 0, limits)
    shown = _areas(cut) / np.maximum(_areas(piece.corners), 1e-3)
    complete = piece.complete.copy()
    for box, share in zip(cut, shown, strict=True):
        if 0 < share < LEAST_SHOWN:
            x0, y0, x1, y1 = np.round(box).astype(int)
            complete[:, y0:y1, x0:x1] = 0
    kept = shown >= LEAST_SHOWN
    return Piece(piece.picture, cut[kept], piece.labels[kept], piece.groups[kept], piece.sized[kept], complete)


def _areas(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), np.float32)
