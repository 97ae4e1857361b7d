"""Votes of edges: each edge pixel votes for the point one radius inwards, and at the radius of a disc its votes meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FAINTEST = 5  # the gradient of an edge, gray levels a pixel where glass is not dimmer than DIM_GLASS
DIM_GLASS = 100
BLUR = 0.15  # of votes, in radii: red cells aren't round

Avoid = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """The edge pixels of a reduced picture with their inward unit normals."""

    columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    right: NDArray[np.float32]
    down: NDArray[np.float32]
    shape: tuple[int, int]

    @property
    def share(self) -> float:
        """Of all pixels."""
        return len(self.rows) / (self.shape[0] * self.shape[1])


def edges_of(picture: NDArray[np.uint8], avoid: Avoid, glass: int = 255) -> Edges | None:
    """The edges that `picture` (h, w, 3) shows where `avoid` lets it; None of one that is too small.

    `glass` is the gray level of the glass: in a dim frame the same edge is fainter.
    """
    height, width = picture.shape[:2]
    if min(height, width) < 16:
        return None
    gain = 0.5 * max(DIM_GLASS / max(glass, 1), 1.0)
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


def meeting(edges: Edges, radius: float) -> float:
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
