"""Quality control: which segmented cells are refused, and why.

Cells that aren't lymphoid are refused by the nucleus and by what is pink in the cell, since the networks don't know them. The
limits were set on the white cells of BCCD's training frames, looked at one by one: 20 lymphoid ones, 132 granulocytes and
monocytes. They were tried on the same frames in other stains, sizes and cameras, and on C-NMC's cells laid on background;
`benchmarks/lymphoid_filter` has the table of the cells, and repeats it.
"""

from __future__ import annotations

import math
from functools import lru_cache, reduce

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.mask_geometry import Mask, Region, approx_distance_to, around, erode_by, hull_mask, union
from blastscope.runtime.frames.segmentation.candidates import CellView, RegionView, cropped, view_cell
from blastscope.runtime.frames.segmentation.split_nuclei import smooth_pieces
from blastscope.runtime.frames.stain import STEP, optical_density
from blastscope.runtime.frames.thresholding import median, quantile, split_threshold
from blastscope.runtime.frames.types import Colour
from blastscope.runtime.types import Refusal

LOBE_UM2 = 5.0  # smaller ones are specks
LEAST_OWN = 0.65  # of a nucleus' usual stain: what has more is no gap between lobes, but chromatin
EDGE_TIMES = 3.0  # as dark as a nucleus is its edge at most; what is more is a nucleus, and was found with its cytoplasm
LEAST_SHARE = 0.33  # nucleus of the cell; lymphoid cells are nearly filled by theirs
# A lymphoid nucleus is convex and evenly stained. Either may be a little less so where the other is beyond doubt.
SOLID, SOLID_SPAN = 0.90, 0.05
EVEN, EVEN_SPAN = 0.70, 0.10
DOUBT = 0.3
HULL_RIM_UM = 0.8
# Along the nuclear axis, of a nucleus' density. One with less is all but black, and shows a camera's noise on that axis.
LEAST_COLOUR = 0.05
# Lymphoid cytoplasm is blue: it takes as much red out of the light, by the green that it takes, as the nucleus or more. That of
# granulocytes is pink, between their lobes too. In lymphoid cells the pinkest tenth lies below the nucleus by 0.12 at most, in
# granulocytes with compact nuclei by 0.22 at least; in other stains mostly by up to 0.16 and from 0.15.
PINK, PINKEST = 0.18, 0.1  # so far below, and in such a share of the cell
PINK_RIM_UM = 0.5  # there the colours of the cell's edge are the lens'
FAINT = 0.2  # of the nucleus' density: less has no colour to speak of

SQUARE = np.ones((3, 3), np.uint8)

Densities = NDArray[np.int32]  # of one channel, summed over 3 x 3 pixels, in 1/STEP
LEAST_UM2, MOST_UM2 = 22.0, 450.0  # of a cell: 5.3 and 24 um across
SHARED = 0.3  # of a cell's outline, with others
CLUMP_UM2, CLUMP_SOLID = 150.0, 0.85  # a nucleus larger than this and less convex is several
BLURRED_UM = 1.8  # the nucleus' rim from full stain to none: in focus 0.9 to 1.5, behind a blur of 0.6 um above
RIM_UM = 0.7


def rejection_reason(near: CellView) -> str | None:
    """Why the cell isn't lymphoid; None where it may be."""
    near = cropped(near)
    core = np.asarray(cv2.erode(near.cell, SQUARE, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)), np.uint8)
    nucleus = _own_nucleus(near, core)
    if nucleus is None:
        return None
    share = nucleus.area / max(cv2.countNonZero(near.cell), 1)
    if share < LEAST_SHARE:
        return f"the nucleus fills {share:.0%} of the cell"
    hull = hull_mask(nucleus.mask)
    solidity = nucleus.area / max(cv2.countNonZero(hull), 1)
    channels = _channels(near.picture, near.parameters.background)
    evenness = _evenness(near, nucleus, hull, channels)
    if (solidity - SOLID) / SOLID_SPAN + (evenness - EVEN) / EVEN_SPAN < DOUBT:
        return f"the nucleus is lobed or granular (convex {solidity:.2f}, even {evenness:.2f})"
    return _pink(near, nucleus, core, channels)


def _own_nucleus(near: CellView, core: Mask) -> Region | None:
    """The nucleus at a threshold of its own, that leaves dark cytoplasm out; None where nothing is large enough."""
    stain = near.stain[core > 0]
    level = split_threshold(stain)
    upper, found = stain[stain > level], near.stain[(core & near.nucleus) > 0]
    if len(upper) and len(found):
        # what is above the level is the nucleus, or, where it is less than half of what was found, the dark edge of one
        usual, dark = median(found), median(upper)
        if usual > level or EDGE_TIMES * usual < dark:
            usual = dark
        level = min(level, int(LEAST_OWN * usual))
    lobes = list(smooth_pieces(core & (near.stain > level), near.um).drawn(LOBE_UM2 / near.um**2))
    return reduce(union, lobes) if lobes else None


def _evenness(near: CellView, nucleus: Region, hull: Mask, channels: tuple[Densities, ...]) -> float:
    """The palest stain in the hull of the nucleus, of the usual."""
    deep = erode_by(hull, HULL_RIM_UM / near.um) > 0
    x0, y0, x1, y1 = nucleus.box
    # not the view's stain: what that adds for nearly black nuclei makes chromatin look patchy
    inside = [channel[y0:y1, x0:x1][deep] for channel in channels]
    weighted = zip(near.parameters.nuclear_axis, inside, strict=True)
    red, green, blue = (np.float32(weight) * densities for weight, densities in weighted)
    stain, every = red + green + blue, inside[0] + inside[1] + inside[2]
    if not len(stain):
        return 1.0
    usual, usual_of_every = median(stain), median(every)
    if usual < LEAST_COLOUR * usual_of_every:
        stain, usual = every, usual_of_every
    return quantile(stain, 0.05) / max(usual, 1.0)


def _pink(near: CellView, nucleus: Region, core: Mask, channels: tuple[Densities, ...]) -> str | None:
    """Whether the cell holds what is pink, by its nucleus."""
    inner = cv2.erode(core, SQUARE, iterations=max(round(PINK_RIM_UM / near.um) - 1, 1)) > 0
    red, green, blue = (channel[inner] for channel in channels)
    x0, y0, x1, y1 = nucleus.box
    own = nucleus.mask > 0
    usual = [max(median(channel[y0:y1, x0:x1][own]), 1.0) for channel in channels]
    coloured = (red + green + blue > FAINT * sum(usual)) & (green > FAINT / 2 * usual[1])
    tints = red[coloured] / green[coloured]
    if not len(tints):
        return None
    below = usual[0] / usual[1] - quantile(tints, PINKEST)
    return f"the cytoplasm is pink, as granulocytes' is (by {below:.2f})" if below > PINK else None


def _channels(picture: NDArray[np.uint8], background: Colour) -> tuple[Densities, ...]:
    """The density over background in red, green and blue; whole numbers, so that a turned picture has the same sums."""
    return tuple(
        np.asarray(cv2.boxFilter(cv2.LUT(channel, steps), cv2.CV_32S, (3, 3), normalize=False, borderType=cv2.BORDER_REPLICATE))
        for channel, steps in zip(cv2.split(picture), _steps(background), strict=True)
    )


@lru_cache(maxsize=16)
def _steps(background: Colour) -> tuple[NDArray[np.int16], ...]:
    """The density of each level of each channel."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    return tuple(np.rint(channel.ravel() * STEP).astype(np.int16) for channel in optical_density(levels, background))


def reject(view: RegionView, nucleus: Region, cell: Region, cells: list[Region]) -> Refusal | None:
    """Why this cell gets no call; None where it may. `cells` are all that stand here, this one among them."""
    one = view_cell(view, nucleus, cell, cells, 3 * RIM_UM)
    return _cut_off(one) or _clumped(one) or _blurred(one) or _wrong(one)


def _cut_off(near: CellView) -> Refusal | None:
    beyond = 1 - near.inside
    if beyond.any():
        edge = np.asarray(cv2.dilate(beyond, SQUARE, borderType=cv2.BORDER_CONSTANT, borderValue=(1,)), np.uint8)
        cut = bool((near.cell & edge).any())
    else:
        cut = any(side.any() for side in (near.cell[0], near.cell[-1], near.cell[:, 0], near.cell[:, -1]))
    return Refusal("touches-border", "the cell reaches the edge of what the frame shows") if cut else None


def _clumped(near: CellView) -> Refusal | None:
    if near.others is not None:
        outline = np.asarray(cv2.dilate(near.cell, SQUARE), np.uint8) & (1 - near.cell)
        shared = _count(outline & near.others) / max(_count(outline), 1)
        if shared > SHARED:
            return Refusal("clumped", f"{shared:.0%} of the outline is shared with other cells")
    area = _count(near.nucleus) * near.um**2
    if area > CLUMP_UM2 and _solidity(near.nucleus) < CLUMP_SOLID:
        return Refusal("clumped", f"{area:.0f} um2 of nuclei touch, and could not be told apart")
    return None


def _blurred(near: CellView) -> Refusal | None:
    """Whether the stain falls off too slowly over the nucleus' rim."""
    window = around(near.nucleus, math.ceil(3 * RIM_UM / near.um) + 1)
    nucleus, stain = near.nucleus[window], near.stain[window]
    deep, away = erode_by(nucleus, RIM_UM / near.um) > 0, approx_distance_to(nucleus)
    rim, close, far = (times * RIM_UM / near.um for times in (1.0, 1.4, 3.0))
    full, empty, edge = stain[deep], stain[(away > close) & (away < far)], (away < rim) & ~deep
    if not (len(full) and len(empty) and edge.any()):
        return None  # pixels wider than the rim can't tell
    levels = stain.astype(np.float32)
    across, down = (cv2.Sobel(levels, cv2.CV_32F, *way)[edge] for way in ((1, 0), (0, 1)))
    steep = math.sqrt(quantile(across * across + down * down, 0.75)) / (8 * near.um)
    fall = (median(full) - median(empty)) / max(steep, 1.0)
    return Refusal("out-of-focus", f"the nucleus' rim is {fall:.1f} um wide") if fall > BLURRED_UM else None


def _wrong(near: CellView) -> Refusal | None:
    """A cell of another size, or another kind, than the networks know."""
    area = _count(near.cell) * near.um**2
    across = f"the cell is {math.sqrt(area * 4 / math.pi):.1f} um across"
    if area < LEAST_UM2:
        return Refusal("too-small", across)
    if area > MOST_UM2:
        return Refusal("too-large", across)
    kind = rejection_reason(near)
    return Refusal("not-lymphoid", kind) if kind else None


def _solidity(mask: Mask) -> float:
    return _count(mask) / max(_count(hull_mask(mask)), 1)


def _count(mask: Mask) -> int:
    return cv2.countNonZero(mask)
