"""Connected components of the stain map, and nuclei split at their necks.

Nothing depends on the order in which parts are met: what two have an equal claim to belongs to neither.

What hangs together in a mask, by its corners too, and its holes, is found by outlines: OpenCV's labelling takes as long, and
wakes threads of its own, which then keep a core busy with waiting.

A mask is shared out among seeds (`influence_zones`), each of which is looked at in a window of its own: memory and time go with
the area, and not with the number of seeds times it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.mask_geometry import (
    Mask,
    Region,
    disc,
    distance_inside,
    erode_by,
    region_of,
    squares_to,
    window_around,
)

HOLE_UM2 = 4.0  # smaller gaps in a nucleus are chromatin
PART_UM = 0.5  # inscribed radius of the least lobe
PART_UM2 = 0.5  # a disc of that radius covers more, however coarse the pixels
CONVEX = 0.97  # what fills so much of its hull has no neck
LARGEST_UM2 = 450.0  # no cell's nucleus covers more
NECK = 0.72  # a neck narrower than this share of both parts parts them
STEP_UM = 0.2  # between the depths at which necks are looked for
LEAST_UM2 = 14.0  # a platelet covers less
LEAST_RADIUS_UM = 1.0
MOST_PARTS = 800  # so many in one place are noise or dirt, not nuclei
# What is wider than two cells and covers so little of its box is a hair, a ruling or a net of fibrin. Each has the box of a
# whole frame, which a thousand of them would fill the memory with.
SPRAWL_UM, SPRAWL_SHARE = 52.0, 0.1
THREAD_UM = 2.0  # half the width of what is taken for a thread there: nuclei on it are wider
Outline = NDArray[np.int32]  # (K, 1, 2), x and y


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


def split_nuclei(stained: Mask, um: float) -> list[Region]:
    """The parts of what is stained in a picture of `um` micrometres a pixel, cut at their necks.

    At the part that is one more than `MOST_PARTS` it stops: so many are noise, and nobody asks which.
    """
    smooth = smooth_pieces(stained, um)
    least, widest = PART_UM2 / um**2, SPRAWL_UM / um
    parts: list[Region] = []
    for piece in chain(smooth.drawn(least, widest), _without_threads(smooth, stained.shape, um)):
        parts += _cut(piece, um)
        if len(parts) > MOST_PARTS:
            break
    return parts


def _without_threads(smooth: Components, shape: tuple[int, ...], um: float) -> Iterator[Region]:
    """What is left of pieces that sprawl, such as hairs and rulings, where they are no wider than a thread: nuclei on them."""
    threads = smooth.sprawling(SPRAWL_UM / um)
    if not threads:
        return
    mask = np.zeros(shape[:2], np.uint8)
    cv2.drawContours(mask, threads, -1, (1,), cv2.FILLED)
    reach = THREAD_UM / um
    wide = np.asarray(cv2.dilate(erode_by(mask, reach), disc(reach)), np.uint8)
    yield from components_of(wide).drawn(PART_UM2 / um**2, SPRAWL_UM / um)


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
    seeds = [] if _convex(own, um) else _seeds(region_of(own), distance_inside(own), um)
    if len(seeds) < 2:
        return [whole]
    if len(seeds) > MOST_PARTS:
        return seeds
    zones = influence_zones(region_of(own), seeds, math.ceil(SPRAWL_UM / um))
    return [replace(zone, x=zone.x + whole.x, y=zone.y + whole.y) for zone in zones]


def _reaches(mask: Mask, radius: float) -> bool:
    """Whether a disc of this radius, in pixels, lies somewhere in the mask."""
    return bool(erode_by(mask, radius * (1 - 1e-6)).any())  # just so deep is enough


def _convex(own: Mask, um: float) -> bool:
    """Whether a piece fills its hull. The gaps between the nuclei of a crowd count, those in a nucleus of its size don't."""
    outlines = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    hull = cv2.contourArea(cv2.convexHull(outlines[0]))
    filled = cv2.contourArea(outlines[0]) if hull * um * um <= LARGEST_UM2 else cv2.countNonZero(own)
    return filled >= CONVEX * hull


def _seeds(whole: Region, depth: NDArray[np.float32], um: float) -> list[Region]:
    """The cores of what necks part, found by sinking into `whole`, step by step of STEP_UM, until it falls apart."""
    waiting, found = [(whole, 1)], list[Region]()
    while waiting and len(waiting) + len(found) <= MOST_PARTS:
        seed, first = waiting.pop()
        deep = depth[seed.window] * seed.mask
        cores, here = _fall_apart(seed, deep, um, first)
        if cores:
            waiting += [(core, here + 1) for core in reversed(cores)]
        else:
            found.append(seed)
    return found + [seed for seed, _ in waiting]


def _fall_apart(seed: Region, deep: NDArray[np.float32], um: float, first: int) -> tuple[list[Region], int]:
    """What `seed` falls into at the first step, from `first` on, where it does, and that step; nothing where it never does."""
    step, deepest = STEP_UM / um, float(deep.max())
    while first * step < NECK * deepest:
        # cores worth the name at this step reach deeper than `last`: what is one piece there was one all the way down to it
        last = max(int(first / NECK), int(PART_UM / STEP_UM))
        if len(components_of((deep > last * step).view(np.uint8))) > 1:
            for here in range(first, last + 1):
                cores = _cores(seed, deep, here * step, um)
                if len(cores) > 1:
                    return cores, here
        first = last + 1
    return [], first


def _cores(seed: Region, deep: NDArray[np.float32], level: float, um: float) -> list[Region]:
    """The cores of `seed` below `level` that are worth the name, by how `deep` it is; none where it is in one piece."""
    pieces = components_of((deep > level).view(np.uint8))
    found = []
    for core in pieces.drawn(widest=SPRAWL_UM / um) if len(pieces) > 1 else ():
        most = float((deep[core.window] * core.mask).max())
        if level < NECK * most and most * um > PART_UM:
            found.append(replace(core, x=seed.x + core.x, y=seed.y + core.y))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The pieces of a mask. They are counted by their outlines, and drawn one by one as they are asked for.

    Attributes
    ----------
    outlines : list of (K, 1, 2) int32 arrays
        Of pieces and of holes.
    levels : list of list of int
        For each outline the numbers of the ones next to it, before it, in it and around it, or -1: OpenCV's hierarchy.
    """

    outlines: list[Outline]
    levels: list[list[int]]

    def __len__(self) -> int:
        """How many there are."""
        return sum(outer < 0 for *_, outer in self.levels)

    def drawn(self, least: float = 0.0, widest: float = math.inf) -> Iterator[Region]:
        """Each piece of at least so many pixels, in pixels of the mask, but for those that sprawl wider than `widest`."""
        for number, (outline, (*_, outer)) in enumerate(zip(self.outlines, self.levels, strict=True)):
            x, y, width, height = cv2.boundingRect(outline)
            if outer < 0 and width * height >= least and not self._sprawls(number, widest):
                own = np.zeros((height, width), np.uint8)
                cv2.drawContours(own, self._edges(number), -1, (1,), cv2.FILLED, offset=(-x, -y))
                area = cv2.countNonZero(own)
                if area >= least:
                    yield Region(x, y, own, area)

    def sprawling(self, widest: float) -> list[Outline]:
        """The outlines, of their holes too, of the pieces that are wider than `widest` and cover little of their box."""
        outer = [number for number, (*_, around) in enumerate(self.levels) if around < 0]
        return [edge for number in outer if self._sprawls(number, widest) for edge in self._edges(number)]

    def _sprawls(self, number: int, widest: float) -> bool:
        _, _, width, height = cv2.boundingRect(self.outlines[number])
        if max(width, height) <= widest:
            return False
        whole, *holes = (cv2.contourArea(edge) for edge in self._edges(number))
        return whole - sum(holes) < SPRAWL_SHARE * width * height

    def _edges(self, number: int) -> list[Outline]:
        """The outline of a piece and those of its holes."""
        edges, hole = [self.outlines[number]], self.levels[number][2]
        while hole >= 0:
            edges.append(self.outlines[hole])
            hole = self.levels[hole][0]
        return edges

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


def connected_to_core(mask: Mask, core: Mask) -> Mask:
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
