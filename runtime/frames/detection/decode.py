"""From a detector's maps to boxes."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import GROUPS

STRIDE = 8  # pixels of the picture to one place of the maps
WHITE, RED, PLATELET = 0, 1, 2
KINDS = 3
CHANNELS = KINDS + 4 + len(GROUPS)
SAME = 0.5  # boxes that share this much of their union are one cell
INSIDE = 0.7  # or this much of the smaller one


class Detections(NamedTuple):
    """K cells of one kind, the surest first.

    Attributes
    ----------
    boxes : ndarray of float32
        Shape (K, 4): x0, y0, x1, y1 in pixels.
    scores : ndarray of float32
        Shape (K,), 0 to 1.
    groups : ndarray of float32
        Shape (K, 3): probabilities of `GROUPS`; they mean something for white cells alone.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    groups: NDArray[np.float32]

    def scaled(self, factor: float) -> Detections:
        """The same cells in a picture that is `factor` times as large."""
        return self._replace(boxes=self.boxes * np.float32(factor))


def decode(maps: NDArray[np.float32], kind: int, least: float, most: int | None = None) -> Detections:
    """The cells of `kind` whose score is at least `least`.

    Parameters
    ----------
    maps : (10, h, w) float32 array
        Of one picture: heat of each kind, reaches to left, top, right and bottom in pixels, probabilities of the groups.
    kind : int
        `WHITE`, `RED` or `PLATELET`.
    least : float
        0 to 1.
    most : int, optional
        Only so many of the surest peaks are looked at.

    Returns
    -------
    Detections
        Overlapping boxes are one cell: the surest stands.
    """
    heat = maps[kind]
    peak = (heat >= cv2.dilate(heat, np.ones((3, 3), np.uint8))) & (heat >= least)
    rows, columns = np.nonzero(peak)
    scores = heat[rows, columns]
    order = np.argsort(-scores, kind="stable")[:most]
    rows, columns, scores = rows[order], columns[order], scores[order]
    left, top, right, bottom = maps[KINDS : KINDS + 4, rows, columns]
    x, y = (columns + 0.5) * STRIDE, (rows + 0.5) * STRIDE
    boxes = np.stack([x - left, y - top, x + right, y + bottom], axis=1).astype(np.float32)
    kept = distinct(boxes)
    return Detections(boxes[kept], scores[kept], np.ascontiguousarray(maps[KINDS + 4 :, rows[kept], columns[kept]].T))


def distinct(boxes: NDArray[np.float32]) -> NDArray[np.intp]:
    """The numbers of those of `boxes` (K, 4), the surest first, that no surer one covers."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.ones(len(boxes), np.bool_)
    kept = []
    for at in range(len(boxes)):
        if left[at]:
            kept.append(at)
            shared = overlaps(boxes[at], boxes)
            left &= (shared < SAME * (areas + areas[at] - shared)) & (shared < INSIDE * np.minimum(areas, areas[at]))
    return np.asarray(kept, np.intp)


def overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The areas (K,) that `boxes` (K, 4) share with `box` (4,)."""
    across = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
    down = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
    return np.asarray(across.clip(min=0) * down.clip(min=0), np.float32)
