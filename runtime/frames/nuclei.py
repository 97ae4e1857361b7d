"""The stained parts in one place: whole nuclei, lobes of nuclei, and what is cut apart at a neck.

Nothing depends on the order in which parts are met: what two have an equal claim to belongs to neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Squares = NDArray[np.int32]  # squared distances, exact

HOLE_UM2 = 4.0  # smaller gaps in a nucleus are chromatin
PART_UM = 0.5  # inscribed radius of the least lobe
NECK = 0.72  # a neck narrower than this share of both parts parts them
STEP_UM = 0.2  # between the depths at which necks are looked for
LEAST_UM2 = 14.0  # a platelet covers less
LEAST_RADIUS_UM = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some stain in a picture."""

    mask: Mask  # 0 or 1
    area: int
    hull: NDArray[np.int32]  # (K, 2)
    lobes: int = 1


def parts_of(stained: Mask, um: float) -> list[Part]:
    """The parts of what is stained in a picture of `um` micrometres a pixel."""
    return _cut(_filled(stained, um), um)


def large_enough(part: Part, um: float) -> bool:
    """Whether so much stain is a nucleus, and not a platelet or a thread of dye."""
    return part.area * um * um >= LEAST_UM2 and float(depth_in(part.mask).max()) * um >= LEAST_RADIUS_UM


def squares_to(mask: Mask) -> Squares:
    """(h, w) the squared distance of each pixel to the nearest of `mask`, as exact whole numbers."""
    far = np.asarray(cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float64)
    return np.rint(far * far).astype(np.int32)


def nearest(squares: list[Squares]) -> NDArray[np.int32]:
    """(h, w) the number, from 1, of the nearest of these; 0 where two are equally near."""
    if len(squares) == 1:
        return np.ones(squares[0].shape, np.int32)
    stack = np.stack(squares)
    least = stack.min(axis=0)
    return np.where((stack == least).sum(axis=0) == 1, stack.argmin(axis=0) + 1, 0).astype(np.int32)


def _filled(mask: Mask, um: float) -> Mask:
    """The mask without ragged edges and small holes."""
    sums = np.asarray(cv2.boxFilter(mask, cv2.CV_16S, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE))
    return fill_holes((sums > 4).astype(np.uint8), HOLE_UM2 / um**2)


def fill_holes(mask: Mask, largest: float) -> Mask:
    """The mask with its holes of up to `largest` pixels filled."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    height, width = mask.shape
    holes = [
        index
        for index, (x, y, w, h, area) in enumerate(stats[:count].tolist())
        if index and area <= largest and x > 0 and y > 0 and x + w < width and y + h < height
    ]
    return (mask | np.isin(labels, holes)).astype(np.uint8) if holes else mask


def depth_in(mask: Mask) -> NDArray[np.float32]:
    """How deep in the mask each pixel lies; beyond the picture is outside."""
    framed = np.pad(mask, 1)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)[1:-1, 1:-1]


def _cut(mask: Mask, um: float) -> list[Part]:
    """The parts of the mask, cut at its necks."""
    depth = depth_in(mask)
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    parts: list[Part] = []
    for index in range(1, count):
        own = (labels == index).astype(np.uint8)
        inner = np.where(own > 0, depth, np.float32(0))
        if inner.max() * um < PART_UM:
            continue
        seeds = _seeds(inner, um)
        if len(seeds) == 1:
            parts.append(part_of(own))
            continue
        owner = nearest([squares_to(seed) for seed in seeds])
        parts.extend(part_of(own & (owner == number)) for number in range(1, len(seeds) + 1))
    return parts


def _seeds(depth: NDArray[np.float32], um: float) -> list[Mask]:
    """The cores of what necks part, found by sinking into the mask until it falls apart."""
    seeds = [(depth > 0).astype(np.uint8)]
    deepest = float(depth.max())
    level = STEP_UM / um
    while level < deepest * NECK:
        seeds = [core for seed in seeds for core in _fallen_apart(seed, depth, level, um)]
        level += STEP_UM / um
    return seeds


def _fallen_apart(seed: Mask, depth: NDArray[np.float32], level: float, um: float) -> list[Mask]:
    """The cores of `seed` below `level`, where there are at least two worth the name; else the seed."""
    count, labels = cv2.connectedComponents(((seed > 0) & (depth > level)).astype(np.uint8), connectivity=8)
    if count <= 2:
        return [seed]
    cores = [(labels == index).astype(np.uint8) for index in range(1, count)]
    deep = [
        core for core in cores if level < NECK * float(depth[core > 0].max()) and float(depth[core > 0].max()) * um > PART_UM
    ]
    return deep if len(deep) > 1 else [seed]


def part_of(mask: Mask, lobes: int = 1) -> Part:
    """The part that a mask shows."""
    points = cv2.findNonZero(mask)
    hull = cv2.convexHull(points).reshape(-1, 2) if points is not None else np.zeros((0, 2))
    return Part(mask, int(cv2.countNonZero(mask)), np.asarray(hull, np.int32), lobes)
