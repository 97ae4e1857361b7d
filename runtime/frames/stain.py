"""Optical density, and the axis in it along which nuclei lie far out and red cells lie at zero."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.found import Colour

RED_CELL: Colour = (0.12, 0.28, 0.22)  # optical density of a red cell: R, G, B
NUCLEUS: Colour = (0.40, 0.75, 0.02)  # and of a nucleus


def density(frame: NDArray[np.uint8], background: Colour) -> NDArray[np.float32]:
    """(H, W, 3) natural optical density over the glass; brighter than glass is negative."""
    levels = np.arange(256, dtype=np.float32) + 1
    tables = [-np.log(levels / (glass + 1)) for glass in background]
    return np.asarray(cv2.LUT(frame, np.stack(tables, axis=-1)[None].astype(np.float32)), np.float32)


def axis_away_from(red: Colour, nucleus: Colour) -> Colour:
    """The unit vector nearest to `nucleus` at a right angle to `red`."""
    away, towards = np.asarray(red, np.float64), np.asarray(nucleus, np.float64)
    left = towards - away * float(towards @ away) / float(away @ away)
    red_, green, blue = (left / np.linalg.norm(left)).tolist()
    return red_, green, blue


def nuclear_map(frame: NDArray[np.uint8], background: Colour, axis: Colour) -> NDArray[np.float32]:
    """(H, W) how much nuclear stain each pixel shows; red cells and glass are near 0."""
    weights = np.asarray([axis], np.float32)
    return np.asarray(cv2.transform(density(frame, background), weights), np.float32)
