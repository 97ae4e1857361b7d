"""`influence_zones`: a mask shared out among seeds, each pixel to the nearest one.

Each seed is looked at in a window of its own: memory and time go with the area, and not with the number of seeds times it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from blastscope.runtime.frames.mask_geometry import Region, region_of, squares_to, window_around


def influence_zones(own: Region, seeds: Sequence[Region], reach: int) -> list[Region]:
    """Of each seed what of `own` is nearer to it than to any other, and at most `reach` pixels away.

    The seeds lie in `own` and don't overlap. What two are equally near to is no one's.
    """
    here = [replace(seed, x=seed.x - own.x, y=seed.y - own.y) for seed in seeds]
    joint = np.zeros_like(own.mask)
    for seed in here:
        joint[seed.window] |= seed.mask
    least = squares_to(joint)
    shared = own.mask * (least <= reach * reach).view(np.uint8)
    margin = math.isqrt(int(least[shared > 0].max(initial=0))) + 1  # no pixel is farther from its seed
    windows = [window_around([seed], margin, own.mask.shape) for seed in here]
    nearest = [(squares_to(seed.on(near)) == least[near]).view(np.uint8) for seed, near in zip(here, windows, strict=True)]
    claims = np.zeros(own.mask.shape, np.uint16)
    for near, theirs in zip(windows, nearest, strict=True):
        claims[near] += theirs
    alone = shared * (claims == 1).view(np.uint8)
    zones = []
    for (rows, columns), theirs in zip(windows, nearest, strict=True):
        corner = own.x + columns.start, own.y + rows.start
        zones.append(region_of(alone[rows, columns] & theirs, corner))
    return zones
