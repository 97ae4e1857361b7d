"""Candidate regions: where in a frame nuclei may be, and the stain maps of a region or a cell that all later steps look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import Grid, downsample, grid_around
from blastscope.runtime.frames.mask_geometry import Mask, Region, boxes_apart, window_around
from blastscope.runtime.frames.segmentation.stain_map import StainMap
from blastscope.runtime.frames.stain import STEP
from blastscope.runtime.frames.thresholding import median
from blastscope.runtime.frames.types import FrameParameters
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
UNIT = 9 * STEP  # of `stain`, whose pixels are sums over nine
OWN_SHARE = 0.45  # of the usual stain of this place, where that is more than the frame's threshold

AROUND_UM, FEWEST_AROUND = 2.0, 100  # of the edge of a view, where no cytoplasm of its own reaches; pixels that tell
LEAST_SHIFT = 0.3  # of the cells' threshold: by more it isn't lowered, since red cells vary more than it


@dataclass(frozen=True, slots=True, eq=False)
class CandidateRegion:
    """Stained parts that may be lobes of one nucleus or nuclei that touch, in pixels of the working frame.

    Attributes
    ----------
    box : (x0, y0, x1, y1)
        Around all parts.
    wide : bool
        Whether it is so large that a tile may show only a piece of it.
    outlines : tuple of (K, 2) int32 arrays
        One for each part.
    """

    box: Box
    wide: bool
    outlines: tuple[Outline, ...]


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


@dataclass(frozen=True, slots=True, eq=False)
class RegionView:
    """The nuclear stain around a place, in pixels of `um` micrometres.

    Attributes
    ----------
    grid : Grid
        Where the view lies in the frame.
    um : float
        Micrometres per pixel of the view.
    parameters : FrameParameters
        The frame's scale and stain.
    picture : (H, W, 3) uint8 array
        RGB.
    stain : (H, W) int32 array
        Nuclear stain, summed over 3 x 3 pixels, in 1 / UNIT.
    inside : (H, W) uint8 array
        1 where the frame shows something.
    own : (H, W) uint8 array
        1 where the stain is this place's, and not a neighbour's that the margin shows.
    nuclear : (H, W) uint8 array
        1 where the stain is a nucleus'.
    cellular : (H, W) uint8 array
        1 where it is at least a white cell's.
    """

    grid: Grid
    um: float
    parameters: FrameParameters
    picture: NDArray[np.uint8]
    stain: NDArray[np.int32]
    inside: Mask
    own: Mask
    nuclear: Mask
    cellular: Mask


def view_region(whole: StainMap, place: CandidateRegion, margin_um: float) -> RegionView:
    """The view of `place` with `margin_um` around it."""
    um, parameters = whole.um, whole.parameters
    window = grid_around(place.box, 1, math.ceil(margin_um / um))
    grid = whole.grid.part(window)
    picture, raw = downsample(whole.picture, window), downsample(whole.stain, window)
    inside = np.zeros(raw.shape, np.uint8)
    inside[grid.inside(whole.shape)] = 1
    own = _own(place, window)
    if whole.surround is not None:
        inside &= 1 - downsample(whole.surround, window)
    stain = _summed(raw)
    stain *= inside
    level = round(parameters.nucleus_threshold * UNIT)
    usual = stain[(stain > level) & (own > 0)]
    if len(usual) and not place.wide:  # a tile may not show all of a wide place
        level = max(level, round(OWN_SHARE * median(usual)))
    cell = round(parameters.cell_threshold * UNIT)
    if not place.wide:
        shown = np.zeros_like(inside)
        x0, y0, x1, y1 = parameters.content
        rim = grid.factor  # what is beyond, background or nothing, is in the sums of the outermost too
        part = grid.within((x0 + rim, y0 + rim, x1 - rim, y1 - rim))
        shown[part] = (stain[part] <= level) & (inside[part] > 0)
        cell += max(_around(stain, shown, um), -round(LEAST_SHIFT * cell))
    cellular = (_summed(stain) > 9 * cell).view(np.uint8) & inside
    return RegionView(grid, um, parameters, picture, stain, inside, own, (stain > level).view(np.uint8), cellular)


def _around(stain: NDArray[np.int32], shown: Mask, um: float) -> int:
    """How far the usual stain along the edge of the view is from nothing: light is not of one colour all over a frame."""
    band = math.ceil(AROUND_UM / um)
    edge = shown.copy()
    edge[band:-band, band:-band] = 0
    around = stain[edge > 0]
    return round(median(around)) if len(around) >= FEWEST_AROUND else 0


def _own(place: CandidateRegion, window: Grid) -> Mask:
    own = np.zeros((window.height, window.width), np.uint8)
    cv2.drawContours(own, place.outlines, -1, (1,), cv2.FILLED, offset=(-window.x0, -window.y0))
    return own


def _summed(values: NDArray[np.int16] | NDArray[np.int32]) -> NDArray[np.int32]:
    """The sums over 3 x 3 pixels, exact."""
    return np.asarray(cv2.boxFilter(values, cv2.CV_32S, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class CellView:
    """A window around one cell, in pixels of `um` micrometres.

    Attributes
    ----------
    um : float
        Micrometres per pixel of the view.
    parameters : FrameParameters
        The frame's scale and stain.
    picture : (H, W, 3) uint8 array
        RGB.
    stain : (H, W) int32 array
        Nuclear stain, as in `RegionView`.
    inside : (H, W) uint8 array
        1 where the frame shows something.
    cell, nucleus : (H, W) uint8 array
        1 where they lie.
    others : (H, W) uint8 array or None
        1 in cells that touch this one; None where none does.
    """

    um: float
    parameters: FrameParameters
    picture: NDArray[np.uint8]
    stain: NDArray[np.int32]
    inside: Mask
    cell: Mask
    nucleus: Mask
    others: Mask | None


def view_cell(view: RegionView, nucleus: Region, cell: Region, cells: list[Region], around_um: float) -> CellView:
    """What lies `around_um` and nearer to `cell`, which is one of `cells`."""
    window = window_around([cell], math.ceil(around_um / view.um) + 1, view.stain.shape)
    touching = [other.on(window) for other in cells if other is not cell and boxes_apart(other, cell) <= 1]
    return CellView(
        view.um,
        view.parameters,
        view.picture[window],
        view.stain[window],
        view.inside[window],
        cell.on(window),
        nucleus.on(window),
        np.bitwise_or.reduce(touching) if touching else None,
    )


def cropped(near: CellView) -> CellView:
    """The cell alone, to the edges of its own box."""
    x, y, width, height = cv2.boundingRect(near.cell)
    box = slice(y, y + height), slice(x, x + width)
    return replace(
        near,
        picture=near.picture[box],
        stain=near.stain[box],
        inside=near.inside[box],
        cell=near.cell[box],
        nucleus=near.nucleus[box],
        others=None,
    )
