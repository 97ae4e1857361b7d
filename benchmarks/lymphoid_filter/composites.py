"""Synthetic frames: C-NMC cells composited on glass among drawn red cells."""

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

SIDE, PITCH, ACROSS, DOWN = 300, 400, 4, 2  # pixels around a C-NMC cell, from one to the next, and cells of a frame
BCCD_LAB = ((45.0, 25.0, -40.0), (9.0, 5.0, 7.0))  # mean and spread of its lymphoid cells, in L*a*b*
RED_CELLS, RED_DENSITY = 220, (0.12, 0.28, 0.22)
SOFT_PX, GRAIN = 0.6, 1.5


@dataclass(frozen=True)
class Glass:
    """On which glass the cells are laid, at which share of their size, and whether in BCCD's colours."""

    colour: tuple[int, int, int]
    size: float
    as_bccd: bool = False


GLASSES: dict[str, Glass] = {
    "bright glass, size 0.5": Glass((226, 226, 226), 0.5),
    "bright glass, size 0.8": Glass((226, 226, 226), 0.8),
    "dim glass, size 0.5": Glass((180, 178, 176), 0.5),
    "dim glass, size 0.8": Glass((180, 178, 176), 0.8),
    "BCCD's look, size 0.5": Glass((208, 206, 200), 0.5, as_bccd=True),
    "BCCD's look, size 0.8": Glass((208, 206, 200), 0.8, as_bccd=True),
}


@dataclass(frozen=True, eq=False)
class Laid:
    """A frame and where its cells lie."""

    frame: Frame
    boxes: tuple[Box, ...]
    pixel_um: float


def laid_on(glass: Glass, cells: Sequence[Path]) -> Iterator[Laid]:
    """Frames of up to eight cells each; a picture that can't be read is left out."""
    pictures = [picture for path in cells if isinstance(picture := read_image(path), np.ndarray)]
    for first in range(0, len(pictures), ACROSS * DOWN):
        yield _laid(glass, pictures[first : first + ACROSS * DOWN], first)


def _laid(glass: Glass, pictures: Sequence[Frame], seed: int) -> Laid:
    frame = np.full((DOWN * PITCH, ACROSS * PITCH, 3), glass.colour, np.uint8)
    shown = np.zeros(frame.shape[:2], np.uint8)
    boxes = []
    for number, picture in enumerate(pictures):
        cell, mask = _middle(_coloured(picture) if glass.as_bccd else picture, picture)
        top, left = ((PITCH - SIDE) // 2 + PITCH * place for place in divmod(number, ACROSS))
        frame[top : top + SIDE, left : left + SIDE][mask > 0] = cell[mask > 0]
        shown[top : top + SIDE, left : left + SIDE] = mask
        x, y, width, height = (glass.size * side for side in cv2.boundingRect(mask))
        x, y = x + glass.size * left, y + glass.size * top
        boxes.append((round(x), round(y), round(x + width), round(y + height)))
    small, there = (cv2.resize(one, None, fx=glass.size, fy=glass.size, interpolation=cv2.INTER_AREA) for one in (frame, shown))
    um = FrameSpecification().network_um / glass.size
    return Laid(_among_red_cells(np.asarray(small, np.uint8), there > 0, um, seed), tuple(boxes), um)


def _middle(cell: Frame, picture: Frame) -> tuple[Frame, NDArray[np.uint8]]:
    """The middle of a picture and 1 where it shows the cell."""
    top, left = ((side - SIDE) // 2 for side in picture.shape[:2])
    part = slice(top, top + SIDE), slice(left, left + SIDE)
    return cell[part], (picture[part].max(axis=2) > 0).astype(np.uint8)


def _coloured(picture: Frame) -> Frame:
    """The cell in the mean colour and contrast of BCCD's."""
    cell = picture.max(axis=2) > 0
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    own = lab[cell]
    gain = np.clip(np.asarray(BCCD_LAB[1]) / np.maximum(own.std(axis=0), 1e-3), 0.5, 2)
    lab[cell] = (own - own.mean(axis=0)) * gain + np.asarray(BCCD_LAB[0])
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2RGB)
    return np.clip(np.rint(255 * rgb), 1, 255).astype(np.uint8)


def _among_red_cells(frame: Frame, shown: NDArray[np.bool_], um: float, seed: int) -> Frame:
    """The same with red cells where room is, a lens' softness and a camera's grain."""
    chance = np.random.default_rng(seed)
    light = frame.astype(np.float32)
    radius = FrameSpecification().red_cell_um / 2 / um
    reach = round(radius + 3)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    away = np.hypot(rows, columns) / radius
    disc = np.clip((1 - away) * radius + 0.5, 0, 1) * (1 - 0.4 * np.exp(-((away / 0.45) ** 2)))
    busy = shown.copy()
    for x, y, depth in chance.uniform((0, 0, 0.85), (*frame.shape[1::-1], 1.1), (RED_CELLS, 3)):
        x0, y0 = int(x) - reach, int(y) - reach
        place = slice(max(y0, 0), y0 + 2 * reach + 1), slice(max(x0, 0), x0 + 2 * reach + 1)
        if not busy[place].any():
            busy[place] = True
            height, width = busy[place].shape
            part = disc[max(-y0, 0) :, max(-x0, 0) :][:height, :width]
            light[place] *= np.exp(-depth * part[..., None] * np.asarray(RED_DENSITY))
    soft = cv2.GaussianBlur(light, (0, 0), SOFT_PX) + chance.normal(0, GRAIN, light.shape)
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)
