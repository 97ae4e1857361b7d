"""`why_not`: the cells that are found but not called, and why.

The limits were set on the cells of BCCD's training frames, looked at one by one: 24 lymphoid ones, and 130 with lobed nuclei.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.lobes import axes
from blastscope.runtime.frames.nuclei import parts_of
from blastscope.runtime.frames.order import at_share, middle
from blastscope.runtime.frames.otsu import parting
from blastscope.runtime.frames.part import Mask, Part, boxes_apart, depth_in, hull_of, squares_to, window_around
from blastscope.runtime.frames.view import View
from blastscope.runtime.prediction import Refusal

LEAST_UM2, MOST_UM2 = 22.0, 450.0  # of a cell: 5.3 and 24 um across
SHARED = 0.3  # of a cell's outline, with others
CLUMP_UM2, CLUMP_SOLID = 150.0, 0.85  # a nucleus larger than this and less convex is several
BLURRED_UM = 1.8  # the nucleus' rim from full stain to none: in focus 0.9 to 1.5, behind a blur of 0.6 um above
RIM_UM = 0.7
HULL_RIM_UM = 0.8
LOBE_UM2 = 5.0
LEAST_ROUND = 0.55  # short axis of the nucleus, of its long one
LEAST_SHARE = 0.33  # nucleus of the cell; lymphoid cells are nearly filled by theirs
# A lymphoid nucleus is convex and evenly stained. Either may be a little less so where the other is beyond doubt.
SOLID, SOLID_SPAN = 0.90, 0.05
EVEN, EVEN_SPAN = 0.70, 0.10
DOUBT = 0.3


def why_not(view: View, nucleus: Part, cell: Part, cells: list[Part]) -> Refusal | None:
    """Why this cell gets no call; None where it may. `cells` are all that stand here, this one among them."""
    margin = math.ceil(3 * RIM_UM / view.um) + 1
    window = window_around([cell], margin, view.stain.shape)
    near = _Near(view.um, view.stain[window], view.inside[window], cell.on(window), nucleus.on(window))
    others = np.zeros_like(near.cell)
    for other in cells:
        if other is not cell and boxes_apart(other, cell) <= 1:
            others |= other.on(window)
    return _cut_off(near) or _clumped(near, others) or _blurred(near) or _wrong(near)


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """One cell and what is around it."""

    um: float
    stain: NDArray[np.int32]
    inside: Mask
    cell: Mask
    nucleus: Mask


def _cut_off(near: _Near) -> Refusal | None:
    beyond = 1 - near.inside
    edge = cv2.dilate(beyond, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(1,))
    cut = cv2.countNonZero(cv2.bitwise_and(near.cell, edge))
    return Refusal("touches-border", "the cell reaches the edge of the frame") if cut else None


def _clumped(near: _Near, others: Mask) -> Refusal | None:
    outline = _wider(near.cell) & (1 - near.cell)
    shared = _count(outline & others) / max(_count(outline), 1)
    if shared > SHARED:
        return Refusal("clumped", f"{shared:.0%} of the outline is shared with other cells")
    area = _count(near.nucleus) * near.um**2
    if area > CLUMP_UM2 and _solidity(near.nucleus) < CLUMP_SOLID:
        return Refusal("clumped", f"{area:.0f} um2 of nuclei touch, and could not be told apart")
    return None


def _blurred(near: _Near) -> Refusal | None:
    """Whether the stain falls off too slowly over the nucleus' rim."""
    inner, outer = depth_in(near.nucleus) * np.float32(near.um), squares_to(near.nucleus) * np.float32(near.um**2)
    full, empty = near.stain[inner > RIM_UM], near.stain[(outer > (1.4 * RIM_UM) ** 2) & (outer < (3 * RIM_UM) ** 2)]
    if not (len(full) and len(empty)):
        return None
    stain, rim = near.stain.astype(np.float32), (inner < RIM_UM) & (outer < RIM_UM**2)
    across, down = (cv2.Sobel(stain, cv2.CV_32F, *way)[rim] for way in ((1, 0), (0, 1)))
    steep = math.sqrt(at_share(across * across + down * down, 0.75)) / (8 * near.um)
    fall = (middle(full) - middle(empty)) / max(steep, 1.0)
    return Refusal("out-of-focus", f"the nucleus' rim is {fall:.1f} um wide") if fall > BLURRED_UM else None


def _wrong(near: _Near) -> Refusal | None:
    """A cell of another size, or another kind, than the networks know."""
    area = _count(near.cell) * near.um**2
    across = f"the cell is {math.sqrt(area * 4 / math.pi):.1f} um across"
    if area < LEAST_UM2:
        return Refusal("too-small", across)
    if area > MOST_UM2:
        return Refusal("too-large", across)
    look = _look(near)
    if look.lobes > 1:
        return Refusal("not-lymphoid", f"the nucleus has {look.lobes} lobes")
    if look.roundness < LEAST_ROUND:
        return Refusal("not-lymphoid", f"the nucleus is {1 / max(look.roundness, 0.01):.1f} times as long as wide")
    if look.share < LEAST_SHARE:
        return Refusal("not-lymphoid", f"the nucleus fills {look.share:.0%} of the cell")
    if (look.solidity - SOLID) / SOLID_SPAN + (look.evenness - EVEN) / EVEN_SPAN < DOUBT:
        shape = f"convex {look.solidity:.2f}, even {look.evenness:.2f}"
        return Refusal("not-lymphoid", f"the nucleus is lobed or granular ({shape})")
    return None


@dataclass(frozen=True, slots=True)
class _Look:
    """What tells a lymphoid nucleus from others."""

    lobes: int
    roundness: float  # short axis of long one
    share: float  # of the cell
    solidity: float  # of its convex hull
    evenness: float  # the palest stain in the hull, of the usual


def _look(near: _Near) -> _Look:
    """The look of the nucleus at a threshold of its own, that leaves dark cytoplasm out."""
    core = np.asarray(cv2.erode(near.cell, np.ones((3, 3), np.uint8)), np.uint8)
    level = parting(near.stain[core > 0])
    large = [part for part in parts_of(core & (near.stain > level), near.um) if part.area * near.um**2 > LOBE_UM2]
    if not large:
        return _Look(1, 1.0, 1.0, 1.0, 1.0)
    window = (slice(0, core.shape[0]), slice(0, core.shape[1]))
    mask = np.zeros_like(core)
    for part in large:
        mask |= part.on(window)
    long, short = axes(mask)
    stain = near.stain[depth_in(_hull(mask)) > HULL_RIM_UM / near.um]
    evenness = at_share(stain, 0.05) / max(middle(stain), 1.0) if len(stain) else 1.0
    return _Look(len(large), short / max(long, 1.0), _count(mask) / max(_count(near.cell), 1), _solidity(mask), evenness)


def _hull(mask: Mask) -> Mask:
    filled = np.zeros_like(mask)
    cv2.fillConvexPoly(filled, hull_of(mask), (1,))
    return filled


def _solidity(mask: Mask) -> float:
    return _count(mask) / max(_count(_hull(mask)), 1)


def _wider(mask: Mask) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), np.uint8)


def _count(mask: Mask) -> int:
    return cv2.countNonZero(mask)
