"""The largest 8-connected component, without labelling every pixel."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.prediction import Box


class Component(NamedTuple):
    """Where one component lies: enough to find its pixels again."""

    box: Box
    first: tuple[int, int]  # row and column of its first pixel in raster order


def largest_component(mask: NDArray[np.uint8]) -> Component | None:
    """The component of `mask` (H, W), 0 or 255, with most pixels; of equals the first in raster order.

    None when no pixel is set. Contours cost a fifteenth of `connectedComponents` (0.06 against 0.9 ms on a cell of C-NMC). A
    contour encloses holes too, so where there are several components their pixels are counted by filling them, largest box
    first, until no box left could hold more.
    """
    # CCOMP, not EXTERNAL: a small ring may enclose the largest component
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    parents = np.reshape(hierarchy, (-1, 4))[:, 3]
    outer = [_component(contour) for contour, parent in zip(contours, parents, strict=True) if parent < 0]
    return outer[0] if len(outer) == 1 else _fullest(mask, outer)


def component_mask(mask: NDArray[np.uint8], component: Component) -> NDArray[np.bool_]:
    """The pixels of `component` within its box, (y1 - y0, x1 - x0), without those of its neighbours."""
    x0, y0, x1, y1 = component.box
    region = mask[y0:y1, x0:x1].copy()
    cv2.floodFill(region, None, (component.first[1] - x0, 0), (128,), flags=8)
    return np.asarray(region == 128)


def _component(contour: Any) -> Component:
    x, y, width, height = cv2.boundingRect(contour)
    points = np.reshape(contour, (-1, 2))  # x and y
    return Component((x, y, x + width, y + height), (y, int(points[points[:, 1] == y, 0].min())))


def _fullest(mask: NDArray[np.uint8], components: list[Component]) -> Component:
    best, most = components[0], 0
    for component in sorted(components, key=_room, reverse=True):
        if _room(component) < most:
            break
        pixels = int(np.count_nonzero(component_mask(mask, component)))
        if pixels > most or (pixels == most and component.first < best.first):
            best, most = component, pixels
    return best


def _room(component: Component) -> int:
    """The pixels of the component's box: it can't hold more."""
    x0, y0, x1, y1 = component.box
    return (x1 - x0) * (y1 - y0)
