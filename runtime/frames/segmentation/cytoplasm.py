"""Grows a nucleus to the whole cell, along pixels stained like cytoplasm."""

from __future__ import annotations

import math

import cv2
import numpy as np

from blastscope.runtime.frames.mask_geometry import (
    Mask,
    Region,
    approx_distance_to,
    around,
    boxes_apart,
    disc,
    framed,
    region_of,
    window_around,
)
from blastscope.runtime.frames.segmentation.split_nuclei import fill_holes, largest_component

GROW_UM = 5.0  # cytoplasm around a nucleus
RIM_UM = 0.25  # of the cell's edge is lost to the threshold and the smoothing
THREAD_UM = 0.7  # what is narrower than twice this isn't cytoplasm
SMOOTH_UM = 1.1  # bumps and threads of the outline that are narrower aren't the cell's


def grow_cytoplasm(nucleus: Region, others: list[Region], cellular: Mask, um: float) -> Region:
    """The cell around a nucleus. `cellular` masks what is stained like a white cell; `others` are all other nuclei."""
    margin = math.ceil(GROW_UM / um) + 2
    window = window_around([nucleus], margin, cellular.shape)
    own = nucleus.on(window)
    far = approx_distance_to(own)
    mask = cellular[window] & (far <= GROW_UM / um)
    theirs = np.zeros_like(own)
    for other in others:
        if other is not nucleus and boxes_apart(other, nucleus) <= 2 * margin:
            theirs |= other.on(window)
    if theirs.any():
        mask &= far < approx_distance_to(theirs)
    mask |= own
    rows, columns = around(mask, 0)
    edge = math.ceil(SMOOTH_UM / um) + 1  # nothing, for the brush to reach into
    mask, own = (framed(part[rows, columns], edge) for part in (mask, own))
    corner = window[1].start + columns.start - edge, window[0].start + rows.start - edge
    return region_of(_one_piece(mask, own, um), corner)


def open_mask(mask: Mask, um: float) -> Mask:
    """The mask without what is narrower than a cell's bumps."""
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _brush(THREAD_UM, um)), np.uint8)


def _one_piece(mask: Mask, nucleus: Mask, um: float) -> Mask:
    """The part of the mask that holds the nucleus, smooth and without holes."""
    brush = _brush(SMOOTH_UM, um)
    smooth = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, brush), np.uint8) | nucleus
    closed = np.asarray(cv2.morphologyEx(largest_component(smooth, nucleus), cv2.MORPH_CLOSE, brush), np.uint8)
    whole = fill_holes(closed, float(closed.size))
    return np.asarray(cv2.dilate(whole, _brush(RIM_UM, um)), np.uint8)


def _brush(radius_um: float, um: float) -> Mask:
    """A disc of at least one pixel to each side."""
    return disc(max(radius_um / um, 1.0))
