"""Augmentation of colour: other stains, glass, light, exposure, focus and compression."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.train.detector.config import PictureConfig
from blastscope.train.detector.sources import RED, WHITE, Frame

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]

GLASS_QUANTILE = 0.9  # of each channel: what is brighter is glass or glare
NUCLEUS_SHARE = 0.25  # of a white cell's pixels, the densest, are surely its nucleus
LEAST_GLASS = 40.0


class Stain(NamedTuple):
    """The colours of a frame: of its glass, and the optical densities of its red cells and nuclei.

    Attributes
    ----------
    glass : (3,) float32 array
        R, G and B, 0 to 255.
    red, nucleus : (3,) float32 array
        Natural optical density of R, G and B.
    """

    glass: Floats
    red: Floats
    nucleus: Floats


USUAL = Stain(
    np.asarray([235, 225, 215], np.float32),
    np.asarray([0.15, 0.45, 0.40], np.float32),
    np.asarray([0.95, 1.45, 0.55], np.float32),
)


def density(picture: Picture, glass: Floats) -> Floats:
    """Natural optical densities (H, W, 3) of `picture` above `glass`; negative where it is brighter."""
    return np.asarray(np.log((glass + 1) / (picture.astype(np.float32) + 1)), np.float32)


def glass_of(picture: Picture) -> Floats:
    """The colour of the glass (3,): a high quantile of each channel."""
    level = np.quantile(picture[::3, ::3].reshape(-1, 3), GLASS_QUANTILE, axis=0)
    return np.maximum(level, LEAST_GLASS).astype(np.float32)


def stain_of(picture: Picture, frame: Frame) -> Stain:
    """The colours of a frame with boxes; where none of a kind is boxed, the usual ones."""
    glass = glass_of(picture)
    dense = density(picture, glass)
    found = []
    for label, usual, share in ((RED, USUAL.red, 0.5), (WHITE, USUAL.nucleus, NUCLEUS_SHARE)):
        pixels = []
        for x0, y0, x1, y1 in frame.boxes[frame.labels == label].astype(int):
            inside = dense[max(y0, 0) : y1, max(x0, 0) : x1].reshape(-1, 3)[::5]
            if len(inside):
                strength = inside.sum(axis=1)
                pixels.append(inside[strength >= np.quantile(strength, 1 - share)])
        found.append(np.median(np.concatenate(pixels), axis=0).astype(np.float32) if pixels else usual)
    return Stain(glass, *found)


def random_glass(rng: np.random.Generator) -> Floats:
    """The colour of some laboratory's glass."""
    level = rng.choice([rng.uniform(225, 255), rng.uniform(160, 235), rng.uniform(90, 170)], p=[0.5, 0.37, 0.13])
    tint = rng.normal(0, 0.06 if rng.random() < 0.75 else 0.14, 3)
    glass: Floats = np.clip(level * (1 + tint - tint.max() * 0.7), 50, 255).astype(np.float32)
    return glass


def random_red(rng: np.random.Generator) -> Floats:
    """The optical densities of red cells in some stain: orange, pink, magenta, violet, gray, green or blue."""
    kind = rng.integers(0, 5)
    if kind == 0:  # orange to pink
        way = [rng.uniform(0.0, 0.35), rng.uniform(0.8, 1.1), rng.uniform(0.5, 1.2)]
    elif kind == 1:  # magenta
        way = [rng.uniform(0.05, 0.45), 1.0, rng.uniform(0.2, 0.7)]
    elif kind == 2:  # violet, lilac
        way = [rng.uniform(0.4, 0.85), 1.0, rng.uniform(0.25, 0.75)]
    elif kind == 3:  # gray
        way = rng.uniform(0.7, 1.1, 3).tolist()
    else:  # blue, green
        way = [1.0, rng.uniform(0.5, 1.0), rng.uniform(0.2, 0.8)]
    return np.asarray(way, np.float32) * np.float32(rng.uniform(0.15, 0.8))


def random_nucleus(rng: np.random.Generator, red: Floats) -> Floats:
    """The optical densities of nuclei in some stain, denser than its red cells: blue, violet, purple or magenta."""
    way = np.asarray([rng.uniform(0.35, 1.1), 1.0, rng.uniform(0.15, 0.7)], np.float32)
    strength = rng.uniform(0.5, 2.0)
    dense = way * np.float32(strength)
    excess = float((dense - red)[:2].sum())
    if excess < 0.5:  # a nucleus that nobody could tell from a red cell teaches nothing
        dense *= np.float32((0.5 + float(red[:2].sum())) / max(float(dense[:2].sum()), 0.1))
    return dense


def restain(dense: Floats, own: Stain, red: Floats, nucleus: Floats) -> Floats:
    """The densities with the parts of red cells and of nuclei in other colours, and the rest as it was."""
    basis = np.stack([own.red, own.nucleus])  # (2, 3)
    parts = dense @ np.linalg.pinv(basis).astype(np.float32)
    rest = dense - parts @ basis
    other = np.stack([red, nucleus])
    return np.asarray(parts @ other + 0.7 * rest, np.float32)


def random_shift(rng: np.random.Generator) -> Floats:
    """A (3, 3) matrix near the identity that moves a stain's densities as a whole."""
    matrix = np.eye(3) * rng.uniform(0.6, 1.5) + rng.normal(0, 0.12, (3, 3))
    return np.asarray(matrix * rng.uniform(0.8, 1.25, 3), np.float32)


def recolour(picture: Picture, own: Stain, config: PictureConfig, rng: np.random.Generator) -> tuple[Picture, Floats]:
    """`picture` (H, W, 3) as another laboratory would have stained and lit it, and the colour of its glass."""
    draw = rng.random()
    if draw >= config.restained + config.recoloured:
        return picture, own.glass
    dense = density(picture, own.glass)
    if draw < config.restained:
        red = random_red(rng)
        dense = restain(dense, own, red, random_nucleus(rng, red))
    else:
        dense = dense @ random_shift(rng)
    glass = random_glass(rng) if rng.random() < 0.7 else own.glass
    return render(dense, glass), glass


def render(dense: Floats, glass: Floats) -> Picture:
    """The picture of densities (H, W, 3) before `glass`."""
    return np.clip((glass + 1) * np.exp(-dense) - 1, 0, 255).astype(np.uint8)


def expose(picture: Picture, rng: np.random.Generator) -> Picture:
    """`picture` (H, W, 3) as another camera would have taken it: light, white balance, gamma, focus, noise, compression."""
    work: NDArray[np.floating] = picture.astype(np.float32)
    if rng.random() < 0.5:
        work = 255 * (work / 255) ** np.float32(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.5:
        work *= (rng.uniform(0.75, 1.3) * np.exp(rng.normal(0, 0.06, 3))).astype(np.float32)
    if rng.random() < 0.25:
        work = _slope(work, rng)
    if rng.random() < 0.4:
        gray = work.mean(axis=2, keepdims=True)
        work = gray + (work - gray) * np.float32(rng.uniform(0.35, 1.7))
    if rng.random() < 0.4:
        work = cv2.GaussianBlur(work, (0, 0), rng.uniform(0.3, 1.6)).astype(np.float32)
    elif rng.random() < 0.3:
        work = work + np.float32(rng.uniform(0.3, 1.5)) * (work - cv2.GaussianBlur(work, (0, 0), 1.0))
    if rng.random() < 0.3:
        work = work + rng.normal(0, rng.uniform(1, 8), work.shape).astype(np.float32)
    done = np.clip(work, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        done = _hue(done, rng.uniform(-25, 25))
    if rng.random() < 0.35:
        quality = int(rng.integers(35, 95))
        done = np.asarray(cv2.imdecode(cv2.imencode(".jpg", done, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR))
    return np.asarray(done, np.uint8)


def _slope(work: Floats, rng: np.random.Generator) -> Floats:
    """Uneven light: brighter to one side."""
    height, width = work.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * np.float32(rng.uniform(-0.25, 0.25))
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] * np.float32(rng.uniform(-0.25, 0.25))
    return np.asarray(work * (1 + across + down), np.float32)


def _hue(picture: Picture, degrees: float) -> Picture:
    """`picture` with all hues turned."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(degrees / 2)) % 180
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
