"""Which stained parts are lobes of one nucleus: those whose cell, drawn around both, is as round as one cell is.

Two cells that touch make a long shape, one cell around two lobes a round one. The nearest pairs are tried first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.nuclei import Mask, Part, nearest, part_of, squares_to

GAP_UM = 4.0  # between lobes
SURE_UM = 10.0  # so short a pair is one nucleus: two that touch are longer
LONGEST_UM = 20.0  # no lobed cell is longer
AROUND_UM = 4.0  # what counts as the pair's cell
# The short axis of one cell, of its long one. Two discs that touch have 0.45, two that overlap by a fifth 0.53.
ROUND = 0.6
ROUND_LOBE = 0.5  # where one of the two is smaller than any nucleus
ROUND_CUT = 0.35  # where the frame's edge cuts the cell
LOBE_UM2 = 28.0  # a lymphocyte's nucleus is 6 um across or more


@dataclass(frozen=True, slots=True)
class _Pair:
    one: int
    other: int
    length: int  # squared, px
    gap: int  # squared, px
    area: int


def joined(parts: list[Part], cell: Mask, inside: Mask, um: float) -> list[Part]:
    """The parts, lobes of one nucleus joined. `cell` masks what is stained like white cells, `inside` what the frame shows."""
    parts = list(parts)
    apart: set[frozenset[Part]] = set()  # pairs of parts that were found to be two cells'
    while len(parts) > 1:
        far = [squares_to(part.mask) for part in parts]
        owner = nearest(far)
        pairs = [pair for pair in _pairs(parts, far, um) if frozenset((parts[pair.one], parts[pair.other])) not in apart]
        for pair in sorted(pairs, key=lambda pair: (pair.length, pair.gap, pair.area)):
            one, other = parts[pair.one], parts[pair.other]
            near = np.minimum(far[pair.one], far[pair.other]) <= (AROUND_UM / um) ** 2
            theirs = near & ((owner == pair.one + 1) | (owner == pair.other + 1) | (one.mask | other.mask > 0))
            share = ROUND_LOBE if min(one.area, other.area) * um * um < LOBE_UM2 else ROUND
            if pair.length * um * um <= SURE_UM**2 or _one_cell(one.mask | other.mask, theirs & (cell > 0), inside, um, share):
                rest = [part for part in parts if part is not one and part is not other]
                parts = [*rest, part_of(one.mask | other.mask, one.lobes + other.lobes)]
                break
            apart.add(frozenset((one, other)))
        else:
            break
    return parts


def _pairs(parts: list[Part], far: list[NDArray[np.int32]], um: float) -> list[_Pair]:
    """The pairs near enough to be lobes of one nucleus."""
    pairs = []
    for one in range(len(parts)):
        for other in range(one + 1, len(parts)):
            gap = int(far[one][parts[other].mask > 0].min())
            length = longest(np.concatenate([parts[one].hull, parts[other].hull]))
            if gap * um * um <= GAP_UM**2 and length * um * um <= LONGEST_UM**2:
                pairs.append(_Pair(one, other, length, gap, parts[one].area + parts[other].area))
    return pairs


def longest(points: NDArray[np.int32]) -> int:
    """The squared distance of the two points that are farthest apart."""
    wide = points.astype(np.int64)
    return int(((wide[:, None] - wide[None]) ** 2).sum(axis=2).max()) if len(wide) else 0


def _one_cell(nuclei: Mask, around: NDArray[np.bool_], inside: Mask, um: float, share: float) -> bool:
    """Whether what lies around the pair is as round as one cell."""
    whole = in_one_piece(nuclei | around, nuclei)
    long, short = axes(whole)
    cut = bool((np.asarray(cv2.dilate(whole, np.ones((3, 3), np.uint8)), np.uint8) & (1 - inside)).any())
    return long * um <= LONGEST_UM and short >= (ROUND_CUT if cut else share) * long


def axes(mask: Mask) -> tuple[float, float]:
    """The long and the short axis of the ellipse that has the mask's second moments, in pixels."""
    rows, columns = (np.asarray(way, np.int64) for way in np.nonzero(mask))
    count = len(rows)
    if not count:
        return 0.0, 0.0
    # whole numbers until the end, so that a turned mask has the same axes to the last digit
    across = count * int((columns * columns).sum()) - int(columns.sum()) ** 2
    down = count * int((rows * rows).sum()) - int(rows.sum()) ** 2
    both = count * int((rows * columns).sum()) - int(rows.sum()) * int(columns.sum())
    middle, spread = (across + down) / 2, math.hypot((across - down) / 2, both)
    return 4 * math.sqrt(middle + spread) / count, 4 * math.sqrt(max(middle - spread, 0.0)) / count


def in_one_piece(mask: NDArray[np.integer], core: Mask) -> Mask:
    """What of the mask is connected with the core."""
    labels = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)[1]
    held = np.unique(labels[core > 0])
    return np.isin(labels, held[held > 0]).astype(np.uint8)
