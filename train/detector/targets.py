"""What a detector's maps should show: bells on the middles of cells, their boxes, and their groups."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.train.detector.pictures import Sample
from blastscope.train.detector.sources import WHITE
from blastscope.train.detector.trunk_maps import STRIDE

KINDS = 3  # channels of the heat map: white cell, red cell, platelet
WIDTH = 0.09  # standard deviation of a bell, of the box's side
LEAST_WIDTH = 0.45  # pixels of the map
BOX_FROM = 0.3  # a box is learnt where its bell is at least this high
UNKNOWN_GROUP = -1


class Targets(NamedTuple):
    """For N pictures of side S, maps of side M = S / 8."""

    heat: NDArray[np.float16]  # (N, 3, M, M), 1 on the middle of a cell
    known: NDArray[np.bool_]  # (N, 3, M, M), where the heat is known
    box: NDArray[np.float16]  # (N, 4, M, M), pixels from the middle of this place to the box's left, top, right and bottom
    weight: NDArray[np.float16]  # (N, M, M), of the box; 0: there is none
    group: NDArray[np.int8]  # (N, M, M), index in GROUPS, or -1


def encode(sample: Sample) -> Targets:
    """The targets of one picture, N = 1."""
    side = sample.picture.shape[0] // STRIDE
    heat = np.zeros((KINDS, side, side), np.float32)
    box, weight = np.zeros((4, side, side), np.float32), np.zeros((side, side), np.float32)
    group = np.full((side, side), UNKNOWN_GROUP, np.int8)
    middles = (np.arange(side) + 0.5) * STRIDE
    corners, labels, groups, sized = sample.boxes
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    for at in np.argsort(-areas, kind="stable"):  # the smaller box has the last word
        x0, y0, x1, y1 = (float(value) for value in corners[at])
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        across, down = (max(WIDTH * length / STRIDE, LEAST_WIDTH) * STRIDE for length in (x1 - x0, y1 - y0))
        bell = np.exp(
            -(
                ((middles - (x0 + x1) / 2) ** 2)[None] / (2 * across**2)
                + ((middles - (y0 + y1) / 2) ** 2)[:, None] / (2 * down**2)
            )
        ).astype(np.float32)
        bell /= max(float(bell.max()), 1e-6)
        heat[labels[at]] = np.maximum(heat[labels[at]], bell)
        inside = bell >= BOX_FROM
        weight[inside] = bell[inside] * (1.0 if sized[at] else 0.0) * (1.0 if labels[at] == WHITE else 0.4)
        edges = (middles[None] - x0, middles[:, None] - y0, x1 - middles[None], y1 - middles[:, None])
        for channel, edge in enumerate(edges):
            box[channel][inside] = np.broadcast_to(edge, inside.shape)[inside]
        group[inside] = groups[at] if labels[at] == WHITE else UNKNOWN_GROUP
    whole = np.stack([cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA) for plane in sample.complete]) > 0.5
    known = np.stack([whole[0], whole[1], whole[1]]) | (heat > 0.05)
    return Targets(
        heat[None].astype(np.float16), known[None], box[None].astype(np.float16), weight[None].astype(np.float16), group[None]
    )


def joined(parts: list[Targets]) -> Targets:
    """The targets of many pictures as one."""
    return Targets(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
