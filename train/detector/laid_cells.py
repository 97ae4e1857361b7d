"""Single cells on black, cut out and laid on frames and drawn glass; in a smear of blasts they touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.train.detector.config import PictureConfig
from blastscope.train.detector.pieces import OVERSAMPLED, Piece
from blastscope.train.detector.sources import WHITE

Picture = NDArray[np.uint8]
CNMC_RED_CELL_PX = 129.0  # what a red cell would measure in C-NMC's pictures: a cell of 207 px is taken for 12 um across


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell of C-NMC at `OVERSAMPLED` times the working scale, on black, with its soft mask."""

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
