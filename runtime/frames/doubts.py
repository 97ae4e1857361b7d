"""`doubts_about`: what speaks against trusting what was found in a frame.

It goes without the finder's own rules, which may be what failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.thresholding import median
from blastscope.runtime.frames.tiling import WINDOW_PX, WINDOWS, owns, sample
from blastscope.runtime.frames.types import DOUBTS, Doubt, DoubtCode, FrameCell, FrameParameters
from blastscope.runtime.io.slides.slide import Slide, read_region

LONGEST_PX = 640  # of the reduced picture that is looked at
# Natural optical densities. A nucleus is darker in green than red cells in every stain that was seen: of 60 frames with a white
# cell of BCCD, TXL-PBC's CellaVision and Raabin's phone 56, 60 and 49 show such an object there. Elsewhere in them 1 of 120 of
# the first two shows one; of Raabin's, with darker platelets and dirt, 1 in 5.
SHOWN = 0.15  # in green: what is less is background
DARK, DARKER_THAN_MOST, DARK_ENOUGH = 0.5, 1.8, 1.0  # at least; times the usual of what is shown; that is enough in any case
PURPLE_OVER_BLUE, PURPLE_OVER_RED = 1.2, 1.1  # green is absorbed most
NUCLEUS_UM2 = 12.0, 400.0  # platelets are smaller, clumps and dirt larger
# In blood one cell in five at most is white, even in leukaemia. No frame of the first two sources above shows as many white as
# red cells; half of Raabin's do, in which red cells are taken for white ones.
FEWEST_WHITE = 4
RED_CELL_RADIUS_UM = 3.75


Parts = Iterable[tuple[NDArray[np.uint8], Sequence[FrameCell]]]  # pictures of parts of a frame, each with the cells in it


def doubts_about(scan: Slide, parameters: FrameParameters, cells: Sequence[FrameCell], whole_pixels: int) -> Iterator[Doubt]:
    """What speaks against trusting what was found in a frame.

    Parameters
    ----------
    scan : Slide
        The open frame. Parts of it are read again where nothing, or much, was found.
    parameters : FrameParameters
        Its scale and background.
    cells : sequence of FrameCell
        What was found.
    whole_pixels : int
        A frame up to this size is looked at as a whole, of a larger one some windows.

    Yields
    ------
    Doubt

    Raises
    ------
    ReadError
        The frame can't be read any more.
    """
    yield from scale_doubts(parameters, cells=bool(cells))
    if 0 < len(cells) < FEWEST_WHITE:
        return
    small = scan.width * scan.height <= whole_pixels
    whole = 0, 0, scan.width, scan.height
    parts: Parts = [(read_region(scan, whole), cells)] if small else _windows(scan, cells)
    yield from many_white_cells(parts, parameters) if cells else nothing_found((picture for picture, _ in parts), parameters)


def _windows(scan: Slide, cells: Sequence[FrameCell]) -> Parts:
    """Parts of a large `scan`: around some of its cells, or, without one, where it shows something."""
    if not cells:
        yield sample(scan), []
        return
    for cell in cells[:: -(-len(cells) // WINDOWS)]:
        x, y = (cell.box[0] + cell.box[2] - WINDOW_PX) // 2, (cell.box[1] + cell.box[3] - WINDOW_PX) // 2
        left, top = max(min(x, scan.width - WINDOW_PX), 0), max(min(y, scan.height - WINDOW_PX), 0)
        box = left, top, min(left + WINDOW_PX, scan.width), min(top + WINDOW_PX, scan.height)
        yield read_region(scan, box), [one for one in cells if owns(box, one.box)]


def scale_doubts(parameters: FrameParameters, *, cells: bool) -> Iterator[Doubt]:
    """What is doubtful about a frame's scale. One that is assumed matters where something may be `cells`."""
    if parameters.scale_source == "assumed":
        if cells or parameters.scale_note:
            yield Doubt(
                "scale-assumed", parameters.scale_note or f"{parameters.pixel_um:.4g} micrometres a pixel are only assumed"
            )
    elif parameters.scale_note:
        yield Doubt("scale-disputed", parameters.scale_note)


def nothing_found(pictures: Iterable[NDArray[np.uint8]], parameters: FrameParameters) -> Iterator[Doubt]:
    """A doubt about a frame without white cells, where its `pictures` (H, W, 3), parts at full resolution, show nuclei."""
    count = sum(_dark_objects(picture, parameters) for picture in pictures)
    if count:
        objects = "a dark purple object is" if count == 1 else f"{count} dark purple objects are"
        yield Doubt("nothing-found", f"no white cell was found, but {objects} there: the stain may not be understood")


def many_white_cells(
    parts: Iterable[tuple[NDArray[np.uint8], Sequence[FrameCell]]], parameters: FrameParameters
) -> Iterator[Doubt]:
    """A doubt where so many of the cells are white that red ones may have been taken for white.

    `parts` are pictures (H, W, 3) at full resolution, each with the cells that were found in it.
    """
    white, red = 0, 0.0
    for picture, cells in parts:
        green, scale = _reduced(np.asarray(cv2.extractChannel(picture, 1), np.uint8))
        shown = cv2.countNonZero(cv2.LUT(green, (_densities(parameters)[1] > SHOWN).view(np.uint8))) / scale**2
        own = sum(cv2.contourArea(cell.contour) for cell in cells)
        white += len(cells)
        red += max(shown - own, 0.0) * parameters.pixel_um**2 / (np.pi * RED_CELL_RADIUS_UM**2)
    if white >= max(FEWEST_WHITE, red):
        told = "red cells may be taken for white ones, unless it is bone marrow or buffy coat"
        yield Doubt("many-white-cells", f"as many white cells were found as there is room for red ones: {told}")


def doubt_sentences(counts: Mapping[DoubtCode, int]) -> list[str]:
    """A sentence on all frames for each kind of doubt.

    Parameters
    ----------
    counts : mapping of str to int
        How many frames there are doubts about, by code; `FrameReport.doubt_codes` gives those of one.

    Returns
    -------
    list of str
        Empty where there is no doubt.
    """
    return [SENTENCES[code].format(counts[code]) for code in DOUBTS if counts.get(code)]


SENTENCES: dict[DoubtCode, str] = {
    "nothing-found": "in {} of the frames no white cell was found though dark purple objects are there: the stain may not be "
    "understood",
    "many-white-cells": "{} of the frames show as many white cells as red ones: red cells may be taken for white ones there",
    "scale-assumed": "too few red cells show the scale of {} of the frames, so it is only assumed: give the micrometres per "
    "pixel, or trust no call there, nor that a frame holds no cell",
    "scale-disputed": "in {} of the frames the scale that was given and the red cells differ: their notes say which was taken",
}


def _reduced(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """A picture, or one channel of it, at most `LONGEST_PX` long, and by how much it was reduced."""
    scale = min(1.0, LONGEST_PX / max(picture.shape[:2]))
    size = max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _density(picture: NDArray[np.uint8], parameters: FrameParameters) -> NDArray[np.float32]:
    """(3, H, W) natural optical density in red, green and blue."""
    return np.stack([table[picture[..., channel]] for channel, table in enumerate(_densities(parameters))])


def _densities(parameters: FrameParameters) -> list[NDArray[np.float32]]:
    """Of red, green and blue the natural optical density (256,) of each level."""
    levels = np.arange(256, dtype=np.float32)
    return [(-np.log(np.maximum(levels, 1) / max(level, 1))).astype(np.float32) for level in parameters.background]


def _dark_objects(picture: NDArray[np.uint8], parameters: FrameParameters) -> int:
    """How many dark purple objects of a nucleus' size there are."""
    small, scale = _reduced(picture)
    red, green, blue = _density(small, parameters)
    shown = green[green > SHOWN]
    if not len(shown):
        return 0
    dark = min(max(DARK, DARKER_THAN_MOST * median(shown)), DARK_ENOUGH)
    mask = ((green > dark) & (green > PURPLE_OVER_BLUE * blue) & (green > PURPLE_OVER_RED * red)).astype(np.uint8)
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    areas = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA] * (parameters.pixel_um / scale) ** 2
    least, most = NUCLEUS_UM2
    return int(((areas > least) & (areas < most)).sum())
