"""`cut_cell`: one cell as the networks were trained to see it, on pure black and at their scale."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import FoundCell, FrameFacts
from blastscope.runtime.frames.spec import FrameSpec
from blastscope.runtime.image import check_array

MARGIN_PX = 12  # black around the cell


def cut_cell(frame: NDArray[np.uint8], cell: FoundCell, facts: FrameFacts, spec: FrameSpec) -> NDArray[np.uint8]:
    """The cell (h, w, 3) uint8 RGB on pure black, `spec.network_um` a pixel, with a black margin."""
    frame = check_array(frame)
    x0, y0, x1, y1 = cell.box
    patch = np.ascontiguousarray(frame[y0:y1, x0:x1])
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.drawContours(mask, [cell.contour - np.asarray((x0, y0), np.int32)], -1, (255,), cv2.FILLED)
    scale = facts.pixel_um / spec.network_um
    size = (max(round(patch.shape[1] * scale), 1), max(round(patch.shape[0] * scale), 1))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    patch = np.asarray(cv2.resize(patch, size, interpolation=how), np.uint8)
    patch[cv2.resize(mask, size, interpolation=how) < 128] = 0
    return np.pad(patch, ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0)))
