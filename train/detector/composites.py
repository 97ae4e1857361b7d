"""Composites: smears drawn without white cells, and single cells on black that are cut out and laid on frames and drawn smears.

Drawn are glass, red cells of all shapes, platelets and dirt. In a smear of blasts, cells that are laid on touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.train.detector.config import PictureConfig
from blastscope.train.detector.sources import PLATELET, RED, WHITE
from blastscope.train.detector.stains import USUAL, render

OVERSAMPLED = 1.7  # frames and cells are kept at this multiple of the working scale, so that enlarged ones stay sharp
LEAST_SHOWN = 0.5  # of a box: what is cut off further is neither a cell nor none
UNKNOWN = -1  # of a group
Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]
CNMC_RED_CELL_PX = 129.0  # what a red cell would measure in C-NMC's pictures: a cell of 207 px is taken for 12 um across


class Piece(NamedTuple):
    """A part of a picture before it is put into its place.

    Attributes
    ----------
    picture : (h, w, 3) uint8 array
        RGB.
    corners : (K, 4) float32 array
        Boxes: x0, y0, x1, y1 in its pixels.
    labels : (K,) int64 array
        Kind of each.
    groups : (K,) int64 array
        Index in GROUPS, or UNKNOWN.
    sized : (K,) bool array
        Whether the corners are the cell's, and not a guess.
    complete : (2, h, w) float32 array
        Where all white, and all red cells are boxed.
    """

    picture: NDArray[np.uint8]
    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    sized: NDArray[np.bool_]
    complete: NDArray[np.float32]


def clip_boxes(piece: Piece) -> Piece:
    """The piece with its boxes cut at its edges; of what shows too little, the place is marked as not known."""
    height, width = piece.picture.shape[:2]
    limits = np.asarray([width, height] * 2, np.float32)
    cut = np.clip(piece.corners, 0, limits)
    shown = _areas(cut) / np.maximum(_areas(piece.corners), 1e-3)
    complete = piece.complete.copy()
    for box, share in zip(cut, shown, strict=True):
        if 0 < share < LEAST_SHOWN:
            x0, y0, x1, y1 = np.round(box).astype(int)
            complete[:, y0:y1, x0:x1] = 0
    kept = shown >= LEAST_SHOWN
    return Piece(piece.picture, cut[kept], piece.labels[kept], piece.groups[kept], piece.sized[kept], complete)


def _areas(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), np.float32)


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


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell of C-NMC at `OVERSAMPLED` times the working scale, on black, with its soft mask.

    Attributes
    ----------
    picture : (h, w, 3) uint8 array
        RGB.
    mask : (h, w) float32 array
        0 to 1: how much of a pixel is the cell's.
    """

    picture: Picture
    mask: NDArray[np.float32]


def prepare_cell(whole: Picture, config: PictureConfig) -> Cell:
    """A cell (H, W, 3) on black, of C-NMC's scale, at the working scale."""
    x, y, width, height = cv2.boundingRect((whole.max(axis=2) > 0).astype(np.uint8))
    cut = whole[y : y + height, x : x + width]
    mask = (cut.max(axis=2) > 0).astype(np.float32)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=(0,))  # the rim is mixed with black
    ratio = config.red_cell_px * OVERSAMPLED / CNMC_RED_CELL_PX
    size = max(round(width * ratio), 4), max(round(height * ratio), 4)
    weight = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)[..., None]
    colours = cv2.resize(cut.astype(np.float32) * inside[..., None], size, interpolation=cv2.INTER_AREA)
    return Cell(np.clip(colours / np.maximum(weight, 1e-3), 0, 255).astype(np.uint8), np.asarray(weight[..., 0], np.float32))


def lay_cells(piece: Piece, cells: Sequence[Cell], scale: float, rng: np.random.Generator, *, most: int) -> Piece:
    """The piece with some of C-NMC's cells laid where no white cell is; in a blast smear they touch."""
    picture = piece.picture.copy()
    height, width = picture.shape[:2]
    glass = np.quantile(picture.reshape(-1, 3), 0.9, axis=0)
    added: list[tuple[float, float, float, float]] = []
    taken = [tuple(box) for box in piece.corners[piece.labels == WHITE]]
    tint = rng.uniform(0.88, 1.1, 3)
    fainter = rng.uniform(0.3, 1.0)  # a power on what passes through is a factor on the optical density
    for _ in range(int(rng.integers(1, most + 1))):
        cell = cells[int(rng.integers(len(cells)))]
        factor = scale / OVERSAMPLED * rng.uniform(0.85, 1.2)
        size = max(round(cell.mask.shape[1] * factor), 6), max(round(cell.mask.shape[0] * factor), 6)
        if size[0] > width or size[1] > height:
            continue
        for _ in range(6):
            x, y = int(rng.integers(0, width - size[0] + 1)), int(rng.integers(0, height - size[1] + 1))
            box = (float(x), float(y), float(x + size[0]), float(y + size[1]))
            if all(_overlap(box, other) < 0.12 for other in (*taken, *added)):
                break
        else:
            continue
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        soft = cv2.GaussianBlur(cv2.resize(cell.mask, size, interpolation=method), (3, 3), 0)[..., None]
        colours = cv2.resize(cell.picture, size, interpolation=method).astype(np.float32)
        # C-NMC's cells come without glass: their colours are taken as before white light, and lit like this glass
        lit = (colours / 250) ** fainter * glass * tint
        if rng.random() < 0.5:
            turned = int(rng.integers(0, 2))
            soft, lit = soft[:, ::-1] if turned else soft[::-1], lit[:, ::-1] if turned else lit[::-1]
        under = picture[y : y + size[1], x : x + size[0]]
        under[:] = np.clip(soft * lit + (1 - soft) * under, 0, 255)
        added.append(box)
    if not added:
        return piece
    new = np.asarray(added, np.float32)
    covered = np.asarray([max(_covered(tuple(box), other) for other in added) > 0.5 for box in piece.corners], np.bool_)
    kept = ~covered if len(covered) else np.zeros(0, np.bool_)
    count = len(new)
    return Piece(
        picture,
        np.concatenate([piece.corners[kept], new]),
        np.concatenate([piece.labels[kept], np.full(count, WHITE)]),
        np.concatenate([piece.groups[kept], np.zeros(count, np.int64)]),  # C-NMC's are lymphoid, all of them
        np.concatenate([piece.sized[kept], np.ones(count, np.bool_)]),
        piece.complete,
    )


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The shared area, of the smaller box."""
    shared = _shared(one, other)
    return shared / max(min((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)), 1e-3)


def _covered(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return _shared(one, other) / max((one[2] - one[0]) * (one[3] - one[1]), 1e-3)


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across = max(min(one[2], other[2]) - max(one[0], other[0]), 0.0)
    return across * max(min(one[3], other[3]) - max(one[1], other[1]), 0.0)
