"""`detect_cells`: the white cells that a detector finds in a frame, each with its outline, score and group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from blastscope.runtime.frames.detection.detector import Detector
from blastscope.runtime.frames.detection.scale import look_at
from blastscope.runtime.frames.image_pyramid import ImagePyramid
from blastscope.runtime.frames.segmentation.pipeline import COARSEST_UM
from blastscope.runtime.frames.segmentation.stain_map import make_stain_map
from blastscope.runtime.frames.segmentation.within_boxes import segment_boxes
from blastscope.runtime.frames.tiling import owns
from blastscope.runtime.frames.types import GROUPS, CellGroup, FrameParameters, SegmentedCell
from blastscope.runtime.types import Box, Refusal

LYMPHOID = GROUPS.index("lymphoid")
LEAST_LYMPHOID = 0.5  # probability, below which a cell gets no call


def detect_cells(
    detector: Detector, pictures: ImagePyramid, facts: FrameParameters, *, core: Box | None = None
) -> tuple[SegmentedCell, ...]:
    """The white cells of a frame, top to bottom and left to right; none on pixels of over 1.2 um.

    Parameters
    ----------
    detector : Detector
        What finds them.
    pictures : ImagePyramid
        Of the frame.
    facts : FrameParameters
        What holds for it.
    core : tuple of int, optional
        Cells whose box has its middle outside of it are left out.

    Returns
    -------
    tuple of SegmentedCell
        One that isn't lymphoid by the detector is refused as `not-lymphoid`, one without an outline as `unsegmented`.

    Raises
    ------
    EngineError
        The inference library broke off.
    """
    if pictures.frame.size == 0 or facts.pixel_um > COARSEST_UM:
        return ()
    look = look_at(detector, pictures, facts.content, facts.pixel_um)
    white = look.found.white
    if not len(white.boxes):
        return ()
    whole = make_stain_map(pictures, facts)
    corner = np.asarray((look.grid.x0 - whole.grid.x0, look.grid.y0 - whole.grid.y0) * 2, np.float32)
    boxes = (white.boxes * np.float32(look.grid.factor) + corner) / np.float32(whole.grid.factor)
    groups = [_group(probabilities) for probabilities in white.groups.tolist()]
    refused = [_not_lymphoid(group, float(row[LYMPHOID])) for group, row in zip(groups, white.groups, strict=True)]
    cells = segment_boxes(whole, boxes, refused)
    found = [
        replace(cell, score=round(float(score), 4), group=group)
        for cell, score, group in zip(cells, white.scores, groups, strict=True)
        if core is None or owns(core, cell.box)
    ]
    return tuple(sorted(found, key=lambda cell: (cell.box[1], cell.box[0])))


def _group(probabilities: list[float]) -> CellGroup:
    at = int(np.argmax(probabilities))
    return CellGroup(GROUPS[at], round(probabilities[at], 4))


def _not_lymphoid(group: CellGroup, lymphoid: float) -> Refusal | None:
    """Why a cell of this group gets no call; None where it may be lymphoid."""
    if lymphoid >= LEAST_LYMPHOID:
        return None
    return Refusal("not-lymphoid", f"it looks {group.name} ({group.probability:.2f})")
