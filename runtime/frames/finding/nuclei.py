"""The stained parts in one place: whole nuclei, lobes of nuclei, and what is cut apart at a neck.

Nothing depends on the order in which parts are met: what two have an equal claim to belongs to neither.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.finding.pieces import Pieces, pieces_of
from blastscope.runtime.frames.part import Mask, Part, deeper_in, depth_in, part_of, squares_to

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
    return [part for piece in smooth_pieces(stained, um).drawn(PART_UM2 / um**2) for part in _cut(piece, um)]


def smooth_pieces(stained: Mask, um: float) -> Pieces:
    """What hangs together of what is stained, smooth, and without the gaps of its chromatin."""
    sums = np.asarray(cv2.boxFilter(stained, cv2.CV_16S, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE))
    return pieces_of((sums > 4).view(np.uint8), holes=HOLE_UM2 / um**2)


def large_enough(part: Part, um: float) -> bool:
    """Whether so much stain is a nucleus, and not a platelet or a thread of dye."""
    return part.area * um * um >= LEAST_UM2 and _reaches(part.mask, LEAST_RADIUS_UM / um)


def _cut(whole: Part, um: float) -> list[Part]:
    """The parts of one piece."""
    own = whole.mask
    if not _reaches(own, PART_UM / um):
        return []
    seeds = [] if _convex(own) else _seeds(part_of(own), depth_in(own), um)
    if len(seeds) < 2:
        return [whole]
    every = slice(0, own.shape[0]), slice(0, own.shape[1])
    squares = np.stack([squares_to(seed.on(every)) for seed in seeds])
    least = squares == squares.min(axis=0)
    claimed = own & (least.sum(axis=0) == 1)
    return [part_of(claimed & theirs, (whole.x, whole.y)) for theirs in least]


def _reaches(mask: Mask, radius: float) -> bool:
    """Whether a disc of this radius, in pixels, lies somewhere in the mask."""
    return bool(deeper_in(mask, radius * (1 - 1e-6)).any())  # just so deep is enough


def _convex(own: Mask) -> bool:
    outlines = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    return cv2.contourArea(outlines[0]) >= CONVEX * cv2.contourArea(cv2.convexHull(outlines[0]))


def _seeds(seed: Part, depth: NDArray[np.float32], um: float, first: int = 1) -> list[Part]:
    """The cores of what necks part, found by sinking into `seed` until it falls apart, from the step `first` of STEP_UM on."""
    deep = depth[seed.window] * seed.mask
    step, deepest = STEP_UM / um, float(deep.max())
    while first * step < NECK * deepest:
        # cores worth the name at this step reach deeper than `last`: what is one piece there was one all the way down to it
        last = max(int(first / NECK), int(PART_UM / STEP_UM))
        if len(pieces_of((deep > last * step).view(np.uint8))) > 1:
            for here in range(first, last + 1):
                cores = _cores(seed, deep, here * step, um)
                if len(cores) > 1:
                    return [part for core in cores for part in _seeds(core, depth, um, here + 1)]
        first = last + 1
    return [seed]


def _cores(seed: Part, deep: NDArray[np.float32], level: float, um: float) -> list[Part]:
    """The cores of `seed` below `level` that are worth the name, by how `deep` it is; none where it is in one piece."""
    pieces = pieces_of((deep > level).view(np.uint8))
    found = []
    for core in pieces.drawn() if len(pieces) > 1 else ():
        most = float((deep[core.window] * core.mask).max())
        if level < NECK * most and most * um > PART_UM:
            found.append(replace(core, x=seed.x + core.x, y=seed.y + core.y))
    return found
