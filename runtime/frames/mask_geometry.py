"""`Region`, a mask with its position in the frame, geometry on masks (hulls, distances, erosion), and `Contour`, its outline.

Distances are squared whole numbers, or rounded: so a turned picture gives the turned answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import Grid

Mask = NDArray[np.uint8]  # 0 or 1
Squares = NDArray[np.int32]  # squared distances
Window = tuple[slice, slice]  # rows and columns
STEPS = 4096  # of a pixel, in distances that aren't exact
NEAR = 12  # pixels: up to here an erosion is faster than distances


@dataclass(frozen=True, eq=False)
class Region:
    """A mask of stained pixels, with its place in a picture.

    Attributes
    ----------
    x, y : int
        Left and top edge of the mask, in pixels of the picture.
    mask : (h, w) uint8 array
        1 where the stain is.
    area : int
        Its pixels.
    lobes : int
        How many lobes of a nucleus it consists of.
    """

    x: int
    y: int
    mask: Mask
    area: int
    lobes: int = 1

    @cached_property
    def hull(self) -> NDArray[np.int32]:
        """The corners of the convex hull, (K, 2) x and y in the picture."""
        return hull_of(self.mask).reshape(-1, 2) + np.asarray((self.x, self.y), np.int32)

    @cached_property
    def rim(self) -> NDArray[np.int32]:
        """(K, 2) the pixels beside others that aren't the part's, x and y in the picture."""
        outlines = cv2.findContours(self.mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        return np.asarray(np.concatenate(outlines).reshape(-1, 2) + np.asarray((self.x, self.y), np.int32), np.int32)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The bounding box: x0, y0, x1, y1, half-open."""
        height, width = self.mask.shape
        return self.x, self.y, self.x + width, self.y + height

    @property
    def window(self) -> Window:
        """The rows and columns of the box."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    def on(self, window: Window) -> Mask:
        """The part as it lies in this window of the picture."""
        rows, columns = window
        shown = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        x0, y0, x1, y1 = self.box
        top, bottom, left, right = max(y0, rows.start), min(y1, rows.stop), max(x0, columns.start), min(x1, columns.stop)
        if top < bottom and left < right:
            piece = self.mask[top - y0 : bottom - y0, left - x0 : right - x0]
            shown[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = piece
        return shown


def region_of(mask: Mask, corner: tuple[int, int] = (0, 0), lobes: int = 1) -> Region:
    """The part that `mask` shows, whose own corner (x, y) lies there in the picture."""
    x, y, width, height = cv2.boundingRect(mask)
    own = np.ascontiguousarray(mask[y : y + height, x : x + width])
    return Region(corner[0] + x, corner[1] + y, own, cv2.countNonZero(own), lobes)


def hull_of(mask: Mask) -> NDArray[np.int32]:
    """(K, 1, 2) the corners, x and y, of the convex hull of all that the mask shows."""
    outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        return np.zeros((0, 1, 2), np.int32)
    return np.asarray(cv2.convexHull(np.concatenate(outlines)), np.int32)


def hull_mask(mask: Mask) -> Mask:
    """The convex hull of all that the mask shows, filled from both sides: OpenCV rounds halves to one of them."""
    corners, filled, turned = hull_of(mask), np.zeros_like(mask), np.zeros_like(mask)
    cv2.fillConvexPoly(filled, corners, (1,))
    cv2.fillConvexPoly(turned, np.asarray(mask.shape[::-1], np.int32) - 1 - corners, (1,))
    return filled | np.asarray(cv2.flip(turned, -1), np.uint8)


def union(one: Region, other: Region) -> Region:
    """Two regions as one."""
    window = window_around([one, other], 0)
    corner = window[1].start, window[0].start
    return region_of(one.on(window) | other.on(window), corner, one.lobes + other.lobes)


def window_around(parts: list[Region], margin: int, shape: tuple[int, ...] | None = None) -> Window:
    """The rows and columns around these parts, inside of a picture of this shape."""
    boxes = [part.box for part in parts]
    top, left = min(box[1] for box in boxes) - margin, min(box[0] for box in boxes) - margin
    bottom, right = max(box[3] for box in boxes) + margin, max(box[2] for box in boxes) + margin
    if shape is not None:
        top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, shape[0]), min(right, shape[1])
    return slice(top, bottom), slice(left, right)


def around(mask: Mask, margin: int) -> Window:
    """The rows and columns of what the mask shows, and `margin` more, inside of the mask's picture."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(max(y - margin, 0), y + height + margin), slice(max(x - margin, 0), x + width + margin)


def framed(mask: Mask, edge: int) -> Mask:
    """The mask with so many pixels of nothing around it."""
    return np.asarray(cv2.copyMakeBorder(mask, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(0,)), np.uint8)


def boxes_apart(one: Region, other: Region) -> int:
    """How far the parts' boxes are apart at least, along a row or a column; negative where they overlap."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one.box, other.box
    return max(x0 - u1, u0 - x1, y0 - v1, v0 - y1)


def boxes_of(parts: Sequence[Region]) -> NDArray[np.int64]:
    """The boxes of regions, (N, 4)."""
    return np.asarray([part.box for part in parts], np.int64).reshape(-1, 4)


def apart_from(one: Region, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) `boxes_apart` of a part and each of `boxes`."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one.box, boxes.T
    return np.asarray(np.maximum(np.maximum(x0 - u1, u0 - x1), np.maximum(y0 - v1, v0 - y1)), np.int64)


def squares_to(mask: Mask) -> Squares:
    """(h, w) the squared distance of each pixel to the nearest of `mask`."""
    far = np.asarray(cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
    np.multiply(far, far, out=far)  # in place: a mask may be a whole frame's
    return np.rint(far, out=far).astype(np.int32)


def approx_distance_to(mask: Mask) -> NDArray[np.float32]:
    """(h, w) the distance of each pixel to the nearest of `mask`, to 2 %: in a third of the time."""
    far = np.asarray(cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5), np.float32)
    return np.asarray(np.rint(far * STEPS) / STEPS, np.float32)  # a flipped mask's differ in the last digits


def distance_inside(mask: Mask) -> NDArray[np.float32]:
    """The distance of each pixel inside the mask from its outside; beyond the picture is outside."""
    return np.asarray(cv2.distanceTransform(framed(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)[1:-1, 1:-1]


def erode_by(mask: Mask, reach: float) -> Mask:
    """The mask eroded by `reach` pixels; beyond the picture is outside."""
    if reach > NEAR:
        return mask * (distance_inside(mask) > reach).view(np.uint8)
    outside = cv2.BORDER_CONSTANT
    return np.asarray(cv2.erode(mask, disc(reach), borderType=outside, borderValue=(0,)), np.uint8)


@lru_cache(maxsize=16)
def disc(radius: float) -> Mask:
    """All pixels up to `radius` away, symmetric: cv2's own ellipses aren't."""
    reach = math.floor(radius)
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(rows * rows + columns * columns <= radius**2, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """A region on `grid` of the picture. Its outline is traced when it is first asked for, since that takes time.

    Attributes
    ----------
    part : Region
        In pixels of the grid.
    grid : Grid
        Where that picture lies in the frame, or in the tile that was cut from it.
    shape : tuple of int
        Of that frame or tile: height, width, channels.
    corner : (int, int)
        x and y of the tile's corner in the whole frame.
    """

    part: Region
    grid: Grid
    shape: tuple[int, ...]
    corner: tuple[int, int] = (0, 0)

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


def iou(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The overlap of each box of one list with each of another: intersection over union.

    Parameters
    ----------
    first, second : sequence of (x0, y0, x1, y1)
        A and B boxes, half-open.

    Returns
    -------
    (A, B) float64 array
        0 to 1.
    """
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (first, second))
    corner0 = np.maximum(a[:, None, :2], b[None, :, :2])
    corner1 = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(corner1 - corner0, 0, None).prod(axis=2)
    sizes = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    both = sizes[0][:, None] + sizes[1][None, :] - shared
    return np.asarray(np.divide(shared, both, out=np.zeros_like(shared), where=both > 0), np.float64)


def fewer_points(outline: NDArray[np.int32]) -> NDArray[np.int32]:
    """The outline (K, 2) with a fraction of its points, within half a pixel: for whoever draws it, and takes long for each."""
    corners = cv2.approxPolyDP(np.ascontiguousarray(outline).reshape(-1, 1, 2), 0.5, closed=True)
    return np.asarray(corners, np.int32).reshape(-1, 2)
