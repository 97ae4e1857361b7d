"""Background (empty glass): its brightness, its mask, and the part of the frame with content."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import Colour
from blastscope.runtime.types import Box

EDGE_ROWS = 8  # of the frame, looked at first: it mostly shows something up to its edge
GLASS_SHARE = 0.02  # of the pixels: what is brighter and rarer is a glint
# Of what the frame shows. A level so rare there was a white margin's, as around a picture on a page; of glass, a quarter of
# BCCD's training frames in fourteen looks show twice as much at least.
LEAST_SHARE = 0.01
NOT_GLASS = 12  # gray levels away from glass


def background_level(gray: NDArray[np.uint8]) -> int:
    """The brightest level of `gray` (H, W) that is common."""
    counts = _histogram(gray)
    smooth = np.convolve(counts, np.ones(9), "same")
    common = smooth >= max(GLASS_SHARE * counts.sum(), 0.1 * smooth.max())
    level = int(np.flatnonzero(common)[-1])
    while level > 0 and smooth[level - 1] >= smooth[level]:  # down from the bright end up to the top of the peak
        level -= 1
    return level


def content_box(gray: NDArray[np.uint8], glass: int) -> Box:
    """The box of all in `gray` (H, W) that is neither glass nor black. Looked for from the edges, where it mostly begins."""
    levels = np.arange(256)
    shown = ((abs(levels - glass) > NOT_GLASS) & (levels > 0)).astype(np.uint8)
    height, width = gray.shape
    top = _empty_rows(gray, shown)
    if top == height:
        return 0, 0, width, height
    bottom = height - _empty_rows(gray[::-1], shown)
    columns = gray[top:bottom].T
    return _empty_rows(columns, shown), top, width - _empty_rows(columns[::-1], shown), bottom


def _empty_rows(gray: NDArray[np.uint8], shown: NDArray[np.uint8]) -> int:
    """How many rows of `gray`, from the first on, have no level that is `shown`."""
    first, rows = 0, EDGE_ROWS
    while first < len(gray):
        _, y, _, height = cv2.boundingRect(cv2.LUT(np.ascontiguousarray(gray[first : first + rows]), shown))
        if height:
            return first + y
        first, rows = first + rows, 2 * rows
    return len(gray)


def background_mask(picture: NDArray[np.uint8], level: int) -> tuple[int, Colour]:
    """The gray level of glass in `picture` (h, w, 3), which is `level` unless it hardly shows that, and its usual colour."""
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    near = _near(gray, level)
    if cv2.countNonZero(near) < LEAST_SHARE * near.size:
        level = background_level(gray)
        near = _near(gray, level)
    red, green, blue = (_median(_histogram(picture, near, channel)) for channel in range(3))
    return level, (red, green, blue)


def _near(gray: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.inRange(gray, (max(level - 5, 0),), (min(level + 5, 255),)), np.uint8)


def _histogram(picture: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None, channel: int = 0) -> NDArray[np.float64]:
    return np.asarray(cv2.calcHist([picture], [channel], mask, [256], [0, 256]), np.float64).ravel()


def _median(counts: NDArray[np.float64]) -> float:
    """The median level, with a fraction for where in the level it lies."""
    total = counts.cumsum()
    half = total[-1] / 2
    level = int(np.searchsorted(total, half))
    before = total[level - 1] if level else 0.0
    return round(max(level - 0.5 + float((half - before) / max(counts[level], 1.0)), 0.0), 3)
