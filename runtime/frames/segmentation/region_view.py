"""Stain maps of one candidate region and of one cell, at working resolution, for all steps of the segmentation.

One found cell with what is around it: what is looked at to judge whether it may be called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.image_pyramid import Grid, downsample, grid_around
from blastscope.runtime.frames.mask_geometry import Mask, Region, boxes_apart, window_around
from blastscope.runtime.frames.segmentation.candidates import CandidateRegion
from blastscope.runtime.frames.segmentation.stain_map import StainMap
from blastscope.runtime.frames.stain import STEP
from blastscope.runtime.frames.thresholding import median
from blastscope.runtime.frames.types import FrameParameters

UNIT = 9 * STEP  # of `stain`, whose pixels are sums over nine
OWN_SHARE = 0.45  # of the usual stain of this place, where that is more than the frame's threshold

AROUND_UM, FEWEST_AROUND = 2.0, 100  # of the edge of a view, where no cytoplasm of its own reaches; pixels that tell
LEAST_SHIFT = 0.3  # of the cells' threshold: by more it isn't lowered, since red cells vary more than it


@dataclass(frozen=True, slots=True, eq=False)
class RegionView:
    """The nuclear stain around a place, in pixels of `um` micrometres."""

    grid: Grid
    um: float
    facts: FrameParameters
    picture: NDArray[np.uint8]  # (H, W, 3) RGB
    stain: NDArray[np.int32]  # summed over 3 x 3 pixels, in 1/UNIT
    inside: Mask  # 1 where the frame shows something
    own: Mask  # 1 where the stain is this place's, and not a neighbour's that the margin shows
    nuclear: Mask  # 1 where the stain is a nucleus'
    cellular: Mask  # 1 where it is at least a white cell's


def view_region(whole: StainMap, place: CandidateRegion, margin_um: float) -> RegionView:
    """The view of `place` with `margin_um` around it."""
    um, facts = whole.um, whole.facts
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
    level = round(facts.nucleus_threshold * UNIT)
    usual = stain[(stain > level) & (own > 0)]
    if len(usual) and not place.wide:  # a tile may not show all of a wide place
        level = max(level, round(OWN_SHARE * median(usual)))
    cell = round(facts.cell_threshold * UNIT)
    if not place.wide:
        shown = np.zeros_like(inside)
        x0, y0, x1, y1 = facts.content
        rim = grid.factor  # what is beyond, glass or nothing, is in the sums of the outermost too
        part = grid.within((x0 + rim, y0 + rim, x1 - rim, y1 - rim))
        shown[part] = (stain[part] <= level) & (inside[part] > 0)
        cell += max(_around(stain, shown, um), -round(LEAST_SHIFT * cell))
    cellular = (_summed(stain) > 9 * cell).view(np.uint8) & inside
    return RegionView(grid, um, facts, picture, stain, inside, own, (stain > level).view(np.uint8), cellular)


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
    """A window around one cell, in pixels of `um` micrometres."""

    um: float
    facts: FrameParameters
    picture: NDArray[np.uint8]  # (H, W, 3) RGB
    stain: NDArray[np.int32]  # nuclear stain, as a view's
    inside: Mask  # 1 where the frame shows something
    cell: Mask
    nucleus: Mask
    others: Mask | None  # cells that touch this one; None where none does


def view_cell(view: RegionView, nucleus: Region, cell: Region, cells: list[Region], around_um: float) -> CellView:
    """What lies `around_um` and nearer to `cell`, which is one of `cells`."""
    window = window_around([cell], math.ceil(around_um / view.um) + 1, view.stain.shape)
    touching = [other.on(window) for other in cells if other is not cell and boxes_apart(other, cell) <= 1]
    return CellView(
        view.um,
        view.facts,
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
