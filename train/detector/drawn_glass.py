"""Drawn smears without white cells: glass, red cells of all shapes, platelets and dirt."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.train.detector.pieces import UNKNOWN, Piece, clip_boxes
from blastscope.train.detector.sources import PLATELET, RED
from blastscope.train.detector.stains import USUAL, render

Floats = NDArray[np.float32]


def draw_glass(size: tuple[int, int], red_cell_px: float, rng: np.random.Generator) -> Piece:
    """A picture of `size` (width, height) with drawn red cells some `red_cell_px` across, platelets and dirt."""
    width, height = size
    dense = np.zeros((height, width, 3), np.float32)
    boxes, labels = [], []
    crowd = rng.uniform(0.02, 0.8) * width * height / red_cell_px**2
    pallor = rng.uniform(0, 0.8)
    for _ in range(int(rng.poisson(crowd))):
        # where red cells overlap their densities add up
        colour = USUAL.red * np.float32(rng.uniform(0.7, 1.3))
        radius = red_cell_px / 2 * float(np.exp(rng.normal(0, 0.1)))
        boxes.append(_add_disc(dense, radius, rng, colour, pallor=pallor * rng.uniform(0.5, 1.2)))
        labels.append(RED)
    for _ in range(int(rng.poisson(1.5))):
        stained = rng.random() < 0.75  # platelets, or else dirt
        colour = USUAL.nucleus * np.float32(rng.uniform(0.3, 1.1)) if stained else rng.uniform(0.2, 1.5, 3).astype(np.float32)
        boxes.append(_add_disc(dense, red_cell_px * rng.uniform(0.08, 0.35), rng, colour, pallor=-rng.uniform(0, 1.0)))
        labels.append(PLATELET)
    dense += rng.normal(0, 0.01, (height, width, 3)).astype(np.float32)
    if rng.random() < 0.3:  # plasma is stained too
        blotch = cv2.resize(rng.uniform(0, 0.3, (3, 3)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        dense += blotch[..., None] * rng.uniform(0.1, 1.0, 3).astype(np.float32)
    count = len(boxes)
    piece = Piece(
        render(dense, USUAL.glass),
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(labels, np.int64),
        np.full(count, UNKNOWN),
        np.ones(count, np.bool_),
        np.ones((2, height, width), np.float32),
    )
    return clip_boxes(piece)


def drawn_cell(seed: int) -> NDArray[np.uint8]:
    """A drawn white cell (H, W, 3) on black at C-NMC's scale: one with chromatin, or two plain ellipses, nucleus and plasm."""
    if seed % 2:
        return synthetic_cell(seed)
    rng = np.random.default_rng([seed, 5])
    cell = np.zeros((450, 450, 3), np.uint8)
    turn, axes, share = rng.uniform(0, 180), rng.uniform((90, 80), (130, 110)), rng.uniform(0.65, 0.95)
    for colour, part in (((188, 172, 212), 1.0), ((122, 84, 172), share)):
        sides = (round(axes[0] * part), round(axes[1] * part))
        cv2.ellipse(cell, (225, 225), sides, turn, 0, 360, colour, -1, cv2.LINE_AA)
    return cell


def _add_disc(
    dense: Floats, radius: float, rng: np.random.Generator, colour: Floats, *, pallor: float
) -> tuple[float, float, float, float]:
    """Adds a soft round shape to the densities (H, W, 3) and returns its box. `pallor`: how much paler its middle is."""
    height, width = dense.shape[:2]
    x, y = rng.uniform(-radius / 2, width + radius / 2), rng.uniform(-radius / 2, height + radius / 2)
    stretch, angle = float(np.exp(rng.normal(0, 0.12))), rng.uniform(0, np.pi)
    reach = 1.5 * radius + 4
    left, top = max(int(x - reach), 0), max(int(y - reach), 0)
    rows, columns = np.ogrid[top : min(int(y + reach) + 1, height), left : min(int(x + reach) + 1, width)]
    across, down = (columns - x), (rows - y)
    along = (across * np.cos(angle) + down * np.sin(angle)) / (radius * stretch)
    beside = (down * np.cos(angle) - across * np.sin(angle)) / (radius / stretch)
    turn = np.arctan2(beside, along)
    edge = np.ones_like(turn)
    for lobes, size, phase in zip((2, 3, 4), rng.normal(0, 0.04, 3), rng.uniform(0, 2 * np.pi, 3), strict=True):
        edge += size * np.cos(lobes * turn + phase)
    distance = np.sqrt(along**2 + beside**2) / edge
    rim = 1 / (1 + np.exp(np.clip((distance - 1) * radius / 0.7, -30, 30)))
    shape = rim * (1 - pallor * np.exp(-((distance / 0.5) ** 2)))
    dense[top : top + shape.shape[0], left : left + shape.shape[1]] += shape[..., None].astype(np.float32) * colour
    half_x = radius * float(np.hypot(stretch * np.cos(angle), np.sin(angle) / stretch))
    half_y = radius * float(np.hypot(stretch * np.sin(angle), np.cos(angle) / stretch))
    return x - half_x, y - half_y, x + half_x, y + half_y
