"""Tiles of a large frame: each cell belongs to the tile that holds its centre."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from blastscope.runtime.frames.types import FrameParameters, SegmentedCell
from blastscope.runtime.types import Box


class Tile(NamedTuple):
    """What is looked at for the cells of one part of a frame."""

    core: Box  # whose cells it gives; the cores of all tiles cover the frame once
    region: Box  # the core and all that may change what is found in it

    @property
    def core_in_region(self) -> Box:
        """The core in pixels of the region."""
        (left, top), (x0, y0, x1, y1) = self.region[:2], self.core
        return x0 - left, y0 - top, x1 - left, y1 - top


def owns(core: Box, box: Box) -> bool:
    """Whether the centre of `box` lies in `core`. A centre on an edge goes right and down."""
    x0, y0, x1, y1 = core  # twice the centre is a whole number: no rounding decides
    return 2 * x0 <= box[0] + box[2] < 2 * x1 and 2 * y0 <= box[1] + box[3] < 2 * y1


STRIPE = 3  # tiles across: what two of them share, beside and below each other, is then still at hand, decoded, for the second


def tiles_of(width: int, height: int, *, side_px: int, margin_px: int) -> Iterator[Tile]:
    """The tiles of a frame, in stripes of some tiles across, from the top to the bottom of each.

    A cell that is nearer than `margin_px` across lies whole in its tile's region.
    """
    stripe = STRIPE * side_px
    corners = (
        (left, top)
        for first in range(0, width, stripe)
        for top in range(0, height, side_px)
        for left in range(first, min(first + stripe, width), side_px)
    )
    for left, top in corners:
        right, bottom = min(left + side_px, width), min(top + side_px, height)
        yield Tile((left, top, right, bottom), _grown((left, top, right, bottom), margin_px, (0, 0, width, height)))


def cropped(tile: Tile, content: Box, margin_px: int) -> Tile:
    """`tile`, of whose region no more is looked at than `content` and `margin_px` around it."""
    return tile._replace(region=_grown(content, margin_px, tile.region))


def _grown(box: Box, margin: int, within: Box) -> Box:
    return (
        max(box[0] - margin, within[0]),
        max(box[1] - margin, within[1]),
        min(box[2] + margin, within[2]),
        min(box[3] + margin, within[3]),
    )


def facts_in(facts: FrameParameters, tile: Tile) -> FrameParameters:
    """The facts of the whole frame, as they hold for the pixels of the region of `tile`."""
    left, top, _, _ = tile.region

    def moved_box(box: Box) -> Box:
        return box[0] - left, box[1] - top, box[2] - left, box[3] - top

    return replace(facts, content=moved_box(facts.content), extent=moved_box(facts.extent))


def shift_cell(cell: SegmentedCell, tile: Tile) -> SegmentedCell:
    """`cell`, found in the region of `tile`, in pixels of the whole frame."""
    left, top, _, _ = tile.region
    x0, y0, x1, y1 = cell.box
    box, contour = (x0 + left, y0 + top, x1 + left, y1 + top), cell.contour + np.array((left, top), np.int32)
    return replace(cell, box=box, contour=contour, core=replace(cell.core, corner=(left, top)))
