"""`estimate_frame_parameters`: the background, scale and stain of a frame, or of windows of a slide.

A frame that is turned, flipped, or shifted over empty background has the same parameters to the last digit: they come from
counts of pixels, and from reduced pictures whose grid is centred on what is not background.

Of the scales that are said or measured, the caller's word stands. A file's is checked against the red cells of the frame:
programs write scales that nobody set, the camera's own pixel, a printer's resolution, or those of another objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.estimation.pixel_size import RedCells, measure_red_cells
from blastscope.runtime.frames.image_pyramid import ImagePyramid, image_pyramid, odd_factor
from blastscope.runtime.frames.stain import RED_CELL, STEP, nuclear_axis, optical_density, project_density
from blastscope.runtime.frames.thresholding import median, quantile
from blastscope.runtime.frames.types import Colour, FrameParameters, FrameSpecification, ScaleSource
from blastscope.runtime.types import Box

EDGE_ROWS = 8  # of the frame, looked at first: it mostly shows something up to its edge
BACKGROUND_SHARE = 0.02  # of the pixels: what is brighter and rarer is a glint
# Of what the frame shows. A level so rare there was a white margin's, as around a picture on a page. A quarter of BCCD's
# training frames, in fourteen variants of stain and camera, show twice as much background at least.
LEAST_SHARE = 0.01
NOT_BACKGROUND = 12  # gray levels away from background
ASSUMED_UM = 0.1  # micrometres a pixel where nothing tells: a 100x objective and a common camera
# Further apart than this factor, one of two scales is wrong. Over the frames of BCCD and of TXL-PBC's first half, at 0.3 to 1.6
# of their size, the red cells' scale was never off by more than 1.2; patients' red cells differ by another 1.15. The next
# objective is 1.5 times away (40x and 60x).
AGREE_WITHIN = 1.4
# Red cells overrule a file where so many whole circles meet. Of those frames 99 % show more; of 22 of Raabin's 90 frames whose
# violet red cells were measured wrongly, 17 show less.
ENOUGH_CIRCLES = 0.6
Densities = NDArray[np.float32]  # (H, W), natural optical density in one channel
Stain = NDArray[np.int16]  # (H, W), in 1/STEP
Numbers = NDArray[np.intp]  # of pixels

ASSUMED = "too few red cells show its scale: {:.4g} micrometres a pixel are assumed, and cells may be missed"
FEWEST_NUCLEAR = 30  # pixels of the reduced picture that are stained like a nucleus, for the scale to matter
EMPTY: Colour = (255.0, 255.0, 255.0)
PIXELS = 60_000  # of the reduced picture that colours are measured on
LEAST_DENSITY = 0.12  # natural, in all three channels together: what is fainter has no colour to speak of
RED_DENSITY, RED_IN_RED = 1.6, 0.3  # red cells' density is less: in all channels together, and in red, which they let through
PALE_IN_RED = 0.15  # in a pale stain less: half of what its nuclei have, but no less than this
DENSEST = 0.995  # of the pixels: what is denser is a nucleus
RED_SHARE = 0.36  # of it in red: what has more is cytoplasm
FEWEST_RED = 0.02  # of the pixels must be red cells to tell their colour
# What is densest in red are nuclei if they show so much on the usual axis. One on which they show less than this share of it is
# their own colour's: without red cells, or behind clipped light, pale nuclei are taken for red cells.
NUCLEAR, HIDDEN = 0.2, 0.33
SURROUND = 1.0  # what is denser in every channel may be the dark around the field of view: no nuclei are measured there
NUCLEUS_FROM, NUCLEUS_CEILING = 0.15, 0.30  # densities along the nuclear axis, of a stain of usual strength
USUAL_SPREAD = 0.05  # how far below their median a tenth of red cells lies on it, over BCCD's training frames
PALEST, DARKEST = 0.45, 2.0  # stains, of the usual strength: beyond them it is noise, or not red cells, that was measured
CELL_SHARE, CELL_FLOOR, CELL_CEILING = 0.09, 0.028, 0.06  # cytoplasm, of a nucleus


def background_level(gray: NDArray[np.uint8]) -> int:
    """The brightest level of `gray` (H, W) that is common."""
    counts = _histogram(gray)
    smooth = np.convolve(counts, np.ones(9), "same")
    common = smooth >= max(BACKGROUND_SHARE * counts.sum(), 0.1 * smooth.max())
    level = int(np.flatnonzero(common)[-1])
    while level > 0 and smooth[level - 1] >= smooth[level]:  # down from the bright end up to the top of the peak
        level -= 1
    return level


def content_box(gray: NDArray[np.uint8], background: int) -> Box:
    """The box of what in `gray` (H, W) is neither background nor black. Found from the edges, where it mostly begins."""
    levels = np.arange(256)
    shown = ((abs(levels - background) > NOT_BACKGROUND) & (levels > 0)).astype(np.uint8)
    height, width = gray.shape
    top = _empty_rows(gray, shown)
    if top == height:
        return 0, 0, width, height
    bottom = height - _empty_rows(gray[::-1], shown)
    columns = gray[top:bottom].T
    return _empty_rows(columns, shown), top, width - _empty_rows(columns[::-1], shown), bottom


def _empty_rows(gray: NDArray[np.uint8], shown: NDArray[np.uint8]) -> int:
    """How many rows of `gray`, from the first on, have no level that is `shown`."""
    first, rows = 0, EDGE_ROWS
    while first < len(gray):
        _, y, _, height = cv2.boundingRect(cv2.LUT(np.ascontiguousarray(gray[first : first + rows]), shown))
        if height:
            return first + y
        first, rows = first + rows, 2 * rows
    return len(gray)


def background_mask(picture: NDArray[np.uint8], level: int) -> tuple[int, Colour]:
    """The background of `picture` (h, w, 3): its gray level, which is `level` unless that is rare, and its usual colour."""
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    near = _near(gray, level)
    if cv2.countNonZero(near) < LEAST_SHARE * near.size:
        level = background_level(gray)
        near = _near(gray, level)
    red, green, blue = (_median(_histogram(picture, near, channel)) for channel in range(3))
    return level, (red, green, blue)


def _near(gray: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.inRange(gray, (max(level - 5, 0),), (min(level + 5, 255),)), np.uint8)


def _histogram(picture: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None, channel: int = 0) -> NDArray[np.float64]:
    return np.asarray(cv2.calcHist([picture], [channel], mask, [256], [0, 256]), np.float64).ravel()


def _median(counts: NDArray[np.float64]) -> float:
    """The median level, with a fraction for where in the level it lies."""
    total = counts.cumsum()
    half = total[-1] / 2
    level = int(np.searchsorted(total, half))
    before = total[level - 1] if level else 0.0
    return round(max(level - 0.5 + float((half - before) / max(counts[level], 1.0)), 0.0), 3)


class Scale(NamedTuple):
    """The scale of a frame.

    Attributes
    ----------
    pixel_um : float
        Micrometres per pixel.
    source : ScaleSource
        Where it comes from.
    note : str
        Where what is said and what is measured differ; else empty.
    """

    pixel_um: float
    source: ScaleSource
    note: str = ""


def choose_scale(given_um: float | None, stated_um: float | None, red_cells: RedCells | None, red_cell_um: float) -> Scale:
    """The scale that holds for a frame.

    Parameters
    ----------
    given_um
        Micrometres per pixel by the caller's word. It stands, with a note where red cells differ.
    stated_um
        The same as the frame's file says it. It stands where red cells agree within `AGREE_WITHIN`, and where too few of them
        are seen. Otherwise the red cells' scale is taken, with a note.
    red_cells
        Those that were measured in the frame.
    red_cell_um
        How large a red cell is taken to be.
    """
    said = given_um or stated_um
    measured = round(red_cell_um / red_cells.diameter_px, 5) if red_cells else None
    if said is None:
        return Scale(measured, "red-cells") if measured else Scale(ASSUMED_UM, "assumed")
    if red_cells is None or measured is None or max(said / measured, measured / said) <= AGREE_WITHIN:
        return Scale(said, "given")
    found = f"the red cells say {measured:.4g}"
    if given_um:
        return Scale(said, "given", f"{said:.4g} micrometres a pixel were given, {found}: check the scale")
    if red_cells.circles < ENOUGH_CIRCLES:
        return Scale(said, "given", f"the file says {said:.4g} micrometres a pixel, {found}, but few are seen: check the scale")
    taken = "the red cells' scale is taken; give pixel_um to settle it"
    return Scale(measured, "red-cells", f"the file says {said:.4g} micrometres a pixel, {found}: {taken}")


def estimate_frame_parameters(
    frame: NDArray[np.uint8] | ImagePyramid,
    spec: FrameSpecification,
    *,
    pixel_um: float | None = None,
    stated_um: float | None = None,
    measure: Callable[[ImagePyramid, Box], RedCells | None] | None = None,
) -> FrameParameters:
    """What holds for the whole of a frame: scale, background, stain, field of view.

    An empty frame has parameters too: those that are assumed.

    Parameters
    ----------
    frame : (H, W, 3) uint8 array in RGB, or ImagePyramid
        The frame.
    spec : FrameSpecification
        What is assumed of frames and cells; a scale in it settles the scale.
    pixel_um : float, optional
        Micrometres per pixel. Settles the scale before `spec` does.
    stated_um : float, optional
        What the frame's file says of the scale, which red cells may overrule (`choose_scale`).
    measure : callable, optional
        Measures red cells in a box of the frame. Where it is missing or gives None they are measured by their outlines.

    Returns
    -------
    FrameParameters

    Raises
    ------
    ImageError
        `frame` is no such array.
    """
    pictures = image_pyramid(frame)
    frame = pictures.frame
    given, extent = pixel_um or spec.pixel_um, (0, 0, frame.shape[1], frame.shape[0])
    if frame.size == 0:
        scale = choose_scale(given, stated_um, None, spec.red_cell_um)
        return FrameParameters(
            scale.pixel_um,
            scale.source,
            EMPTY,
            nuclear_axis(RED_CELL),
            NUCLEUS_FROM,
            CELL_FLOOR,
            extent,
            extent,
        )
    gray = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    level = background_level(gray)
    content = content_box(gray, level)
    factor = odd_factor(((content[2] - content[0]) * (content[3] - content[1]) / PIXELS) ** 0.5 + 1)
    picture = pictures.within(content, factor)
    level, background = background_mask(picture, level)
    densities = optical_density(picture, background)
    axis, stain, red = _axis(picture, background, densities)
    nucleus_threshold, cell_threshold = _thresholds(stain, red)
    at = round(nucleus_threshold * STEP)
    red_cells = measure(pictures, content) if measure else None
    if red_cells is None:
        red_cells = measure_red_cells(pictures, content, lambda part: _near_nuclei(part, background, axis, at), level)
    scale = choose_scale(given, stated_um, red_cells, spec.red_cell_um)
    unknown = scale.source == "assumed" and np.count_nonzero(stain > at) > FEWEST_NUCLEAR
    return FrameParameters(
        scale.pixel_um,
        scale.source,
        background,
        axis,
        nucleus_threshold,
        cell_threshold,
        content,
        extent,
        ASSUMED.format(scale.pixel_um) if unknown else scale.note,
    )


def _axis(
    picture: NDArray[np.uint8], background: Colour, densities: Sequence[Densities]
) -> tuple[Colour, Stain, Numbers | None]:
    """The nuclear axis, what shows on it, and the numbers of the red cells' pixels where they tell it."""
    field = reduce(np.minimum, densities) <= SURROUND
    densest = quantile(densities[0].ravel(), DENSEST)
    usual, red = nuclear_axis(RED_CELL), _red_cells(densities, densest)
    if red is not None:
        axis = nuclear_axis(_usual(densities, red))
        stain = project_density(axis, picture, background)
        dense = field & (densities[0] > densest / 2)
        own, wanted = (
            median(shown[dense]) if dense.any() else 0.0 for shown in (stain, project_density(usual, picture, background))
        )
        if wanted < NUCLEAR * STEP or own > HIDDEN * wanted:
            return axis, stain * field, red
    return usual, project_density(usual, picture, background) * field, None


def _red_cells(densities: Sequence[Densities], densest: float) -> Numbers | None:
    """The numbers of the pixels that are a red cell's, by the densities in red, green and blue; None of too few.

    `densest` is what nuclei have in red.
    """
    # by their density, not by an axis: nuclei of a dark stain lie within a few degrees of red cells
    in_red, in_green, in_blue = densities
    strength = in_red + in_green + in_blue
    most_in_red = min(max(densest / 2, PALE_IN_RED), RED_IN_RED)
    red = (strength > LEAST_DENSITY) & (strength < RED_DENSITY) & (in_red < np.minimum(most_in_red, RED_SHARE * strength))
    places = np.flatnonzero(red)
    if len(places) < FEWEST_RED * red.size:
        return None
    own = strength.ravel()[places]
    return np.asarray(places[own > 0.5 * quantile(own, 0.9)])  # rims and pale middles have little colour


def _usual(densities: Sequence[Densities], places: Numbers) -> Colour:
    """The median density in red, green and blue."""
    red, green, blue = (median(channel.ravel()[places]) for channel in densities)
    return red, green, blue


def _thresholds(stain: Stain, red: Numbers | None) -> tuple[float, float]:
    """Where on the nuclear axis nuclei begin, and where white cells begin. Both go with how much red cells vary along it."""
    varied = USUAL_SPREAD
    if red is not None:
        own = stain.ravel()[red]
        varied = (median(own) - quantile(own, 0.1)) / STEP
    strength = min(max(varied / USUAL_SPREAD, PALEST), DARKEST)
    nuclei = stain[stain > round(NUCLEUS_FROM * strength * STEP)]
    usual = median(nuclei) / STEP if len(nuclei) > 30 else 0.0
    nucleus = min(max(usual / 2, NUCLEUS_FROM * strength), NUCLEUS_CEILING * max(strength, 1.0))
    cell = min(max(CELL_SHARE * usual, CELL_FLOOR * min(strength, 1.0)), CELL_CEILING)
    return round(nucleus, 4), round(cell, 4)


def _near_nuclei(picture: NDArray[np.uint8], background: Colour, axis: Colour, threshold: int) -> NDArray[np.bool_]:
    stained = (project_density(axis, picture, background) > threshold).astype(np.uint8)
    return np.asarray(cv2.dilate(stained, np.ones((5, 5), np.uint8)), np.bool_)
