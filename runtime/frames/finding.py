"""`find_cells`: the white cells of a frame, each with the outline of its nucleus and of the whole cell."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import FoundCell, FrameFacts
from blastscope.runtime.frames.spec import FrameSpec
from blastscope.runtime.frames.stain import STEP, along
from blastscope.runtime.image import check_array
from blastscope.runtime.prediction import Refusal

REACH_UM = 30.0
SMALLEST_UM = 4.0  # a nucleus across; platelets are smaller
JOIN_UM = 1.5
GROW_UM = 4.0


def reach_px(facts: FrameFacts, spec: FrameSpec) -> int:
    """How far a pixel can change what is found: the margin that a tile needs."""
    return math.ceil(REACH_UM / facts.pixel_um)


def find_cells(frame: NDArray[np.uint8], facts: FrameFacts, spec: FrameSpec) -> tuple[FoundCell, ...]:
    """The white cells of `frame` (H, W, 3) uint8 RGB, top to bottom and left to right."""
    frame = np.ascontiguousarray(check_array(frame))
    if frame.size == 0:
        return ()
    stain = cv2.blur(along(facts.nuclear_axis, frame, facts.background), (3, 3)).astype(np.float32) / STEP
    nuclei = _closed((stain > facts.nucleus_threshold).astype(np.uint8), JOIN_UM / facts.pixel_um)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(nuclei, connectivity=8)
    found = []
    for index in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[index])
        if area * facts.pixel_um**2 < math.pi * SMALLEST_UM**2 / 4:
            continue
        margin = math.ceil(GROW_UM / facts.pixel_um)
        x0, y0 = max(x - margin, 0), max(y - margin, 0)
        rows, columns = slice(y0, y + height + margin), slice(x0, x + width + margin)
        own = (labels[rows, columns] == index).astype(np.uint8)
        cell = _grown(own, stain[rows, columns] > facts.cell_threshold, margin)
        found.append(_found(cell, own, (x0, y0), frame.shape))
    return tuple(sorted(found, key=lambda cell: (cell.box[1], cell.box[0])))


def _closed(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(radius) + 1, 2 * round(radius) + 1))
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel), np.uint8)


def _grown(nucleus: NDArray[np.uint8], stained: NDArray[np.bool_], limit: int) -> NDArray[np.uint8]:
    near = cv2.distanceTransform(1 - nucleus, cv2.DIST_L2, 5) <= limit
    mask = ((stained & near) | (nucleus > 0)).astype(np.uint8)
    radius = max(limit // 5, 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel), np.uint8) | nucleus
    labels = cv2.connectedComponents(mask, connectivity=8)[1]
    kept = np.unique(labels[nucleus > 0])
    return np.isin(labels, kept[kept > 0]).astype(np.uint8)


def _found(cell: NDArray[np.uint8], nucleus: NDArray[np.uint8], corner: tuple[int, int], shape: tuple[int, ...]) -> FoundCell:
    x, y, width, height = cv2.boundingRect(cell)
    box = (x + corner[0], y + corner[1], x + corner[0] + width, y + corner[1] + height)
    refusal = None
    if box[0] <= 0 or box[1] <= 0 or box[2] >= shape[1] or box[3] >= shape[0]:
        refusal = Refusal("touches-border", f"the cell's box {box} reaches the edge of the {shape[1]} x {shape[0]} frame")
    return FoundCell(box, _outline(cell, corner), _outline(nucleus, corner), refusal)


def _outline(mask: NDArray[np.uint8], corner: tuple[int, int]) -> NDArray[np.int32]:
    """The longest outer contour of `mask`, in pixels of the frame."""
    outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    longest = max(outlines, key=cv2.contourArea)
    return np.asarray(longest.reshape(-1, 2) + np.asarray(corner), np.int32)
