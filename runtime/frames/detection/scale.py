"""The scale of a frame by the red cells that a detector finds, as a check of the one that was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from blastscope.runtime.frames.detection.detector import Detector, FoundCells
from blastscope.runtime.frames.image_pyramid import Grid, ImagePyramid, nearest_odd_factor
from blastscope.runtime.frames.segmentation.stain_map import WORKING_UM
from blastscope.runtime.frames.types import FrameParameters, FrameSpecification
from blastscope.runtime.types import Box

FEWEST = 5  # whole red cells that tell a scale
AGREE_WITHIN = 1.3  # further apart than this factor, the measured scale is wrong and the cells are looked for anew
LADDER = (1.0, 0.5, 2.0, 4.0)  # factors on a scale that was only assumed, in the order in which they are tried
EDGE_PX = 2.0  # a box that is nearer to the picture's edge may be cut


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a detector found in a frame taken to have pixels of `pixel_um`."""

    pixel_um: float
    grid: Grid  # of the picture that was looked at
    found: FoundCells  # in pixels of that picture

    @property
    def evidence(self) -> float:
        """How much it shows: the scores of all cells together."""
        return float(self.found.red.scores.sum() + 2 * self.found.white.scores.sum())


def look_at(detector: Detector, pictures: ImagePyramid, content: Box, pixel_um: float) -> Look:
    """What is found at a scale; a frame is looked at once at each.

    Raises `EngineError`.
    """
    grid, picture = pictures.over(content, nearest_odd_factor(WORKING_UM / pixel_um))
    key = ("look", grid, pixel_um)
    if key not in pictures.memo:
        pictures.memo[key] = Look(pixel_um, grid, detector.find(picture, grid.factor * pixel_um))
    found = pictures.memo[key]
    assert isinstance(found, Look)
    return found


def told_um(look: Look, red_cell_um: float) -> float | None:
    """Micrometres per pixel of the frame by the red cells of `look`; None of too few."""
    boxes, side = look.found.red.boxes, np.asarray((look.grid.width, look.grid.height)) - EDGE_PX
    whole = (boxes[:, :2] > EDGE_PX).all(axis=1) & (boxes[:, 2:] < side).all(axis=1)
    sizes = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[whole]
    return red_cell_um / (float(np.median(sizes)) * look.grid.factor) if len(sizes) >= FEWEST else None


def confirmed(detector: Detector, pictures: ImagePyramid, facts: FrameParameters, spec: FrameSpecification) -> FrameParameters:
    """The facts of a frame with the scale that the detector's red cells confirm.

    A given scale stands. One that was measured stands where the red cells' boxes agree or are too few; otherwise theirs is
    taken. Where it was only assumed, others are tried too. Raises `EngineError`.
    """
    if facts.scale_source == "given" or pictures.frame.size == 0:
        return facts
    best: Look | None = None
    for factor in LADDER if facts.scale_source == "assumed" else (1.0,):
        look = look_at(detector, pictures, facts.content, facts.pixel_um * factor)
        told = told_um(look, spec.red_cell_um)
        if told is not None and not 1 / AGREE_WITHIN < told / look.pixel_um < AGREE_WITHIN:
            look = look_at(detector, pictures, facts.content, round(told, 5))
            told = told_um(look, spec.red_cell_um)
        if told is not None and 1 / AGREE_WITHIN < told / look.pixel_um < AGREE_WITHIN:
            if look.pixel_um == facts.pixel_um and facts.scale_source == "red-cells":
                return facts
            return replace(facts, pixel_um=round(told, 5), scale_source="red-cells", scale_note="")
        if best is None or look.evidence > 1.2 * best.evidence:
            best = look
    if best is None or facts.scale_source == "red-cells" or best.pixel_um == facts.pixel_um:
        return facts
    return replace(facts, pixel_um=best.pixel_um)
