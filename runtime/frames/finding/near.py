"""One found cell with what is around it: what is looked at to judge whether it may be called."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.finding.view import View
from blastscope.runtime.frames.found import FrameFacts
from blastscope.runtime.frames.part import Mask, Part, boxes_apart, window_around


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """A window around one cell, in pixels of `um` micrometres."""

    um: float
    facts: FrameFacts
    picture: NDArray[np.uint8]  # (H, W, 3) RGB
    stain: NDArray[np.int32]  # nuclear stain, as a view's
    inside: Mask  # 1 where the frame shows something
    cell: Mask
    nucleus: Mask
    others: Mask | None  # cells that touch this one; None where none does


def near_cell(view: View, nucleus: Part, cell: Part, cells: list[Part], around_um: float) -> Near:
    """What lies `around_um` and nearer to `cell`, which is one of `cells`."""
    window = window_around([cell], math.ceil(around_um / view.um) + 1, view.stain.shape)
    touching = [other.on(window) for other in cells if other is not cell and boxes_apart(other, cell) <= 1]
    return Near(
        view.um,
        view.facts,
        view.picture[window],
        view.stain[window],
        view.inside[window],
        cell.on(window),
        nucleus.on(window),
        np.bitwise_or.reduce(touching) if touching else None,
    )


def cropped(near: Near) -> Near:
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
