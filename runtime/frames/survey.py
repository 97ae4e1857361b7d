"""`survey_frame`: the scale and the stain of a frame or of a slide's thumbnail.

A frame that is turned, flipped, or shifted over empty glass has the same facts to the last digit: they come from counts of
pixels and from reduced pictures whose grid is centred on what is not glass.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import Colour, FrameFacts, ScaleSource
from blastscope.runtime.frames.scale import red_cell_px
from blastscope.runtime.frames.spec import FrameSpec
from blastscope.runtime.frames.stain import RED_CELL, STEP, along, density, nuclear_axis
from blastscope.runtime.frames.thumbnail import grid_around, odd_factor, reduced
from blastscope.runtime.image import check_array
from blastscope.runtime.prediction import Box

ASSUMED_UM = 0.1  # micrometres a pixel where neither the caller nor red cells tell: a 100x objective and a common camera
PIXELS = 60_000  # of the thumbnail that colours are measured on
GLASS_SHARE = 0.02  # of the pixels: what is brighter and rarer is a glint
NOT_GLASS = 12  # gray levels away from glass
LEAST_DENSITY = 0.12  # natural, in all three channels together: what is fainter has no colour to speak of
RED_DENSITY, RED_IN_RED = 1.6, 0.3  # red cells' density is less: in all channels together, and in red, which they let through
RED_SHARE = 0.36  # of it in red: what has more is cytoplasm
NUCLEUS_FROM, NUCLEUS_FLOOR, NUCLEUS_CEILING = 0.15, 0.15, 0.30  # densities along the nuclear axis
CELL_SHARE, CELL_FLOOR, CELL_CEILING = 0.09, 0.028, 0.06  # cytoplasm, of a nucleus


def survey_frame(frame: NDArray[np.uint8], spec: FrameSpec, *, pixel_um: float | None = None) -> FrameFacts:
    """What holds for the whole of `frame` (H, W, 3) uint8 RGB. `pixel_um`, or the specification's, settles the scale.

    Raises `ImageError` for anything but such an array. An empty frame has facts too: those that are assumed.
    """
    frame = np.ascontiguousarray(check_array(frame))
    glass = _glass(frame)
    content = _content(frame, glass)
    factor = odd_factor(((content[2] - content[0]) * (content[3] - content[1]) / PIXELS) ** 0.5 + 1)
    picture = reduced(frame, grid_around(content, factor)) if frame.size else frame
    axis = _nuclear_axis(picture, glass)
    nucleus_threshold, cell_threshold = _thresholds(picture, glass, axis)
    given = pixel_um or spec.pixel_um
    at = round(nucleus_threshold * STEP)
    measured = (
        None if given or not frame.size else red_cell_px(frame, content, lambda part: _near_nuclei(part, glass, axis, at))
    )
    source: ScaleSource = "given" if given else "red-cells" if measured else "assumed"
    scale = given or (round(spec.red_cell_um / measured, 5) if measured else ASSUMED_UM)
    return FrameFacts(scale, source, glass, axis, nucleus_threshold, cell_threshold)


def _glass(frame: NDArray[np.uint8]) -> Colour:
    """The colour of the brightest gray that is common."""
    if frame.size == 0:
        return 255.0, 255.0, 255.0
    gray = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    counts = _histogram(gray, None)
    smooth = np.convolve(counts, np.ones(9), "same")
    common = smooth >= max(GLASS_SHARE * gray.size, 0.1 * smooth.max())
    brightest = int(np.flatnonzero(common)[-1])
    low = brightest
    while low > 0 and smooth[low - 1] >= smooth[low]:  # down from the bright end up to the top of the peak
        low -= 1
    mask = np.asarray(cv2.inRange(gray, (max(low - 5, 0),), (min(low + 5, 255),)), np.uint8)
    red, green, blue = (_median(_histogram(frame, mask, channel)) for channel in range(3))
    return red, green, blue


def _histogram(picture: NDArray[np.uint8], mask: NDArray[np.uint8] | None, channel: int = 0) -> NDArray[np.float64]:
    return np.asarray(cv2.calcHist([picture], [channel], mask, [256], [0, 256]), np.float64).ravel()


def _median(counts: NDArray[np.float64]) -> float:
    """The median level, with a fraction for where in the level it lies."""
    total = counts.cumsum()
    half = total[-1] / 2
    level = int(np.searchsorted(total, half))
    before = total[level - 1] if level else 0.0
    return round(level - 0.5 + float((half - before) / max(counts[level], 1.0)), 3)


def _content(frame: NDArray[np.uint8], glass: Colour) -> Box:
    """The box of all that is neither empty glass nor black."""
    if frame.size == 0:
        return 0, 0, 0, 0
    green = cv2.extractChannel(frame, 1)
    low, high = round(glass[1]) - NOT_GLASS, round(glass[1]) + NOT_GLASS
    empty = cv2.bitwise_or(cv2.inRange(green, (low,), (high,)), cv2.inRange(green, (0,), (0,)))
    x, y, width, height = cv2.boundingRect(cv2.bitwise_not(empty))
    return (x, y, x + width, y + height) if width else (0, 0, frame.shape[1], frame.shape[0])


def _nuclear_axis(picture: NDArray[np.uint8], glass: Colour) -> Colour:
    """The axis that red cells of this frame don't show on; without red cells the usual one."""
    if picture.size == 0:
        return nuclear_axis(RED_CELL)
    stained = density(picture, glass).reshape(-1, 3)
    strength = stained.sum(axis=1)
    # by their density, not by an axis: nuclei of a dark stain lie within a few degrees of red cells
    pale = (strength > LEAST_DENSITY) & (strength < RED_DENSITY)
    red = stained[pale & (stained[:, 0] < RED_IN_RED) & (stained[:, 0] < RED_SHARE * strength)]
    if len(red) < 0.02 * len(stained):
        return nuclear_axis(RED_CELL)
    strength = red.sum(axis=1)
    full = np.median(red[strength > 0.5 * np.quantile(strength, 0.9)], axis=0)  # rims and pale middles have little colour
    return nuclear_axis((float(full[0]), float(full[1]), float(full[2])))


def _thresholds(picture: NDArray[np.uint8], glass: Colour, axis: Colour) -> tuple[float, float]:
    """Where on the nuclear axis nuclei begin, and where white cells begin."""
    if picture.size == 0:
        return NUCLEUS_FLOOR, CELL_FLOOR
    stain = along(axis, picture, glass).astype(np.float32).ravel() / STEP
    nuclei = stain[stain > NUCLEUS_FROM]
    usual = float(np.median(nuclei)) if len(nuclei) > 30 else 0.0
    nucleus = min(max(usual / 2, NUCLEUS_FLOOR), NUCLEUS_CEILING)
    cell = min(max(CELL_SHARE * usual, CELL_FLOOR), CELL_CEILING)
    return round(nucleus, 4), round(cell, 4)


def _near_nuclei(picture: NDArray[np.uint8], glass: Colour, axis: Colour, threshold: int) -> NDArray[np.bool_]:
    stained = (along(axis, picture, glass) > threshold).astype(np.uint8)
    return np.asarray(cv2.dilate(stained, np.ones((5, 5), np.uint8)), np.bool_)
