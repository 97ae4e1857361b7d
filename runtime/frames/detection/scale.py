"""The scale of a frame by the red cells that a detector finds, as a check of the one that was measured or said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blastscope.runtime.frames.detection.decode import Detections
from blastscope.runtime.frames.detection.detector import Detector, FoundCells
from blastscope.runtime.frames.image_pyramid import Grid, ImagePyramid, nearest_odd_factor
from blastscope.runtime.types import Box

FEWEST = 5  # red cells that tell a scale
AGREE_WITHIN = 1.3  # further apart than this factor, the measured scale is wrong and the cells are looked for anew
BOX_SHARE = 1.0  # of a red cell's diameter, the mean side of the box around it
LADDER = (1.0, 2.0, 0.5, 4.0)  # factors on a scale that was only assumed, in the order in which they are tried
EDGE_PX = 2.0  # a box that is nearer to the picture's edge may be cut


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a detector found at one scale."""

    pixel_um: float  # of the frame, as taken for this look
    grid: Grid  # of the picture that was looked at
    found: FoundCells  # in pixels of that picture

    def frame_boxes(self) -> Detections:
        """The white cells in pixels of the frame."""
        boxes = self.found.white.boxes * np.float32(self.grid.factor)
        return self.found.white._replace(boxes=boxes + np.asarray([self.grid.x0, self.grid.y0] * 2, np.float32))


def look_at(detector: Detector, pictures: ImagePyramid, content: Box, pixel_um: float, working_um: float) -> Look:
    """What is found in the frame, taken to have pixels of `pixel_um`."""
    grid, picture = pictures.over(content, nearest_odd_factor(working_um / pixel_um))
    return Look(pixel_um, grid, detector.find(picture))


def told_um(look: Look, red_cell_um: float) -> float | None:
    """Micrometres per pixel of the frame by the red cells of `look`; None of too few."""
    boxes, side = look.found.red.boxes, (look.grid.width, look.grid.height)
    whole = (boxes[:, :2] > EDGE_PX).all(axis=1) & (boxes[:, 2:] < np.asarray(side) - EDGE_PX).all(axis=1)
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[whole]
    if len(sizes) < FEWEST:
        return None
    return red_cell_um * BOX_SHARE / (float(np.median(sizes)) * look.grid.factor)


def settle(
    detector: Detector, pictures: ImagePyramid, content: Box, pixel_um: float, *, red_cell_um: float, working_um: float, sure: bool
) -> Look:
    """What is found at the scale that the frame's red cells confirm.

    Parameters
    ----------
    pixel_um : float
        The scale as it was measured or said. One that was only assumed (`sure` False) is tried first, and then others.

    Returns
    -------
    Look
        `pixel_um` is the scale as given, where the red cells that the detector finds agree or are too few, and theirs if not.
    """
    best: Look | None = None
    for factor in (1.0,) if sure else LADDER:
        look = look_at(detector, pictures, content, pixel_um * factor, working_um)
        told = told_um(look, red_cell_um)
        if told is not None and not 1 / AGREE_WITHIN < told / look.pixel_um < AGREE_WITHIN:
            look = look_at(detector, pictures, content, told, working_um)
        elif told is not None:
            return look
        if best is None or _evidence(look) > _evidence(best):
            best = look
    assert best is not None
    return best


def _evidence(look: Look) -> float:
    """How much a look shows: the sum of the scores of all cells."""
    return float(look.found.red.scores.sum() + 2 * look.found.white.scores.sum())
