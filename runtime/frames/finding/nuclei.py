"""The stained parts in one place: whole nuclei, lobes of nuclei, and what is cut apart at a neck.

Nothing depends on the order in which parts are met: what two have an equal claim to belongs to neither.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.part import Mask, Part, deeper_in, depth_in, fill_holes, part_of, squares_to

HOLE_UM2 = 4.0  # smaller gaps in a nucleus are chromatin
PART_UM = 0.5  # inscribed radius of the least lobe
PART_UM2 = 0.5  # a disc of that radius covers more, however coarse the pixels
CONVEX = 0.97  # what fills so much of its hull has no neck
NECK = 0.72  # a neck narrower than this share of both parts parts them
STEP_UM = 0.2  # between the depths at which necks are looked for
LEAST_UM2 = 14.0  # a platelet covers less
LEAST_RADIUS_UM = 1.0


def parts_of(stained: Mask, um: float) -> list[Part]:
    """The parts of what is stained in a picture of `um` micrometres a pixel, cut at their necks."""
    sums = np.asarray(cv2.boxFilter(stained, cv2.CV_16S, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE))
    smooth = (sums > 4).view(np.uint8)
    left, top, across, down = cv2.boundingRect(smooth)  # labelling takes its time beyond it too
    if not across:
        return []  # of an empty picture OpenCV's labels end the process
    mask = fill_holes(smooth[top : top + down, left : left + across], HOLE_UM2 / um**2)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    parts: list[Part] = []
    for index, (x, y, width, height, area) in enumerate(stats[1:count].tolist(), 1):
        if area * um * um < PART_UM2:
            continue
        own = (labels[y : y + height, x : x + width] == index).view(np.uint8)
        parts.extend(_cut(own, (left + x, top + y), um))
    return parts


def large_enough(part: Part, um: float) -> bool:
    """Whether so much stain is a nucleus, and not a platelet or a thread of dye."""
    return part.area * um * um >= LEAST_UM2 and _reaches(part.mask, LEAST_RADIUS_UM / um)


def _cut(own: Mask, corner: tuple[int, int], um: float) -> list[Part]:
    """The parts of one piece."""
    if not _reaches(own, PART_UM / um):
        return []
    seeds = [own] if _convex(own) else _seeds(own, depth_in(own), um)
    if len(seeds) == 1:
        return [part_of(own, corner)]
    squares = np.stack([squares_to(seed) for seed in seeds])
    least = squares == squares.min(axis=0)
    claimed = own & (least.sum(axis=0) == 1)
    return [part_of(claimed & theirs, corner) for theirs in least]


def _reaches(mask: Mask, radius: float) -> bool:
    """Whether a disc of this radius, in pixels, lies somewhere in the mask."""
    return bool(deeper_in(mask, radius * (1 - 1e-6)).any())  # just so deep is enough


def _convex(own: Mask) -> bool:
    outlines = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    return cv2.contourArea(outlines[0]) >= CONVEX * cv2.contourArea(cv2.convexHull(outlines[0]))


def _seeds(own: Mask, depth: NDArray[np.float32], um: float) -> list[Mask]:
    """The cores of what necks part, found by sinking into the mask until it falls apart."""
    seeds = [own]
    deepest = float(depth.max())
    level = STEP_UM / um
    while level < deepest * NECK:
        seeds = [core for seed in seeds for core in _fallen_apart(seed, depth, level, um)]
        level += STEP_UM / um
    return seeds


def _fallen_apart(seed: Mask, depth: NDArray[np.float32], level: float, um: float) -> list[Mask]:
    """The cores of `seed` below `level`, where there are at least two worth the name; else the seed."""
    count, labels = cv2.connectedComponents(seed & (depth > level), connectivity=8)
    if count <= 2:
        return [seed]
    cores = [(labels == index).astype(np.uint8) for index in range(1, count)]
    deepest = [float(depth[core > 0].max()) for core in cores]
    deep = [core for core, most in zip(cores, deepest, strict=True) if level < NECK * most and most * um > PART_UM]
    return deep if len(deep) > 1 else [seed]
