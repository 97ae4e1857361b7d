"""Connected components of the stain map, and nuclei split at their necks.

Nothing depends on the order in which parts are met: what two have an equal claim to belongs to neither.

What hangs together in a mask, by its corners too, and its holes.

By outlines: OpenCV's labelling takes as long, and wakes threads of its own, which then keep a core busy with waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.mask_geometry import Mask, Region, distance_inside, erode_by, region_of, squares_to

HOLE_UM2 = 4.0  # smaller gaps in a nucleus are chromatin
PART_UM = 0.5  # inscribed radius of the least lobe
PART_UM2 = 0.5  # a disc of that radius covers more, however coarse the pixels
CONVEX = 0.97  # what fills so much of its hull has no neck
NECK = 0.72  # a neck narrower than this share of both parts parts them
STEP_UM = 0.2  # between the depths at which necks are looked for
LEAST_UM2 = 14.0  # a platelet covers less
LEAST_RADIUS_UM = 1.0


def split_nuclei(stained: Mask, um: float) -> list[Region]:
    """The parts of what is stained in a picture of `um` micrometres a pixel, cut at their necks."""
    return [part for piece in smooth_pieces(stained, um).drawn(PART_UM2 / um**2) for part in _cut(piece, um)]


def smooth_pieces(stained: Mask, um: float) -> Components:
    """What hangs together of what is stained, smooth, and without the gaps of its chromatin."""
    sums = np.asarray(cv2.boxFilter(stained, cv2.CV_16S, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE))
    return components_of((sums > 4).view(np.uint8), holes=HOLE_UM2 / um**2)


def large_enough(part: Region, um: float) -> bool:
    """Whether so much stain is a nucleus, and not a platelet or a thread of dye."""
    return part.area * um * um >= LEAST_UM2 and _reaches(part.mask, LEAST_RADIUS_UM / um)


def _cut(whole: Region, um: float) -> list[Region]:
    """The parts of one piece."""
    own = whole.mask
    if not _reaches(own, PART_UM / um):
        return []
    seeds = [] if _convex(own) else _seeds(region_of(own), distance_inside(own), um)
    if len(seeds) < 2:
        return [whole]
    every = slice(0, own.shape[0]), slice(0, own.shape[1])
    squares = np.stack([squares_to(seed.on(every)) for seed in seeds])
    least = squares == squares.min(axis=0)
    claimed = own & (least.sum(axis=0) == 1)
    return [region_of(claimed & theirs, (whole.x, whole.y)) for theirs in least]


def _reaches(mask: Mask, radius: float) -> bool:
    """Whether a disc of this radius, in pixels, lies somewhere in the mask."""
    return bool(erode_by(mask, radius * (1 - 1e-6)).any())  # just so deep is enough


def _convex(own: Mask) -> bool:
    outlines = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    return cv2.contourArea(outlines[0]) >= CONVEX * cv2.contourArea(cv2.convexHull(outlines[0]))


def _seeds(seed: Region, depth: NDArray[np.float32], um: float, first: int = 1) -> list[Region]:
    """The cores of what necks part, found by sinking into `seed` until it falls apart, from the step `first` of STEP_UM on."""
    deep = depth[seed.window] * seed.mask
    step, deepest = STEP_UM / um, float(deep.max())
    while first * step < NECK * deepest:
        # cores worth the name at this step reach deeper than `last`: what is one piece there was one all the way down to it
        last = max(int(first / NECK), int(PART_UM / STEP_UM))
        if len(components_of((deep > last * step).view(np.uint8))) > 1:
            for here in range(first, last + 1):
                cores = _cores(seed, deep, here * step, um)
                if len(cores) > 1:
                    return [part for core in cores for part in _seeds(core, depth, um, here + 1)]
        first = last + 1
    return [seed]


def _cores(seed: Region, deep: NDArray[np.float32], level: float, um: float) -> list[Region]:
    """The cores of `seed` below `level` that are worth the name, by how `deep` it is; none where it is in one piece."""
    pieces = components_of((deep > level).view(np.uint8))
    found = []
    for core in pieces.drawn() if len(pieces) > 1 else ():
        most = float((deep[core.window] * core.mask).max())
        if level < NECK * most and most * um > PART_UM:
            found.append(replace(core, x=seed.x + core.x, y=seed.y + core.y))
    return found


Outline = NDArray[np.int32]  # (K, 1, 2), x and y


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The pieces of a mask. They are counted by their outlines, and drawn one by one as they are asked for."""

    outlines: list[Outline]  # of pieces and of holes
    levels: list[list[int]]  # of each: the numbers of the ones next to it, before it, in it and around it, or -1

    def __len__(self) -> int:
        """How many there are."""
        return sum(outer < 0 for *_, outer in self.levels)

    def drawn(self, least: float = 0.0) -> Iterator[Region]:
        """Each piece of at least so many pixels, in pixels of the mask."""
        for outline, (_, _, hole, outer) in zip(self.outlines, self.levels, strict=True):
            x, y, width, height = cv2.boundingRect(outline)
            if outer < 0 and width * height >= least:
                edges = [outline]
                while hole >= 0:
                    edges.append(self.outlines[hole])
                    hole = self.levels[hole][0]
                own = np.zeros((height, width), np.uint8)
                cv2.drawContours(own, edges, -1, (1,), cv2.FILLED, offset=(-x, -y))
                area = cv2.countNonZero(own)
                if area >= least:
                    yield Region(x, y, own, area)

    def holes(self, largest: float) -> list[Outline]:
        """The outlines of the holes of up to `largest` pixels."""
        inner = [outline for outline, (*_, outer) in zip(self.outlines, self.levels, strict=True) if outer >= 0]
        return [hole for hole in inner if cv2.contourArea(hole) <= largest]


def components_of(mask: Mask, *, holes: float = 0.0) -> Components:
    """The pieces of `mask` once its holes of up to `holes` pixels are filled."""
    outlines, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = Components([np.asarray(outline, np.int32) for outline in outlines], levels[0].tolist() if outlines else [])
    small = found.holes(holes) if holes else []
    return components_of(_filled(mask, small)) if small else found


def fill_holes(mask: Mask, largest: float) -> Mask:
    """The mask with its holes of up to `largest` pixels filled."""
    small = components_of(mask).holes(largest)
    return _filled(mask, small) if small else mask


def largest_component(mask: Mask, core: Mask) -> Mask:
    """What of the mask is connected with the core."""
    pieces = components_of(mask)
    if len(pieces) <= 1:
        return mask
    held = np.zeros_like(mask)
    for piece in pieces.drawn():
        if (piece.mask & core[piece.window]).any():
            held[piece.window] |= piece.mask
    return held


def _filled(mask: Mask, holes: list[Outline]) -> Mask:
    filled = mask.copy()
    cv2.drawContours(filled, holes, -1, (1,), cv2.FILLED)
    return filled
