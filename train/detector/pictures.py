"""Training pictures: frames at a working scale, cut, turned, restained, with cells laid on, alone or four to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.train.detector.config import PictureConfig
from blastscope.train.detector.drawn_glass import draw_glass
from blastscope.train.detector.sources import WHITE, Frame, read_rgb
from blastscope.train.detector.stains import USUAL, Stain, expose, recolour, stain_of

Picture = NDArray[np.uint8]

OVERSAMPLED = 1.7  # frames are kept at this multiple of the working scale, so that enlarged ones stay sharp
CNMC_RED_CELL_PX = 129.0  # what a red cell would measure in C-NMC's pictures: a cell of 207 px is taken for 12 um across
LEAST_SHOWN = 0.5  # of a box: what is cut off further is neither a cell nor none
UNKNOWN = -1


class Boxes(NamedTuple):
    """What a picture shows. A cell cut off by the edge has the label `UNKNOWN`: there nothing is learnt."""

    corners: NDArray[np.float32]  # (K, 4) x0, y0, x1, y1
    labels: NDArray[np.int64]  # (K,)
    groups: NDArray[np.int64]  # (K,) index in GROUPS, or UNKNOWN
    sized: NDArray[np.bool_]  # (K,) whether the corners are those of the cell, and not a guess


class Sample(NamedTuple):
    """One training picture."""

    picture: Picture  # (S, S, 3) RGB
    boxes: Boxes
    complete: NDArray[np.float32]  # (2, S, S) where all white, and all red cells are boxed


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A frame at `OVERSAMPLED` times the working scale."""

    picture: Picture
    frame: Frame
    ratio: float  # of its pixels to the file's
    stain: Stain


def prepare(frame: Frame, config: PictureConfig) -> Prepared:
    """Reads a frame and brings it to the working scale."""
    picture = read_rgb(frame.path)
    ratio = config.red_cell_px * OVERSAMPLED / frame.red_cell_px
    size = max(round(picture.shape[1] * ratio), 16), max(round(picture.shape[0] * ratio), 16)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    return Prepared(np.asarray(small, np.uint8), frame, ratio, stain_of(picture, frame))


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell of C-NMC at `OVERSAMPLED` times the working scale, on black, with its soft mask."""

    picture: Picture
    mask: NDArray[np.float32]


def prepare_cell(path: Path, config: PictureConfig) -> Cell:
    """Reads a cell on black and brings it to the working scale."""
    whole = read_rgb(path)
    x, y, width, height = cv2.boundingRect((whole.max(axis=2) > 0).astype(np.uint8))
    cut = whole[y : y + height, x : x + width]
    mask = (cut.max(axis=2) > 0).astype(np.float32)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderValue=(0,))  # the rim is mixed with black
    ratio = config.red_cell_px * OVERSAMPLED / CNMC_RED_CELL_PX
    size = max(round(width * ratio), 4), max(round(height * ratio), 4)
    weight = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)[..., None]
    colours = cv2.resize(cut.astype(np.float32) * inside[..., None], size, interpolation=cv2.INTER_AREA)
    return Cell(np.clip(colours / np.maximum(weight, 1e-3), 0, 255).astype(np.uint8), np.asarray(weight[..., 0], np.float32))


class Piece(NamedTuple):
    """A part of a picture before it is put into its place."""

    picture: Picture
    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    sized: NDArray[np.bool_]
    complete: NDArray[np.float32]  # (2, h, w)


def draw_sample(
    frames: Sequence[Prepared] | None, cells: Sequence[Cell], config: PictureConfig, rng: np.random.Generator
) -> Sample:
    """One training picture of `frames`; with None, of drawn glass and red cells. `cells` may be laid on."""
    side = config.side_px
    single = frames is not None and frames[0].frame.single
    spots = [(0, 0, side, side)]
    if rng.random() < config.mosaic:
        x, y = (int(v) for v in rng.integers(round(0.3 * side), round(0.7 * side), 2))
        spots = [(0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side)]
    canvas = np.zeros((side, side, 3), np.uint8)
    complete = np.zeros((2, side, side), np.float32)
    parts = []
    for x0, y0, x1, y1 in spots:
        scale = float(np.exp(rng.uniform(*np.log(config.scale))))
        if frames is None:
            piece = draw_glass((x1 - x0, y1 - y0), config.red_cell_px * scale, rng)
            own, glass = USUAL, USUAL.glass
            if rng.random() < 0.8:
                piece = lay_cells(piece, cells, scale, rng, most=10)
        else:
            chosen = frames[int(rng.integers(len(frames)))]
            own = chosen.stain
            piece = _cut(chosen, (x1 - x0, y1 - y0), scale, rng)
            if not single and rng.random() < config.pasted:
                piece = lay_cells(piece, cells, scale, rng, most=4)
        coloured, glass = recolour(piece.picture, own, config, rng)
        height, width = coloured.shape[:2]
        canvas[y0:y1, x0:x1] = glass if rng.random() < 0.8 else 0
        across, down = (int(rng.integers(0, spare + 1)) for spare in (x1 - x0 - width, y1 - y0 - height))
        complete[:, y0:y1, x0:x1] = 1
        canvas[y0 + down : y0 + down + height, x0 + across : x0 + across + width] = coloured
        complete[:, y0 + down : y0 + down + height, x0 + across : x0 + across + width] = piece.complete
        parts.append((piece, np.asarray([x0 + across, y0 + down] * 2, np.float32)))
    boxes = Boxes(
        np.concatenate([piece.corners + shift for piece, shift in parts]),
        np.concatenate([piece.labels for piece, _ in parts]),
        np.concatenate([piece.groups for piece, _ in parts]),
        np.concatenate([piece.sized for piece, _ in parts]),
    )
    return Sample(expose(canvas, rng), boxes, complete)


def _cut(chosen: Prepared, room: tuple[int, int], scale: float, rng: np.random.Generator) -> Piece:
    """A random part of a frame that fits into `room` (width, height), turned and flipped at random."""
    picture, frame = chosen.picture, chosen.frame
    factor = scale / OVERSAMPLED
    size = max(round(picture.shape[1] * factor), 8), max(round(picture.shape[0] * factor), 8)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    corners, labels = frame.boxes * (chosen.ratio * factor), frame.labels
    groups, sized = np.full(len(labels), UNKNOWN), np.ones(len(labels), np.bool_)
    complete = np.ones((2, size[1], size[0]), np.float32)
    if frame.single:  # only the middle is known
        reach = frame.red_cell_px * chosen.ratio * factor
        rows, columns = np.ogrid[: size[1], : size[0]]
        near = np.hypot(columns - size[0] / 2, rows - size[1] / 2) < 1.2 * reach
        complete = np.stack([near, np.zeros_like(near)]).astype(np.float32)
        if frame.group is not None:
            half = 0.85 * reach
            middle = np.asarray([size[0] / 2, size[1] / 2] * 2, np.float32)
            corners = (middle + np.asarray([-half, -half, half, half], np.float32))[None]
            labels, groups, sized = np.asarray([WHITE]), np.asarray([frame.group]), np.asarray([False])
    left, top = (max(have - want, 0) for have, want in zip(size, room, strict=True))
    if frame.single:
        x, y = left // 2, top // 2
    else:
        x, y = int(rng.integers(0, left + 1)), int(rng.integers(0, top + 1))
    cut = np.asarray(small[y : y + room[1], x : x + room[0]], np.uint8)
    complete = complete[:, y : y + room[1], x : x + room[0]]
    piece = clip_boxes(Piece(cut, corners - np.asarray([x, y] * 2, np.float32), labels, groups, sized, complete))
    return _turned(piece, rng, square=room[0] == room[1] or max(cut.shape[:2]) <= min(room))


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


def _turned(piece: Piece, rng: np.random.Generator, *, square: bool) -> Piece:
    """The piece flipped, and where it stays in its room, turned by a right angle."""
    picture, corners, complete = piece.picture, piece.corners.copy(), piece.complete
    if rng.random() < 0.5:
        picture, complete = picture[:, ::-1], complete[:, :, ::-1]
        corners[:, [0, 2]] = picture.shape[1] - corners[:, [2, 0]]
    if rng.random() < 0.5:
        picture, complete = picture[::-1], complete[:, ::-1]
        corners[:, [1, 3]] = picture.shape[0] - corners[:, [3, 1]]
    if square and rng.random() < 0.5:
        picture, complete = picture.transpose(1, 0, 2), complete.transpose(0, 2, 1)
        corners = corners[:, [1, 0, 3, 2]]
    return piece._replace(picture=np.ascontiguousarray(picture), corners=corners, complete=complete)


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
