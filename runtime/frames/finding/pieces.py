"""What hangs together in a mask, by its corners too, and its holes.

By outlines: OpenCV's labelling takes as long, and wakes threads of its own, which then keep a core busy with waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.part import Mask, Part

Outline = NDArray[np.int32]  # (K, 1, 2), x and y


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """The pieces of a mask. They are counted by their outlines, and drawn one by one as they are asked for."""

    outlines: list[Outline]  # of pieces and of holes
    levels: list[list[int]]  # of each: the numbers of the ones next to it, before it, in it and around it, or -1

    def __len__(self) -> int:
        """How many there are."""
        return sum(outer < 0 for *_, outer in self.levels)

    def drawn(self, least: float = 0.0) -> Iterator[Part]:
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
                    yield Part(x, y, own, area)

    def holes(self, largest: float) -> list[Outline]:
        """The outlines of the holes of up to `largest` pixels."""
        inner = [outline for outline, (*_, outer) in zip(self.outlines, self.levels, strict=True) if outer >= 0]
        return [hole for hole in inner if cv2.contourArea(hole) <= largest]


def pieces_of(mask: Mask, *, holes: float = 0.0) -> Pieces:
    """The pieces of `mask` once its holes of up to `holes` pixels are filled."""
    outlines, levels = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = Pieces([np.asarray(outline, np.int32) for outline in outlines], levels[0].tolist() if outlines else [])
    small = found.holes(holes) if holes else []
    return pieces_of(_filled(mask, small)) if small else found


def fill_holes(mask: Mask, largest: float) -> Mask:
    """The mask with its holes of up to `largest` pixels filled."""
    small = pieces_of(mask).holes(largest)
    return _filled(mask, small) if small else mask


def in_one_piece(mask: Mask, core: Mask) -> Mask:
    """What of the mask is connected with the core."""
    pieces = pieces_of(mask)
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
