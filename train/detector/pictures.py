"""Training pictures: frames at a working scale, cut, turned, restained, with cells laid on, alone or four to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.train.detector.composites import (
    OVERSAMPLED,
    UNKNOWN,
    Cell,
    Piece,
    clip_boxes,
    draw_glass,
    drawn_cell,
    lay_cells,
    prepare_cell,
)
from blastscope.train.detector.config import PictureConfig
from blastscope.train.detector.sources import WHITE, Frame, read_rgb
from blastscope.train.detector.stains import USUAL, Stain, expose, recolour, stain_of

Picture = NDArray[np.uint8]


class Boxes(NamedTuple):
    """What a picture shows. A cell cut off by the edge has the label `UNKNOWN`: there nothing is learnt.

    Attributes
    ----------
    corners : (K, 4) float32 array
        x0, y0, x1, y1 in pixels.
    labels : (K,) int64 array
        Kind of each.
    groups : (K,) int64 array
        Index in GROUPS, or UNKNOWN.
    sized : (K,) bool array
        Whether the corners are the cell's, and not a guess.
    """

    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    sized: NDArray[np.bool_]


class Sample(NamedTuple):
    """One training picture.

    Attributes
    ----------
    picture : (S, S, 3) uint8 array
        RGB.
    boxes : Boxes
        What it shows.
    complete : (2, S, S) float32 array
        Where all white, and all red cells are boxed.
    """

    picture: Picture
    boxes: Boxes
    complete: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A frame at `OVERSAMPLED` times the working scale.

    Attributes
    ----------
    picture : (H, W, 3) uint8 array
        RGB.
    frame : Frame
        The file, with its labels.
    ratio : float
        Pixels of the picture along one pixel of the file.
    stain : Stain
        The frame's colours.
    """

    picture: Picture
    frame: Frame
    ratio: float
    stain: Stain


def prepare(frame: Frame, config: PictureConfig) -> Prepared:
    """Reads a frame and brings it to the working scale."""
    picture = read_rgb(frame.path)
    ratio = config.red_cell_px * OVERSAMPLED / frame.red_cell_px
    size = max(round(picture.shape[1] * ratio), 16), max(round(picture.shape[0] * ratio), 16)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    return Prepared(np.asarray(small, np.uint8), frame, ratio, stain_of(picture, frame))


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


def drawn_picture(seed: int, size: tuple[int, int]) -> Picture:
    """A drawn smear (height, width, 3) at the working scale with a few drawn white cells; nobody's."""
    rng, config = np.random.default_rng([seed, 9]), PictureConfig()
    cells = [prepare_cell(drawn_cell(10 * seed + number), config) for number in range(4)]
    scale = config.shown_red_cell_px / config.red_cell_px
    glass = draw_glass((size[1], size[0]), config.shown_red_cell_px, rng)
    return lay_cells(glass, cells, scale, rng, most=4).picture
