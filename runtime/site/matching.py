"""Which found cell is which labelled one: each at most once, the best overlap first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.prediction import Box

LEAST_IOU = 0.5


def match(labelled: Sequence[Box], found: Sequence[Box], *, least_iou: float = LEAST_IOU) -> dict[int, int]:
    """For each labelled box that was found the number of the found one; both ways each box counts once."""
    overlaps = iou(labelled, found)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    order = np.argsort(-overlaps, axis=None, kind="stable")
    for place in order.tolist():
        one, other = divmod(place, max(len(found), 1))
        if overlaps[one, other] < least_iou:
            break
        if one not in pairs and other not in taken:
            pairs[one] = other
            taken.add(other)
    return dict(sorted(pairs.items()))


def iou(first: Sequence[Box], second: Sequence[Box]) -> NDArray[np.float64]:
    """(A, B) the intersection of each two boxes over their union."""
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (first, second))
    corner0 = np.maximum(a[:, None, :2], b[None, :, :2])
    corner1 = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(corner1 - corner0, 0, None).prod(axis=2)
    sizes = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    union = sizes[0][:, None] + sizes[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)
