"""What is known of a frame before any network has looked at it: its scale and stain, and its white cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.traced import Traced
from blastscope.runtime.prediction import Box, Refusal

ScaleSource = Literal["given", "red-cells", "assumed"]
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What holds for a whole frame; for a slide it is measured once, on some windows, and all tiles go by it."""

    pixel_um: float  # micrometres per pixel
    scale_source: ScaleSource
    background: Colour  # RGB of the empty glass, 0..255
    nuclear_axis: Colour  # weights of the optical densities of R, G and B: a nucleus is far along, a red cell at 0
    nucleus_threshold: float  # on the finder's map of nuclear stain
    cell_threshold: float  # on its map of the whole cell
    content: Box  # all that is neither glass nor black; the grid that cells are found on is centred on it
    extent: Box  # of the whole, of which the pixels at hand may be a tile


@dataclass(frozen=True, slots=True, eq=False)
class FoundCell:
    """One white cell, in pixels of the frame. A refused one counts as found, and its box stands."""

    box: Box  # of the whole cell, half-open
    contour: NDArray[np.int32]  # (K, 2), x and y along the cell's outline
    core: Traced  # its nucleus
    refusal: Refusal | None = None

    @property
    def nucleus(self) -> NDArray[np.int32]:
        """(K, 2), x and y along the outline of its nucleus; traced anew each time."""
        return self.core.outline()


def fewer_points(outline: NDArray[np.int32]) -> NDArray[np.int32]:
    """The outline (K, 2) with a fraction of its points, within half a pixel: for whoever draws it, and takes long for each."""
    corners = cv2.approxPolyDP(np.ascontiguousarray(outline).reshape(-1, 1, 2), 0.5, closed=True)
    return np.asarray(corners, np.int32).reshape(-1, 2)
