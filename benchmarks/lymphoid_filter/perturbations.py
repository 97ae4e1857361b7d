"""Perturbations of frames: other stains, cameras, sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Look = Callable[[Frame], Frame]


def _bytes(values: NDArray[np.floating]) -> Frame:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def sized(times: float) -> Look:
    """Seen at another scale."""
    how = cv2.INTER_AREA if times < 1 else cv2.INTER_CUBIC
    return lambda frame: np.asarray(cv2.resize(frame, None, fx=times, fy=times, interpolation=how), np.uint8)


def tinted(turn: int = 0, saturation: float = 1.0) -> Look:
    """Hues turned by `turn` of 256 steps, and saturation times `saturation`."""

    def look(frame: Frame) -> Frame:
        hue = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
        hue[..., 0] = (hue[..., 0] + turn) % 256
        hue[..., 1] = np.clip(hue[..., 1] * saturation, 0, 255)
        return np.asarray(cv2.cvtColor(hue.astype(np.uint8), cv2.COLOR_HSV2RGB_FULL), np.uint8)

    return look


def stained(strength: float = 1.0, glass: tuple[int, int, int] | None = None) -> Look:
    """Every density times `strength`, over glass of another colour."""

    def look(frame: Frame) -> Frame:
        own = np.percentile(frame, 90, axis=(0, 1)) + 1
        return _bytes((np.asarray(glass) + 1.0 if glass else own) * ((frame + 1.0) / own) ** strength - 1)

    return look


def lit(*times: float) -> Look:
    """Red, green and blue times so much: white balance and exposure."""
    return lambda frame: _bytes(frame * np.asarray(times))


def mixed(*rows: tuple[float, float, float]) -> Look:
    """Channels that see each other's colours."""
    return lambda frame: _bytes(frame @ np.asarray(rows).T)


def curved(gamma: float) -> Look:
    """Another tone curve."""
    return lambda frame: _bytes(255 * (frame / 255.0) ** gamma)


def noisy(spread: float) -> Look:
    """Noise of this standard deviation, the same in each run."""
    return lambda frame: _bytes(frame + np.random.default_rng(0).normal(0, spread, frame.shape))


def blurred(px: float) -> Look:
    """Out of focus."""
    return lambda frame: np.asarray(cv2.GaussianBlur(frame, (0, 0), px), np.uint8)


def packed(quality: int) -> Look:
    """JPEG of this quality, on top of BCCD's own."""

    def look(frame: Frame) -> Frame:
        words = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.cvtColor(np.asarray(cv2.imdecode(words, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB), np.uint8)

    return look


def shaded(least: float) -> Look:
    """Darker towards the top left corner, down to `least` of the light."""

    def look(frame: Frame) -> Frame:
        down, across = (np.linspace(0, 1, side) for side in frame.shape[:2])
        return _bytes(frame * (least + (1 - least) * (0.4 * down[:, None] + 0.6 * across))[..., None])

    return look


def black_nuclei(frame: Frame) -> Frame:
    """What takes much of the green and of the red is nearly black: an overstained nucleus."""
    red, green = frame[..., 0].astype(np.float32), frame[..., 1].astype(np.float32)
    depth = np.clip((165 - green) / 60, 0, 1) * np.clip((180 - red) / 30, 0, 1)
    return _bytes(frame * (1 - 0.75 * depth)[..., None])


def _one_after_the_other(*looks: Look) -> Look:
    return lambda frame: reduce(lambda seen, look: look(seen), looks, frame)


AS_IT_IS = "as it is"
LOOKS: dict[str, Look] = {
    AS_IT_IS: lambda frame: frame,
    "size 0.35": sized(0.35),
    "size 0.5": sized(0.5),
    "size 1.5": sized(1.5),
    "saturation 0.4": tinted(saturation=0.4),
    "saturation 0.6": tinted(saturation=0.6),
    "saturation 1.5": tinted(saturation=1.5),
    "hue +16": tinted(16),
    "hue -16": tinted(-16),
    "stain 0.5": stained(0.5),
    "stain 1.5": stained(1.5),
    "stain 2.2": stained(2.2),
    "black nuclei": black_nuclei,
    "gamma 0.6": curved(0.6),
    "gamma 2": curved(2.0),
    "yellow glass": stained(glass=(235, 220, 170)),
    "gray glass": stained(glass=(140, 140, 140)),
    "warm light": lit(1.15, 1.0, 0.7),
    "cold light": lit(0.8, 0.95, 1.2),
    "dim light": lit(0.4, 0.4, 0.4),
    "mixed channels": mixed((0.8, 0.2, 0.0), (0.1, 0.8, 0.1), (0.0, 0.25, 0.75)),
    "JPEG 15": packed(15),
    "noise 8": noisy(8),
    "noise 15": noisy(15),
    "blur 2 px": blurred(2),
    "blur 4 px": blurred(4),
    "small camera": _one_after_the_other(sized(0.5), stained(1.4, (245, 240, 235)), noisy(5)),
    "cheap camera": _one_after_the_other(sized(0.4), shaded(0.55), tinted(saturation=1.3), noisy(4)),
    "warm and noisy": _one_after_the_other(curved(1.4), lit(1.05, 0.95, 0.8), noisy(6)),
}
