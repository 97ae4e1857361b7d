"""Changes of frames that no training picture knows: other light, cameras, stains, focus, and large pale cells side by side.

Training moves optical densities, and white light, gamma, hue and saturation as a whole. Here colours go through matrices and
curves of linear light, kinds of pixels get another chroma in CIELAB, a lens darkens and splits colours towards the rim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.detection.detector import overlaps
from blastscope.train.detector.sources import RED, WHITE, Frame
from blastscope.train.detector.stains import glass_of

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]

GAMMA = 2.2
NEAR = 30.0  # squared distance in CIELAB (8 bits a channel) at which a colour is as good as another's
MAGENTA = (-14.0, 26.0, -22.0)  # what red cells gain in L, a and b
# what red cells and nuclei have in a frame where none is boxed
RED_FROM_GLASS, NUCLEUS_FROM_RED = np.asarray([-40, 10, 0], np.float32), np.asarray([-60, 20, -30], np.float32)
LARGER, PALER = 1.35, 0.6  # white cells' sides, and the power on what passes through them
MOST_LAID, TRIES = 8, 60
TOUCH = 0.12  # of the smaller box may be shared


class Stressed(NamedTuple):
    """A changed frame.

    Attributes
    ----------
    picture : (H, W, 3) uint8 array
        RGB.
    white : (K, 4) float32 array
        Boxes of its white cells: x0, y0, x1, y1 in pixels.
    """

    picture: Picture
    white: Floats


def stressed(name: str, picture: Picture, frame: Frame, seed: int) -> Stressed:
    """A frame as the change `name` of `STRESSES` makes it; the same at each call.

    Parameters
    ----------
    name : str
        One of `STRESSES`.
    picture : (H, W, 3) uint8 array
        RGB, the frame's file.
    frame : Frame
        Its boxes and scale.
    seed : int
        Of what is drawn at random.
    """
    white = frame.boxes[frame.labels == WHITE]
    if name == LAID:
        return _with_large_pale_cells(picture, white, np.random.default_rng([seed, 7]))
    return Stressed(STRESSES[name](picture, frame), white)


def _high_key(picture: Picture, frame: Frame) -> Picture:
    """Bright light, a soft shoulder, lifted black, and a cast to violet."""
    light = 1 - np.exp(-1.7 * 2.1 * _linear(picture))
    cast = np.asarray([[0.88, 0.02, 0.10], [0.10, 0.74, 0.16], [0.02, 0.06, 0.92]], np.float32)
    return _picture(0.1 + 0.9 * light @ cast.T)


def _magenta_red_cells(picture: Picture, frame: Frame) -> Picture:
    """Pixels of the colour of red cells become magenta; nuclei and glass stay."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    some = lab[::3, ::3].reshape(-1, 3)
    bright = np.quantile(some[:, 0], 0.9)
    glass = np.median(some[some[:, 0] >= bright - 6], axis=0)
    red = _usual_colour(lab, frame, RED, 0.5, glass + RED_FROM_GLASS)
    nucleus = _usual_colour(lab, frame, WHITE, 0.25, red + NUCLEUS_FROM_RED)
    near = [1 / (np.square(lab - colour).sum(axis=2) + NEAR) for colour in (red, nucleus, glass)]
    lab += (near[0] / sum(near))[..., None] * np.asarray(MAGENTA, np.float32)
    return np.asarray(cv2.cvtColor(np.clip(lab, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB), np.uint8)


def _eyepiece(picture: Picture, frame: Frame) -> Picture:
    """A phone at the eyepiece: warm light, dark towards the rim, where colours part; soft, and compressed."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns - width / 2, rows - height / 2
    rim = np.hypot(x, y) * 2 / max(height, width)
    light = _linear(picture) * np.asarray([1.02, 0.86, 0.52], np.float32) * (1 - 0.55 * rim**2.5).clip(0.15)[..., None]
    for channel, zoom in ((0, 1.006), (2, 0.992)):
        places = x * zoom + width / 2, y * zoom + height / 2
        light[..., channel] = cv2.remap(light[..., channel], *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    soft = _picture(cv2.GaussianBlur(light, (0, 0), 0.035 * frame.red_cell_px))
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", soft, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR), np.uint8)


def _camera(picture: Picture, frame: Frame) -> Picture:
    """Another camera's colour matrix, and a steep tone curve."""
    matrix = np.asarray([[1.45, -0.38, -0.07], [-0.22, 1.32, -0.10], [0.02, -0.34, 1.32]], np.float32)
    shown = _picture(_linear(picture) @ matrix.T).astype(np.float32) / 255
    return np.clip(255 * shown**2 * (3 - 2 * shown), 0, 255).astype(np.uint8)


def _out_of_focus(picture: Picture, frame: Frame) -> Picture:
    """Blurred by a twelfth of a red cell, coarse, and sharpened with halos."""
    height, width = picture.shape[:2]
    size = frame.red_cell_px
    share = min(11 / size, 1.0)
    blurred = cv2.GaussianBlur(picture, (0, 0), 0.085 * size)
    coarse = cv2.resize(blurred, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    whole = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(whole + 1.2 * (whole - cv2.GaussianBlur(whole, (0, 0), 0.12 * size)), 0, 255).astype(np.uint8)


def _dim(picture: Picture, frame: Frame) -> Picture:
    """A third of the light, and greenish."""
    return _picture(_linear(picture) * np.asarray([0.30, 0.38, 0.25], np.float32))


LAID = "large pale cells"
STRESSES: dict[str, Callable[[Picture, Frame], Picture]] = {
    "high key": _high_key,
    "magenta red cells": _magenta_red_cells,
    "eyepiece": _eyepiece,
    "other camera": _camera,
    "out of focus": _out_of_focus,
    "dim": _dim,
}
NAMES = (*STRESSES, LAID)


def _with_large_pale_cells(picture: Picture, white: Floats, rng: np.random.Generator) -> Stressed:
    """The frame with its own white cells laid around one of them once more, larger and paler, as blasts crowd."""
    height, width = picture.shape[:2]
    whole = [box for box in white.astype(int) if box[:2].min() >= 3 and box[2] <= width - 3 and box[3] <= height - 3]
    if not whole:
        return Stressed(picture, white)
    cells = [picture[y0:y1, x0:x1] for x0, y0, x1, y1 in whole]
    glass, picture = glass_of(picture), picture.copy()
    side = float(np.sqrt(np.prod(np.median(white[:, 2:] - white[:, :2], axis=0))))
    around = (white[:, :2] + white[:, 2:])[int(rng.integers(len(white)))] / 2
    taken, wanted = white, len(white) + int(rng.integers(MOST_LAID // 2, MOST_LAID + 1))
    for _ in range(TRIES):
        cell = np.ascontiguousarray(np.rot90(cells[int(rng.integers(len(cells)))], int(rng.integers(4))))
        zoom = LARGER * rng.uniform(0.9, 1.1) * side / np.sqrt(cell.shape[0] * cell.shape[1])
        cell = np.asarray(cv2.resize(cell, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR), np.uint8)
        down, across = cell.shape[:2]
        turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.15, 3.2) * side
        x, y = int(around[0] + far * np.cos(turn) - across / 2), int(around[1] + far * np.sin(turn) - down / 2)
        box = np.asarray([x, y, x + across, y + down], np.float32)
        smaller = np.minimum((taken[:, 2:] - taken[:, :2]).prod(axis=1), across * down)
        fits = x >= 0 and y >= 0 and x + across <= width and y + down <= height
        if fits and len(taken) < wanted and (overlaps(box, taken) <= TOUCH * smaller).all():
            _lay(picture[y : y + down, x : x + across], cell, glass)
            taken = np.concatenate([taken, box[None]])
    return Stressed(picture, taken)


def _lay(under: Picture, cell: Picture, glass: Floats) -> None:
    """Draws the ellipse of `cell`, paler, on a part of a picture of its size."""
    down, across = cell.shape[:2]
    rows, columns = np.ogrid[:down, :across]
    distance = np.hypot((columns + 0.5) / across * 2 - 1, (rows + 0.5) / down * 2 - 1)
    share = np.clip((1 - distance) * across / 6, 0, 1)[..., None]
    pale = glass * np.clip(cell / glass, 0.02, 1) ** PALER
    under[:] = (share * pale + (1 - share) * under).astype(np.uint8)


def _usual_colour(lab: Floats, frame: Frame, label: int, darkest: float, otherwise: Floats) -> Floats:
    """The median colour of the `darkest` share of the pixels of each box of a kind."""
    parts = []
    for x0, y0, x1, y1 in frame.boxes[frame.labels == label].astype(int):
        inside = lab[max(y0, 0) : y1, max(x0, 0) : x1].reshape(-1, 3)
        if len(inside):
            parts.append(inside[inside[:, 0] <= np.quantile(inside[:, 0], darkest)])
    return np.asarray(np.median(np.concatenate(parts), axis=0) if parts else otherwise, np.float32)


def _linear(picture: Picture) -> Floats:
    """Linear light, 0 to 1."""
    return np.asarray((picture.astype(np.float32) / 255) ** GAMMA, np.float32)


def _picture(light: NDArray[np.floating]) -> Picture:
    """The picture of linear light."""
    return np.asarray(255 * np.clip(light, 0, 1) ** (1 / GAMMA), np.uint8)
