"""Quality control: which segmented cells are refused, and why."""

from __future__ import annotations

import math

import cv2
import numpy as np

from blastscope.runtime.frames.mask_geometry import Mask, Region, approx_distance_to, around, erode_by, hull_mask
from blastscope.runtime.frames.segmentation.lymphoid_filter import rejection_reason
from blastscope.runtime.frames.segmentation.region_view import CellView, RegionView, view_cell
from blastscope.runtime.frames.thresholding import median, quantile
from blastscope.runtime.types import Refusal

LEAST_UM2, MOST_UM2 = 22.0, 450.0  # of a cell: 5.3 and 24 um across
SHARED = 0.3  # of a cell's outline, with others
CLUMP_UM2, CLUMP_SOLID = 150.0, 0.85  # a nucleus larger than this and less convex is several
BLURRED_UM = 1.8  # the nucleus' rim from full stain to none: in focus 0.9 to 1.5, behind a blur of 0.6 um above
RIM_UM = 0.7
SQUARE = np.ones((3, 3), np.uint8)


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
