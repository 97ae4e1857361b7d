"""Synthetic frames: C-NMC cells composited on a background among drawn red cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.benchmarks.lymphoid_filter.perturbations import Frame
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Box

SIDE, PITCH, COLUMNS, ROWS = 300, 400, 4, 2  # pixels around a C-NMC cell, from one to the next, and cells of a frame
BCCD_LAB = ((45.0, 25.0, -40.0), (9.0, 5.0, 7.0))  # mean and spread of its lymphoid cells, in L*a*b*
RED_CELLS, RED_DENSITY = 220, (0.12, 0.28, 0.22)
BLUR_PX, NOISE = 0.6, 1.5


@dataclass(frozen=True)
class Background:
    """What cells are composited on, and how they are changed for it.

    Attributes
    ----------
    color
        RGB, 0 to 255.
    scale
        Factor by which frame and cells are resized.
    bccd_colors
        Whether the cells get the mean colour and the contrast of BCCD's lymphoid cells.
    """

    color: tuple[int, int, int]
    scale: float
    bccd_colors: bool = False


BACKGROUNDS: dict[str, Background] = {
    "bright background, size 0.5": Background((226, 226, 226), 0.5),
    "bright background, size 0.8": Background((226, 226, 226), 0.8),
    "dim background, size 0.5": Background((180, 178, 176), 0.5),
    "dim background, size 0.8": Background((180, 178, 176), 0.8),
    "BCCD's colours, size 0.5": Background((208, 206, 200), 0.5, bccd_colors=True),
    "BCCD's colours, size 0.8": Background((208, 206, 200), 0.8, bccd_colors=True),
}


@dataclass(frozen=True, eq=False)
class Composite:
    """A synthetic frame.

    Attributes
    ----------
    frame
        Uint8 (H, W, 3) RGB.
    boxes
        Of its white cells: x0, y0, x1, y1 in pixels.
    pixel_um
        Micrometres per pixel.
    """

    frame: Frame
    boxes: tuple[Box, ...]
    pixel_um: float


def compose_frames(background: Background, cells: Sequence[Path]) -> Iterator[Composite]:
    """Frames of up to eight cells each, the same in each run.

    Parameters
    ----------
    background
        What the cells are composited on.
    cells
        Image files of C-NMC cells on black; those that can't be read are left out.

    Yields
    ------
    Composite
        A frame with its cells' boxes and its pixel size.
    """
    images = [image for path in cells if isinstance(image := read_image(path), np.ndarray)]
    for first in range(0, len(images), COLUMNS * ROWS):
        yield _compose_frame(background, images[first : first + COLUMNS * ROWS], first)


def _compose_frame(background: Background, images: Sequence[Frame], seed: int) -> Composite:
    frame = np.full((ROWS * PITCH, COLUMNS * PITCH, 3), background.color, np.uint8)
    cell_mask = np.zeros(frame.shape[:2], np.uint8)
    boxes = []
    for number, image in enumerate(images):
        cell, mask = _central_part(_with_bccd_colors(image) if background.bccd_colors else image, image)
        top, left = ((PITCH - SIDE) // 2 + PITCH * index for index in divmod(number, COLUMNS))
        frame[top : top + SIDE, left : left + SIDE][mask > 0] = cell[mask > 0]
        cell_mask[top : top + SIDE, left : left + SIDE] = mask
        x, y, width, height = (background.scale * side for side in cv2.boundingRect(mask))
        x, y = x + background.scale * left, y + background.scale * top
        boxes.append((round(x), round(y), round(x + width), round(y + height)))
    resized, resized_mask = (
        cv2.resize(one, None, fx=background.scale, fy=background.scale, interpolation=cv2.INTER_AREA)
        for one in (frame, cell_mask)
    )
    pixel_um = FrameSpecification().network_um / background.scale
    with_red_cells = _add_red_cells(np.asarray(resized, np.uint8), resized_mask > 0, pixel_um, seed)
    return Composite(with_red_cells, tuple(boxes), pixel_um)


def _central_part(cell: Frame, image: Frame) -> tuple[Frame, NDArray[np.uint8]]:
    """The central part of `cell`, and 1 where `image` isn't black there."""
    top, left = ((side - SIDE) // 2 for side in image.shape[:2])
    part = slice(top, top + SIDE), slice(left, left + SIDE)
    return cell[part], (image[part].max(axis=2) > 0).astype(np.uint8)


def _with_bccd_colors(image: Frame) -> Frame:
    """The cell with the mean colour and the contrast of BCCD's."""
    cell = image.max(axis=2) > 0
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    pixels = lab[cell]
    gain = np.clip(np.asarray(BCCD_LAB[1]) / np.maximum(pixels.std(axis=0), 1e-3), 0.5, 2)
    lab[cell] = (pixels - pixels.mean(axis=0)) * gain + np.asarray(BCCD_LAB[0])
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2RGB)
    return np.clip(np.rint(255 * rgb), 1, 255).astype(np.uint8)


def _add_red_cells(frame: Frame, cell_mask: NDArray[np.bool_], pixel_um: float, seed: int) -> Frame:
    """`frame` with red cells beside the white ones, blurred as by a lens, and with a camera's noise."""
    rng = np.random.default_rng(seed)
    light = frame.astype(np.float32)
    radius = FrameSpecification().red_cell_um / 2 / pixel_um
    reach = round(radius + 3)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(rows, columns) / radius
    disc = np.clip((1 - distance) * radius + 0.5, 0, 1) * (1 - 0.4 * np.exp(-((distance / 0.45) ** 2)))
    occupied = cell_mask.copy()
    for x, y, depth in rng.uniform((0, 0, 0.85), (*frame.shape[1::-1], 1.1), (RED_CELLS, 3)):
        x0, y0 = int(x) - reach, int(y) - reach
        area = slice(max(y0, 0), y0 + 2 * reach + 1), slice(max(x0, 0), x0 + 2 * reach + 1)
        if not occupied[area].any():
            occupied[area] = True
            height, width = occupied[area].shape
            part = disc[max(-y0, 0) :, max(-x0, 0) :][:height, :width]
            light[area] *= np.exp(-depth * part[..., None] * np.asarray(RED_DENSITY))
    blurred = cv2.GaussianBlur(light, (0, 0), BLUR_PX) + rng.normal(0, NOISE, light.shape)
    return np.clip(np.rint(blurred), 0, 255).astype(np.uint8)
