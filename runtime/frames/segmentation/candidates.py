"""Candidate regions: where in a frame nuclei may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.mask_geometry import Mask
from blastscope.runtime.frames.segmentation.stain_map import StainMap
from blastscope.runtime.types import Box

LOBES_UM = 4.0  # stained parts that are nearer than this are looked at together
CLOSEST_UM = 0.5  # the least gap at which a wide group is parted
WIDEST_UM = 26.0  # no cell is wider
LEAST_UM2 = 8.0  # of stain: less is no nucleus
SPECK_UM2 = 0.5
MOST_UM2 = 700.0  # what is larger than any nucleus may be a ring
RING_SHARE = 0.3  # of what it encloses: a ring covers less

NOISE_RUNS = 100_000  # of stained pixels side by side: a frame full of cells has some ten thousand

Outline = NDArray[np.int32]  # (K, 1, 2), x and y


@dataclass(frozen=True, slots=True, eq=False)
class CandidateRegion:
    """Stained parts that may be lobes of one nucleus or nuclei that touch, in pixels of the working frame."""

    box: Box
    wide: bool  # of so much that a tile may show only a piece of it
    outlines: tuple[Outline, ...]  # of each part


def find_candidates(whole: StainMap) -> list[CandidateRegion]:
    """The places of a frame that may hold nuclei, each once."""
    found = []
    for group, wide in _groups(_parts(whole), whole.um, LOBES_UM):
        if sum(map(cv2.contourArea, group)) * whole.um**2 >= LEAST_UM2:
            found.append(CandidateRegion(_box(group), wide, tuple(group)))
    return found


def _parts(whole: StainMap) -> list[Outline]:
    """The outlines of all that is stained like a nucleus and larger than a speck."""
    outlines, levels = cv2.findContours(_without_specks(whole.stained, whole.um), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer: list[int] = [] if levels is None else np.flatnonzero(levels[0, :, 3] < 0).tolist()
    candidates = [np.asarray(outlines[index], np.int32) for index in outer]
    large = [part for part in candidates if cv2.contourArea(part) * whole.um**2 > SPECK_UM2]
    return [part for part in large if not _ring(part, whole)]


def _without_specks(stained: Mask, um: float) -> Mask:
    """The mask, of noise without the specks: each outline takes a hundred times the memory and time of its pixels."""
    if np.count_nonzero(stained[:, 1:] > stained[:, :-1]) < NOISE_RUNS:
        return stained
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(stained, connectivity=8, ltype=cv2.CV_32S)
    across, down = boxes[:, cv2.CC_STAT_WIDTH] - 1, boxes[:, cv2.CC_STAT_HEIGHT] - 1
    large = (across * down * um**2 > SPECK_UM2).astype(np.uint8)  # as outlines are measured: from middle to middle
    large[0] = 0
    return np.asarray(large[labels], np.uint8)


def _groups(parts: list[Outline], um: float, gap_um: float) -> Iterator[tuple[list[Outline], bool]]:
    """Parts that are to be looked at together, and whether they reach wide; what does is linked more closely, if it can be."""
    for group in _linked(parts, gap_um / um):
        x0, y0, x1, y1 = _box(group)
        wide = max(x1 - x0, y1 - y0) * um > WIDEST_UM
        if wide and len(group) > 1 and gap_um > CLOSEST_UM:
            yield from _groups(group, um, gap_um / 2)
        else:
            yield group, wide


def _box(outlines: list[Outline]) -> Box:
    x, y, width, height = cv2.boundingRect(np.concatenate(outlines))
    return x, y, x + width, y + height


def _ring(outline: Outline, whole: StainMap) -> bool:
    """Whether a stained part is but a ring around something, as around a bubble or a field of view."""
    x, y, width, height = cv2.boundingRect(outline)
    if cv2.contourArea(outline) * whole.um**2 < MOST_UM2:
        return False
    filled = np.zeros((height, width), np.uint8)
    cv2.drawContours(filled, [outline], -1, (1,), cv2.FILLED, offset=(-x, -y))
    shown = filled & whole.stained[y : y + height, x : x + width]  # and what it encloses, which has its own outline
    left, top = (outline[0, 0] - (x, y)).tolist()
    own = cv2.floodFill(shown, None, (left, top), (2,), flags=8)[0]
    return own <= RING_SHARE * cv2.countNonZero(filled)


def _linked(outlines: list[Outline], gap: float) -> list[list[Outline]]:
    """The outlines whose boxes lie within `gap` of each other, or of one between them."""
    if not outlines:
        return []
    x, y, width, height = np.asarray([cv2.boundingRect(outline) for outline in outlines]).T
    x0, y0, x1, y1 = x - gap, y - gap, x + width, y + height
    left = np.ones(len(outlines), np.bool_)
    groups = []
    for first in range(len(outlines)):
        waiting = [first] if left[first] else []
        left[first] = False
        group = []
        while waiting:
            at = waiting.pop()
            group.append(outlines[at])
            near = np.flatnonzero(left & (x0 <= x1[at]) & (x0[at] <= x1) & (y0 <= y1[at]) & (y0[at] <= y1))
            left[near] = False
            waiting += near.tolist()
        if group:
            groups.append(group)
    return groups
