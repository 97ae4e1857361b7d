"""Synthetic frames: C-NMC cells composited on a background among drawn red cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.image import read_image
from blastscope.runtime.types import Box

SIDE, PITCH, COLUMNS, ROWS = 300, 400, 4, 2  # pixels around a C-NMC cell, from one to the next, and cells of a frame
BCCD_LAB = ((45.0, 25.0, -40.0), (9.0, 5.0, 7.0))  # mean and spread of its lymphoid cells, in L*a*b*
RED_CELLS, RED_DENSITY = 220, (0.12, 0.28, 0.22)
BLUR_PX, NOISE = 0.6, 1.5
Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Perturbation = Callable[[Frame], Frame]
UNCHANGED = "as it is"


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


def _to_uint8(values: NDArray[np.floating]) -> Frame:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def resize(factor: float) -> Perturbation:
    """Frames resized by `factor`."""
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return lambda frame: np.asarray(cv2.resize(frame, None, fx=factor, fy=factor, interpolation=interpolation), np.uint8)


def shift_hue(steps: int = 0, saturation: float = 1.0) -> Perturbation:
    """Hues shifted by `steps` of 256, and saturation multiplied by `saturation`."""

    def perturb(frame: Frame) -> Frame:
        hue = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
        hue[..., 0] = (hue[..., 0] + steps) % 256
        hue[..., 1] = np.clip(hue[..., 1] * saturation, 0, 255)
        return np.asarray(cv2.cvtColor(hue.astype(np.uint8), cv2.COLOR_HSV2RGB_FULL), np.uint8)

    return perturb


def scale_stain(strength: float = 1.0, background: tuple[int, int, int] | None = None) -> Perturbation:
    """Optical densities multiplied by `strength`, on a background of another RGB colour; None: on the frame's own."""

    def perturb(frame: Frame) -> Frame:
        estimated = np.percentile(frame, 90, axis=(0, 1)) + 1
        white = np.asarray(background) + 1.0 if background else estimated
        return _to_uint8(white * ((frame + 1.0) / estimated) ** strength - 1)

    return perturb


def scale_channels(*factors: float) -> Perturbation:
    """Red, green and blue multiplied by `factors`: white balance and exposure."""
    return lambda frame: _to_uint8(frame * np.asarray(factors))


def mix_channels(*rows: tuple[float, float, float]) -> Perturbation:
    """Each channel a weighted sum of red, green and blue: a camera with other colour filters."""
    return lambda frame: _to_uint8(frame @ np.asarray(rows).T)


def apply_gamma(gamma: float) -> Perturbation:
    """Another tone curve: values of 0 to 1 to the power of `gamma`."""
    return lambda frame: _to_uint8(255 * (frame / 255.0) ** gamma)


def add_noise(deviation: float) -> Perturbation:
    """Gaussian noise of this standard deviation in gray levels, the same in each run."""
    return lambda frame: _to_uint8(frame + np.random.default_rng(0).normal(0, deviation, frame.shape))


def blur(sigma_px: float) -> Perturbation:
    """Gaussian blur: out of focus."""
    return lambda frame: np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma_px), np.uint8)


def compress_jpeg(quality: int) -> Perturbation:
    """JPEG of this quality, on top of BCCD's own."""

    def perturb(frame: Frame) -> Frame:
        encoded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.cvtColor(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB), np.uint8)

    return perturb


def shade(minimum: float) -> Perturbation:
    """Uneven illumination: darker towards the top left corner, down to the fraction `minimum` of the light."""

    def perturb(frame: Frame) -> Frame:
        down, across = (np.linspace(0, 1, side) for side in frame.shape[:2])
        return _to_uint8(frame * (minimum + (1 - minimum) * (0.4 * down[:, None] + 0.6 * across))[..., None])

    return perturb


def blacken_nuclei(frame: Frame) -> Frame:
    """Pixels that absorb much green and much red become nearly black: overstained nuclei."""
    red, green = frame[..., 0].astype(np.float32), frame[..., 1].astype(np.float32)
    depth = np.clip((165 - green) / 60, 0, 1) * np.clip((180 - red) / 30, 0, 1)
    return _to_uint8(frame * (1 - 0.75 * depth)[..., None])


def _chain(*perturbations: Perturbation) -> Perturbation:
    return lambda frame: reduce(lambda current, perturb: perturb(current), perturbations, frame)


PERTURBATIONS: dict[str, Perturbation] = {
    UNCHANGED: lambda frame: frame,
    "size 0.35": resize(0.35),
    "size 0.5": resize(0.5),
    "size 1.5": resize(1.5),
    "saturation 0.4": shift_hue(saturation=0.4),
    "saturation 0.6": shift_hue(saturation=0.6),
    "saturation 1.5": shift_hue(saturation=1.5),
    "hue +16": shift_hue(16),
    "hue -16": shift_hue(-16),
    "stain 0.5": scale_stain(0.5),
    "stain 1.5": scale_stain(1.5),
    "stain 2.2": scale_stain(2.2),
    "black nuclei": blacken_nuclei,
    "gamma 0.6": apply_gamma(0.6),
    "gamma 2": apply_gamma(2.0),
    "yellow background": scale_stain(background=(235, 220, 170)),
    "gray background": scale_stain(background=(140, 140, 140)),
    "warm light": scale_channels(1.15, 1.0, 0.7),
    "cold light": scale_channels(0.8, 0.95, 1.2),
    "dim light": scale_channels(0.4, 0.4, 0.4),
    "mixed channels": mix_channels((0.8, 0.2, 0.0), (0.1, 0.8, 0.1), (0.0, 0.25, 0.75)),
    "JPEG 15": compress_jpeg(15),
    "noise 8": add_noise(8),
    "noise 15": add_noise(15),
    "blur 2 px": blur(2),
    "blur 4 px": blur(4),
    "small camera": _chain(resize(0.5), scale_stain(1.4, (245, 240, 235)), add_noise(5)),
    "cheap camera": _chain(resize(0.4), shade(0.55), shift_hue(saturation=1.3), add_noise(4)),
    "warm and noisy": _chain(apply_gamma(1.4), scale_channels(1.05, 0.95, 0.8), add_noise(6)),
}
