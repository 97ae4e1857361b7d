"""`cut_cell`: one cell as the networks were trained to see it, on pure black, at their scale and in their colours."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.mask_geometry import Mask, erode_by
from blastscope.runtime.frames.stain import normalize_stain
from blastscope.runtime.frames.types import FrameParameters, FrameSpecification, SegmentedCell
from blastscope.runtime.io.image import check_array
from blastscope.runtime.io.slides.slide import Readable, read_region

HALO_UM = 0.45  # contours take the whole rim in, as a person would draw them; C-NMC's cells end at the stain
MARGIN_PX = 12  # black around the cell
LARGEST_PX = 2048  # a side beyond this is a wrong scale's doing: the crop refuses it as too large, and so may smaller ones


def cut_cell(
    frame: NDArray[np.uint8], cell: SegmentedCell, parameters: FrameParameters, spec: FrameSpecification
) -> NDArray[np.uint8]:
    """One cell of a frame as the networks see it: pure black outside its contour, with a black margin.

    A refused cell can be cut as well, to be looked at.

    Parameters
    ----------
    frame : (H, W, 3) uint8 array
        RGB.
    cell : SegmentedCell
        One of its cells.
    parameters : FrameParameters
        The frame's scale and stain.
    spec : FrameSpecification
        What is assumed of frames and cells.

    Returns
    -------
    (h, w, 3) uint8 array
        RGB, `spec.network_um` micrometres a pixel.

    Raises
    ------
    ImageError
        `frame` is no such array.
    """
    frame = check_array(frame)
    x0, y0, x1, y1 = cell.box
    patch = np.ascontiguousarray(frame[y0:y1, x0:x1])
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.drawContours(mask, [cell.contour - np.asarray((x0, y0), np.int32)], -1, (255,), cv2.FILLED)
    image, shown = _scaled(patch, _without_halo(mask, parameters.pixel_um), parameters.pixel_um / spec.network_um)
    colours = normalize_stain(image, shown, spec.stain, parameters.background)
    framed = cv2.copyMakeBorder(colours, MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return np.asarray(framed, np.uint8)


def cut_from(scan: Readable, cell: SegmentedCell, parameters: FrameParameters, spec: FrameSpecification) -> NDArray[np.uint8]:
    """The same of a cell in a slide, of which its box alone is read. Raises `ReadError`."""
    x0, y0, x1, y1 = cell.box
    here = replace(cell, box=(0, 0, x1 - x0, y1 - y0), contour=cell.contour - np.asarray((x0, y0), np.int32))
    return cut_cell(read_region(scan, cell.box), here, parameters, spec)


def _without_halo(mask: Mask, pixel_um: float) -> Mask:
    """The mask less a rim in which the background shines through; all of it where little would be left."""
    core = erode_by(mask, HALO_UM / pixel_um)
    return core if 2 * cv2.countNonZero(core) > cv2.countNonZero(mask) else mask


def _scaled(patch: NDArray[np.uint8], mask: Mask, scale: float) -> tuple[NDArray[np.uint8], Mask]:
    """The patch and the mask at another scale. No colour of what lies beyond the cell comes into it."""
    scale = min(scale, LARGEST_PX / max(patch.shape[:2]))
    size = (max(round(patch.shape[1] * scale), 1), max(round(patch.shape[0] * scale), 1))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    share = np.asarray(cv2.resize(mask.astype(np.float32) / 255, size, interpolation=how), np.float32)
    own = cv2.resize(cv2.copyTo(patch, mask).astype(np.float32), size, interpolation=how)
    weights = np.maximum(share, np.float32(0.5))
    # OpenCV does each step in a tenth of the time that numpy takes for three colours a pixel
    image = cv2.divide(own, cv2.merge((weights, weights, weights)), dtype=cv2.CV_8U)
    shown = np.asarray(share >= 0.5, np.uint8)
    return np.asarray(cv2.copyTo(np.maximum(image, np.uint8(1)), shown), np.uint8), shown
