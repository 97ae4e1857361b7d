"""`survey_frame`: the scale and the stain of a frame or of a slide's thumbnail."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import Colour, FrameFacts, ScaleSource
from blastscope.runtime.frames.spec import FrameSpec
from blastscope.runtime.frames.stain import NUCLEUS, RED_CELL, axis_away_from, density
from blastscope.runtime.image import check_array

ASSUMED_UM = 0.1  # micrometres per pixel where neither the caller nor red cells tell: a 100x objective and a common camera
NUCLEUS_AT, CELL_AT = 0.22, 0.07


def survey_frame(frame: NDArray[np.uint8], spec: FrameSpec, *, pixel_um: float | None = None) -> FrameFacts:
    """What holds for the whole of `frame` (H, W, 3) uint8 RGB. `pixel_um`, or the specification's, settles the scale."""
    frame = np.ascontiguousarray(check_array(frame))
    glass = _glass(frame)
    given = pixel_um or spec.pixel_um
    measured = None if given else _red_cell_px(frame, glass)
    source: ScaleSource = "given" if given else "red-cells" if measured else "assumed"
    scale = given or (spec.red_cell_um / measured if measured else ASSUMED_UM)
    return FrameFacts(scale, source, glass, axis_away_from(RED_CELL, NUCLEUS), NUCLEUS_AT, CELL_AT)


def _glass(frame: NDArray[np.uint8]) -> Colour:
    """The brightest common colour."""
    if frame.size == 0:
        return 255.0, 255.0, 255.0
    counts = np.bincount(frame[..., 1].ravel(), minlength=256).astype(np.float64)
    smooth = np.convolve(counts, np.ones(9), "same")
    peaks = np.flatnonzero(smooth >= 0.2 * smooth.max())
    near = np.abs(frame[..., 1].astype(np.int16) - int(peaks[-1]) + 4) <= 4
    red, green, blue = (float(np.median(frame[..., channel][near])) if near.any() else 255.0 for channel in range(3))
    return red, green, blue


def _red_cell_px(frame: NDArray[np.uint8], glass: Colour) -> float | None:
    """The usual diameter of round things that are darker than glass."""
    if frame.size == 0:
        return None
    dark = (density(frame, glass)[..., 1] > 0.12).astype(np.uint8)
    outlines = cv2.findContours(dark, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    sizes = []
    for outline in outlines:
        area, around = cv2.contourArea(outline), cv2.arcLength(outline, True)
        if area > 150 and 4 * np.pi * area > 0.75 * around * around:
            sizes.append(2 * float(np.sqrt(area / np.pi)))
    return float(np.median(sizes)) if len(sizes) >= 3 else None
