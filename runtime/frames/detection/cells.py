"""`detect_cells`: the white cells that a detector finds in a frame, each with its outline, score and group.

The red cells that it finds tell the frame's scale (`red_cells_found`), over a range in which outlines of circles tell little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from blastscope.runtime.frames.detection.detector import Detector, FoundCells
from blastscope.runtime.frames.estimation.pixel_size import RedCells
from blastscope.runtime.frames.image_pyramid import Grid, ImagePyramid, nearest_odd_factor
from blastscope.runtime.frames.segmentation.pipeline import COARSEST_UM, segment_boxes
from blastscope.runtime.frames.segmentation.stain_map import WORKING_UM, make_stain_map
from blastscope.runtime.frames.types import GROUPS, CellGroup, FrameParameters, SegmentedCell
from blastscope.runtime.types import Box, Refusal

FEWEST = 3  # red cells that tell a scale
MOST_TRIALS = 3  # of scales that red cells told, before the last one is taken
# Up to this factor from the right scale a detector finds white cells as well as at it. The sizes of red cells, which it tells
# over a wider range, lead to the right one.
AGREE_WITHIN = 1.2
GUESS_UM = 0.08  # micrometres a pixel where nothing tells: a 100x objective and a common camera
LADDER = (1.0, 2.0, 0.5, 4.0)  # factors on the guess, in the order in which they are tried
EDGE_PX = 2.0  # a box that is nearer to the picture's edge may be cut
MIDDLE_PX = 640  # of a larger frame the middle tells
LYMPHOID = GROUPS.index("lymphoid")
LEAST_LYMPHOID = 0.5  # probability, below which a cell gets no call


@dataclass(frozen=True, slots=True, eq=False)
class ScaledDetection:
    """What a detector found in a frame taken to have pixels of `pixel_um`.

    Attributes
    ----------
    pixel_um : float
        Micrometres per pixel that were assumed.
    grid : Grid
        Grid of the picture that was looked at.
    found : FoundCells
        What was found, in pixels of that picture.
    """

    pixel_um: float
    grid: Grid
    found: FoundCells

    def agrees_with(self, pixel_um: float) -> bool:
        """Whether it was taken at about that scale."""
        return 1 / AGREE_WITHIN < pixel_um / self.pixel_um < AGREE_WITHIN


def detect_at_scale(detector: Detector, pictures: ImagePyramid, content: Box, pixel_um: float) -> ScaledDetection:
    """What the detector finds at about a scale. It is run once at each. Raises `EngineError`."""
    earlier = pictures.memo.setdefault(("detections", content), [])
    assert isinstance(earlier, list)
    known = next((one for one in earlier if one.agrees_with(pixel_um)), None)
    if known is None:
        grid, picture = pictures.over(content, nearest_odd_factor(WORKING_UM / pixel_um))
        known = ScaledDetection(pixel_um, grid, detector.find(picture, grid.factor * pixel_um))
        earlier.append(known)
    assert isinstance(known, ScaledDetection)
    return known


def red_cells_found(
    detector: Detector, pictures: ImagePyramid, content: Box, *, guess_um: float | None, red_cell_um: float
) -> RedCells | None:
    """The red cells in a part of a frame, by the detector.

    Parameters
    ----------
    detector : Detector
        The bundle's.
    pictures : ImagePyramid
        The frame.
    content : (x0, y0, x1, y1)
        The part, in pixels of the frame.
    guess_um : float or None
        What the scale may be, in micrometres per pixel.
    red_cell_um : float
        How large a red cell is taken to be.

    Returns
    -------
    RedCells or None
        None of too few at any scale.

    Raises
    ------
    EngineError
        The detector failed.
    """
    if max(content[2] - content[0], content[3] - content[1]) > 1.5 * MIDDLE_PX:
        pictures, content = _middle(pictures, content)
    for factor in (1.0, *LADDER) if guess_um else LADDER:
        detection = detect_at_scale(detector, pictures, content, (guess_um or GUESS_UM) * factor)
        found = _measured(detection)
        for _ in range(MOST_TRIALS):
            if found is None or detection.agrees_with(told := red_cell_um / found.diameter_px):
                break
            detection = detect_at_scale(detector, pictures, content, told)
            found = _measured(detection)
        if found is not None:
            return found
    return None


def _middle(pictures: ImagePyramid, content: Box) -> tuple[ImagePyramid, Box]:
    """The middle of a large frame by itself."""
    x0, y0, x1, y1 = content
    left, top = max((x0 + x1 - MIDDLE_PX) // 2, x0), max((y0 + y1 - MIDDLE_PX) // 2, y0)
    right, bottom = min(left + MIDDLE_PX, x1), min(top + MIDDLE_PX, y1)
    return ImagePyramid(pictures.frame[top:bottom, left:right], pictures.threads), (0, 0, right - left, bottom - top)


def _measured(detection: ScaledDetection) -> RedCells | None:
    """The usual diameter of the red cells of `detection`, in pixels of the frame; None of too few.

    Of a cell that one edge of the picture cuts, the side along this edge is whole.
    """
    boxes = detection.found.red.boxes
    low, high = boxes[:, :2] <= EDGE_PX, boxes[:, 2:] >= np.asarray((detection.grid.width, detection.grid.height)) - EDGE_PX
    cut = low | high  # across, down
    sides = np.where(cut, np.nan, boxes[:, 2:] - boxes[:, :2])[~cut.all(axis=1)]
    sizes = np.where(np.isnan(sides).any(axis=1), np.nansum(sides, axis=1), np.sqrt(np.abs(sides).prod(axis=1)))
    return RedCells(float(np.median(sizes)) * detection.grid.factor, float(len(sizes))) if len(sizes) >= FEWEST else None


def detect_cells(
    detector: Detector, pictures: ImagePyramid, parameters: FrameParameters, *, core: Box | None = None
) -> tuple[SegmentedCell, ...]:
    """The white cells of a frame, top to bottom and left to right; none on pixels of over 1.2 um.

    Parameters
    ----------
    detector : Detector
        What finds them.
    pictures : ImagePyramid
        Of the frame.
    parameters : FrameParameters
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
    if pictures.frame.size == 0 or parameters.pixel_um > COARSEST_UM:
        return ()
    detection = detect_at_scale(detector, pictures, parameters.content, parameters.pixel_um)
    white = detection.found.white
    if not len(white.boxes):
        return ()
    whole = make_stain_map(pictures, parameters)
    corner = np.asarray((detection.grid.x0 - whole.grid.x0, detection.grid.y0 - whole.grid.y0) * 2, np.float32)
    boxes = (white.boxes * np.float32(detection.grid.factor) + corner) / np.float32(whole.grid.factor)
    groups = [_group(probabilities) for probabilities in white.groups.tolist()]
    refused = [_not_lymphoid(group, float(row[LYMPHOID])) for group, row in zip(groups, white.groups, strict=True)]
    cells = segment_boxes(whole, boxes, refused, core=core)
    found = [
        replace(cell, score=round(float(score), 4), group=group)
        for cell, score, group in zip(cells, white.scores, groups, strict=True)
        if cell is not None
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
