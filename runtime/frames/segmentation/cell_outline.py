"""From nuclei to cells: lobes of one nucleus merged (`merge_lobes`), and a nucleus grown to the whole cell (`grow_cytoplasm`).

Lobes belong to one cell whose common outline is as round as one cell: two cells that touch make a long shape, one cell around
two lobes a round one. The shortest pairs are tried first. A nucleus grows along pixels that are stained like cytoplasm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.mask_geometry import (
    Mask,
    Region,
    apart_from,
    approx_distance_to,
    around,
    boxes_apart,
    boxes_of,
    disc,
    framed,
    region_of,
    union,
    window_around,
)
from blastscope.runtime.frames.segmentation.split_nuclei import connected_to_core, fill_holes

GAP_UM = 4.0  # between lobes
SURE_UM = 10.0  # so short a pair is one nucleus: two that touch are longer
LONGEST_UM = 20.0  # no lobed cell is longer
AROUND_UM = 4.0  # what counts as the pair's cell
# The short axis of one cell, of its long one. Two discs that touch have 0.45, two that overlap by a fifth 0.53.
ROUND = 0.6
ROUND_LOBE = 0.5  # where one of the two is smaller than any nucleus
ROUND_CUT = 0.35  # where the frame's edge cuts the cell
LOBE_UM2 = 28.0  # a lymphocyte's nucleus is 6 um across or more
GROW_UM = 5.0  # cytoplasm around a nucleus
RIM_UM = 0.25  # of the cell's edge is lost to the threshold and the smoothing
THREAD_UM = 0.7  # what is narrower than twice this isn't cytoplasm
SMOOTH_UM = 1.1  # bumps and threads of the outline that are narrower aren't the cell's


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two parts that may be lobes of one nucleus.

    Attributes
    ----------
    length : int
        Square of the greatest distance between points of both, in pixels.
    gap : int
        Square of the distance between them, in pixels.
    area : int
        Of both, in pixels.
    one, other : Region
        The parts.
    """

    length: int
    gap: int
    area: int
    one: Region
    other: Region

    @property
    def rank(self) -> tuple[int, int, int]:
        return self.length, self.gap, self.area


def merge_lobes(parts: list[Region], cellular: Mask, inside: Mask, um: float) -> list[Region]:
    """The nuclei: lobes of one nucleus are joined.

    `cellular` masks what is stained like white cells, `inside` what the frame shows.
    """
    parts, boxes = list(parts), boxes_of(parts)
    number = count()  # of pairs of one rank the first that was met
    open_pairs = [
        (pair.rank, next(number), pair)
        for index, one in enumerate(parts)
        for near in np.flatnonzero(apart_from(one, boxes[:index]) * um <= GAP_UM).tolist()
        if (pair := _pair(one, parts[near], um))
    ]
    heapify(open_pairs)
    gone: set[Region] = set()
    while open_pairs:
        _, _, pair = heappop(open_pairs)
        if pair.one in gone or pair.other in gone:
            continue
        if pair.length * um * um > SURE_UM**2:
            apart = np.minimum(apart_from(pair.one, boxes), apart_from(pair.other, boxes))
            near = [parts[index] for index in np.flatnonzero(apart <= 2 * math.ceil(AROUND_UM / um)).tolist()]
            if not _one_cell(pair, near, cellular, inside, um=um):
                continue
        whole = union(pair.one, pair.other)
        gone |= {pair.one, pair.other}
        parts = [part for part in parts if part not in gone]
        for part in parts:
            if pair := _pair(whole, part, um):
                heappush(open_pairs, (pair.rank, next(number), pair))
        parts.append(whole)
        boxes = boxes_of(parts)
    return parts


def _pair(one: Region, other: Region, um: float) -> _Pair | None:
    """The two, where they are near enough to be lobes of one nucleus."""
    rows, columns = window_around([one, other], 0)
    longest = max(rows.stop - rows.start, columns.stop - columns.start) - 1  # at least
    if boxes_apart(one, other) * um > GAP_UM or longest * um > LONGEST_UM:
        return None
    length = _longest(np.concatenate([one.hull, other.hull]))
    if length * um * um > LONGEST_UM**2:
        return None
    gap = int(_squares(one.rim, other.rim).min())
    return _Pair(length, gap, one.area + other.area, one, other) if gap * um * um <= GAP_UM**2 else None


def _longest(points: NDArray[np.int32]) -> int:
    """The squared distance of the two points that are farthest apart."""
    return int(_squares(points, points).max())


def _squares(some: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
    """The squared distances of each of some points, (K, 2), to each of others."""
    across, down = (np.subtract.outer(one, other) for one, other in zip(some.T, others.T, strict=True))
    return np.asarray(across * across + down * down, np.int32)


def _one_cell(pair: _Pair, near: list[Region], cellular: Mask, inside: Mask, *, um: float) -> bool:
    """Whether what lies around the pair, and nearer to it than to any other part `near` it, is as round as one cell."""
    margin = math.ceil(AROUND_UM / um)
    window = window_around([pair.one, pair.other], margin, cellular.shape)
    nuclei = pair.one.on(window) | pair.other.on(window)
    far = approx_distance_to(nuclei)
    around = cellular[window] & (far <= AROUND_UM / um)
    others = np.zeros_like(nuclei)
    for part in near:
        if part not in (pair.one, pair.other):
            others |= part.on(window)
    if others.any():
        around &= far < approx_distance_to(others)
    whole = connected_to_core(nuclei | around, nuclei)
    beyond = 1 - inside[window]
    cut = bool(beyond.any() and (np.asarray(cv2.dilate(whole, np.ones((3, 3), np.uint8)), np.uint8) & beyond).any())
    share = ROUND_CUT if cut else ROUND_LOBE if min(pair.one.area, pair.other.area) * um * um < LOBE_UM2 else ROUND
    long, short = axes(whole)
    return long * um <= LONGEST_UM and short >= share * long


def axes(mask: Mask) -> tuple[float, float]:
    """The long and the short axis of the ellipse that has the mask's second moments, in pixels."""
    moments = cv2.moments(mask, binaryImage=True)
    # whole numbers until the end, so that a turned mask has the same axes to the last digit
    count, x, y, xx, yy, xy = (int(moments[name]) for name in ("m00", "m10", "m01", "m20", "m02", "m11"))
    if not count:
        return 0.0, 0.0
    across, down, slant = count * xx - x * x, count * yy - y * y, count * xy - x * y
    middle, spread = (across + down) / 2, math.hypot((across - down) / 2, slant)
    return 4 * math.sqrt(middle + spread) / count, 4 * math.sqrt(max(middle - spread, 0.0)) / count


def grow_cytoplasm(nucleus: Region, others: list[Region], cellular: Mask, um: float) -> Region:
    """The cell around a nucleus. `cellular` masks what is stained like a white cell; `others` are all other nuclei."""
    margin = math.ceil(GROW_UM / um) + 2
    window = window_around([nucleus], margin, cellular.shape)
    own = nucleus.on(window)
    far = approx_distance_to(own)
    mask = cellular[window] & (far <= GROW_UM / um)
    theirs = np.zeros_like(own)
    for other in others:
        if other is not nucleus and boxes_apart(other, nucleus) <= 2 * margin:
            theirs |= other.on(window)
    if theirs.any():
        mask &= far < approx_distance_to(theirs)
    mask |= own
    rows, columns = around(mask, 0)
    edge = math.ceil(SMOOTH_UM / um) + 1  # nothing, for the brush to reach into
    mask, own = (framed(part[rows, columns], edge) for part in (mask, own))
    corner = window[1].start + columns.start - edge, window[0].start + rows.start - edge
    return region_of(_one_piece(mask, own, um), corner)


def open_mask(mask: Mask, um: float) -> Mask:
    """The mask without what is narrower than a cell's bumps."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _brush(THREAD_UM, um)), np.uint8)


def _one_piece(mask: Mask, nucleus: Mask, um: float) -> Mask:
    """The part of the mask that holds the nucleus, smooth and without holes."""
    brush = _brush(SMOOTH_UM, um)
    smooth = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, brush), np.uint8) | nucleus
    closed = np.asarray(cv2.morphologyEx(connected_to_core(smooth, nucleus), cv2.MORPH_CLOSE, brush), np.uint8)
    whole = fill_holes(closed, float(closed.size))
    return np.asarray(cv2.dilate(whole, _brush(RIM_UM, um)), np.uint8)


def _brush(radius_um: float, um: float) -> Mask:
    """A disc of at least one pixel to each side."""
    return disc(max(radius_um / um, 1.0))
