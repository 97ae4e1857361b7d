"""Where in a frame nuclei may be: first on coarse squares, then pixel by pixel, so that no grid of the frame's decides.

A nucleus is only taken where it holds a whole disc of stain, and any such disc holds a whole coarse square: the coarse look
saves time, and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import FrameFacts
from blastscope.runtime.frames.spreading import spread
from blastscope.runtime.frames.stain import STEP, along
from blastscope.runtime.frames.thumbnail import nearest_odd_factor, odd_factor
from blastscope.runtime.prediction import Box

COARSE_UM = 0.7  # a square's side
WORKING_UM = 0.25  # a pixel of the pictures that cells are outlined in
LOBES_UM = 4.0  # stained parts that are nearer than this are looked at together
WIDEST_UM = 45.0  # so wide a group is looked at in full resolution, whose grid no tile can shift
LEAST_UM2 = 8.0  # of stain: less is no nucleus
SPECK_UM2 = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Stained parts that may be lobes of one nucleus or nuclei that touch."""

    box: Box  # in pixels of the frame
    factor: int  # of the grid on which it is to be looked at
    outlines: tuple[NDArray[np.int32], ...]  # (K, 1, 2) of each part, in pixels of the frame


def places(frame: NDArray[np.uint8], facts: FrameFacts) -> list[Place]:
    """The places of `frame` (H, W, 3) that may hold nuclei, each once."""

    def look(region: tuple[slice, slice, NDArray[np.uint8]]) -> list[Place]:
        rows, columns, own = region
        return list(_groups(frame[rows, columns], own, (columns.start, rows.start), facts))

    return [place for found in spread(look, _regions(frame, facts)) for place in found]


def _regions(frame: NDArray[np.uint8], facts: FrameFacts) -> Iterator[tuple[slice, slice, NDArray[np.uint8]]]:
    """Rows and columns of the frame around each coarse patch of stain, and a mask of what belongs to it."""
    side = odd_factor(COARSE_UM / facts.pixel_um)
    height, width = frame.shape[:2]
    down, across = -(-height // side), -(-width // side)
    beyond = (0, down * side - height, 0, across * side - width)
    whole = cv2.copyMakeBorder(frame, *beyond, cv2.BORDER_REPLICATE) if any(beyond) else frame
    coarse = whole if side == 1 else cv2.resize(whole, (across, down), interpolation=cv2.INTER_AREA)
    stained = along(facts.nuclear_axis, np.asarray(coarse, np.uint8), facts.background) > facts.nucleus_threshold * STEP / 2
    reach = math.ceil(LOBES_UM / facts.pixel_um / side)
    wide = cv2.dilate(stained.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(wide, connectivity=8)
    for index in range(1, count):
        x, y, w, h, _ = (int(value) for value in stats[index])
        own = (labels[y : y + h, x : x + w] == index).astype(np.uint8)
        rows, columns = slice(y * side, min((y + h) * side, height)), slice(x * side, min((x + w) * side, width))
        large = cv2.resize(own, (w * side, h * side), interpolation=cv2.INTER_NEAREST)
        yield rows, columns, np.asarray(large[: rows.stop - rows.start, : columns.stop - columns.start], np.uint8)


def _groups(patch: NDArray[np.uint8], own: NDArray[np.uint8], corner: tuple[int, int], facts: FrameFacts) -> Iterator[Place]:
    """The groups of stained parts in one region."""
    factor = nearest_odd_factor(WORKING_UM / facts.pixel_um)
    stain = along(facts.nuclear_axis, patch, facts.background)
    sums = cv2.boxFilter(stain, cv2.CV_32S, (factor, factor), normalize=False, borderType=cv2.BORDER_REPLICATE)
    mask = (sums > round(facts.nucleus_threshold * STEP * factor * factor)).astype(np.uint8) & own
    outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    pixel_um2 = facts.pixel_um**2
    parts = [np.asarray(outline, np.int32) for outline in outlines if cv2.contourArea(outline) * pixel_um2 > SPECK_UM2]
    for group in _linked(parts, LOBES_UM / facts.pixel_um, mask.shape):
        if sum(cv2.contourArea(outline) for outline in group) * pixel_um2 < LEAST_UM2:
            continue
        x, y, width, height = cv2.boundingRect(np.concatenate(group))
        box = x + corner[0], y + corner[1], x + width + corner[0], y + height + corner[1]
        wide = max(box[2] - box[0], box[3] - box[1]) * facts.pixel_um > WIDEST_UM
        yield Place(box, 1 if wide else factor, tuple(outline + np.asarray(corner, np.int32) for outline in group))


def _linked(outlines: list[NDArray[np.int32]], gap: float, shape: tuple[int, ...]) -> list[list[NDArray[np.int32]]]:
    """The outlines whose boxes lie within `gap` of each other, or of one between them."""
    if len(outlines) < 2:
        return [outlines] if outlines else []
    wider = int(gap / 2)  # two boxes that grow by this meet
    canvas = np.zeros((shape[0] + 2 * wider, shape[1] + 2 * wider), np.uint8)
    corners = []
    for outline in outlines:
        x, y, width, height = cv2.boundingRect(outline)
        canvas[y : y + height + 2 * wider, x : x + width + 2 * wider] = 1
        corners.append((y, x))
    labels = cv2.connectedComponents(canvas, connectivity=8)[1]
    groups: dict[int, list[NDArray[np.int32]]] = {}
    for corner, outline in zip(corners, outlines, strict=True):
        groups.setdefault(int(labels[corner]), []).append(outline)
    return list(groups.values())
