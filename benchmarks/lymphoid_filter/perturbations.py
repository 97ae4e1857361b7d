"""Perturbations of frames: other stains, cameras, sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Perturbation = Callable[[Frame], Frame]


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


UNCHANGED = "as it is"
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
