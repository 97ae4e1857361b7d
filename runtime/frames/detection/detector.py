"""`Detector`: the white and red cells of a frame, by a network that runs on its picture at working scale.

`decode_detections` makes boxes of its maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import GROUPS

STRIDE = 8  # pixels of the picture to one place of the maps
WHITE, RED, PLATELET = 0, 1, 2
KINDS = 3
CHANNELS = KINDS + 4 + len(GROUPS)
SAME = 0.5  # boxes that share this much of their union are one cell
INSIDE = 0.7  # or this much of the smaller one
MULTIPLE = 32  # of the sides that the network is given: few shapes, and halves down to a sixteenth
# Larger pictures are looked at in pieces; a tile of a scan with a 100x objective is one piece. A cell is some 50 px across.
PIECE_PX, MARGIN_PX = 1216, 64
RED_SCORE, MOST_RED = 0.3, 100  # of red cells, of which only the usual size is asked for
NEAR_ENOUGH = 1.05  # a picture whose scale is so near to the detector's isn't resized


class Detections(NamedTuple):
    """K cells of one kind, the surest first.

    Attributes
    ----------
    boxes : ndarray of float32
        Shape (K, 4): x0, y0, x1, y1 in pixels.
    scores : ndarray of float32
        Shape (K,), 0 to 1.
    groups : ndarray of float32
        Shape (K, 3): probabilities of `GROUPS`; they mean something for white cells alone.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    groups: NDArray[np.float32]

    def scaled(self, factor: float) -> Detections:
        """The same cells in a picture that is `factor` times as large."""
        return self._replace(boxes=self.boxes * np.float32(factor))


def decode_detections(maps: NDArray[np.float32], kind: int, least: float, most: int | None = None) -> Detections:
    """The cells of `kind` whose score is at least `least`.

    Parameters
    ----------
    maps : (10, h, w) float32 array
        Of one picture: heat of each kind, reaches to left, top, right and bottom in pixels, probabilities of the groups.
    kind : int
        `WHITE`, `RED` or `PLATELET`.
    least : float
        0 to 1.
    most : int, optional
        Only so many of the surest peaks are looked at.

    Returns
    -------
    Detections
        Overlapping boxes are one cell: the surest stands.
    """
    heat = maps[kind]
    peak = (heat >= cv2.dilate(heat, np.ones((3, 3), np.uint8))) & (heat >= least)
    rows, columns = np.nonzero(peak)
    scores = heat[rows, columns]
    order = np.argsort(-scores, kind="stable")[:most]
    rows, columns, scores = rows[order], columns[order], scores[order]
    left, top, right, bottom = maps[KINDS : KINDS + 4, rows, columns]
    x, y = (columns + 0.5) * STRIDE, (rows + 0.5) * STRIDE
    boxes = np.stack([x - left, y - top, x + right, y + bottom], axis=1).astype(np.float32)
    kept = distinct(boxes)
    return Detections(boxes[kept], scores[kept], np.ascontiguousarray(maps[KINDS + 4 :, rows[kept], columns[kept]].T))


def distinct(boxes: NDArray[np.float32]) -> NDArray[np.intp]:
    """The numbers of those of `boxes` (K, 4), the surest first, that no surer one covers."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.ones(len(boxes), np.bool_)
    kept = []
    for at in range(len(boxes)):
        if left[at]:
            kept.append(at)
            shared = overlaps(boxes[at], boxes)
            left &= (shared < SAME * (areas + areas[at] - shared)) & (shared < INSIDE * np.minimum(areas, areas[at]))
    return np.asarray(kept, np.intp)


def overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The areas (K,) that `boxes` (K, 4) share with `box` (4,)."""
    across = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
    down = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
    return np.asarray(across.clip(min=0) * down.clip(min=0), np.float32)


class DetectorNetwork(Protocol):
    """What runs the detector's graph. Thread-safe."""

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (10, H / 8, W / 8) of `picture` (H, W, 3) RGB, H and W multiples of 32. Raises `EngineError`, `Closed`."""
        ...

    def close(self) -> None:
        """Frees what it holds. Safe to call twice."""
        ...


class FoundCells(NamedTuple):
    """What a picture shows, in its pixels.

    Attributes
    ----------
    white : Detections
        White cells.
    red : Detections
        Red cells.
    """

    white: Detections
    red: Detections


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """A detector with the scale and the limit that its bundle says.

    Attributes
    ----------
    network : DetectorNetwork
        Runs the graph.
    pixel_um : float
        Micrometres a pixel of the pictures that it is given.
    least_score : float
        What is surer than this is a white cell.
    """

    network: DetectorNetwork
    pixel_um: float
    least_score: float

    @property
    def margin_um(self) -> float:
        """How far around a part of a frame pixels count for the cells in it, in micrometres."""
        return MARGIN_PX * self.pixel_um

    def find(self, picture: NDArray[np.uint8], um: float) -> FoundCells:
        """The cells in `picture` (h, w, 3) uint8 RGB of `um` micrometres a pixel, in its pixels. Raises `EngineError`."""
        ratio = um / self.pixel_um
        if not 1 / NEAR_ENOUGH < ratio < NEAR_ENOUGH:
            size = max(round(picture.shape[1] * ratio), 1), max(round(picture.shape[0] * ratio), 1)
            how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
            picture = np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)
        else:
            ratio = 1.0
        found = self._found(picture)
        return FoundCells(found.white.scaled(1 / ratio), found.red.scaled(1 / ratio))

    def _found(self, picture: NDArray[np.uint8]) -> FoundCells:
        height, width = picture.shape[:2]
        if min(height, width) < STRIDE:
            none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 3), np.float32))
            return FoundCells(none, none)
        background = _background(picture)
        parts: tuple[list[Detections], list[Detections]] = ([], [])
        for y0, y1 in _pieces(height):
            for x0, x1 in _pieces(width):
                top, left = max(y0 - MARGIN_PX, 0), max(x0 - MARGIN_PX, 0)
                piece = picture[top : min(y1 + MARGIN_PX, height), left : min(x1 + MARGIN_PX, width)]
                maps = self.network.infer(_padded(piece, background))
                for found, here in zip(
                    parts,
                    (decode_detections(maps, WHITE, self.least_score), decode_detections(maps, RED, RED_SCORE, MOST_RED)),
                    strict=True,
                ):
                    boxes = here.boxes + np.asarray([left, top] * 2, np.float32)
                    x, y = ((boxes[:, side] + boxes[:, side + 2]) / 2 for side in (0, 1))
                    own = _own(x, x0, x1, width) & _own(y, y0, y1, height)
                    found.append(Detections(boxes[own], here.scores[own], here.groups[own]))
        return FoundCells(*(_joined(found, (width, height)) for found in parts))


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    """Even parts of at most `PIECE_PX`."""
    count = -(-length // PIECE_PX)
    edges = [length * at // count for at in range(count + 1)]
    return pairwise(edges)


def _own(middle: NDArray[np.floating], start: int, end: int, length: int) -> NDArray[np.bool_]:
    """Whether a cell is this piece's; one whose middle lies beyond the picture is the outermost's."""
    return ((middle >= start) | (start == 0)) & ((middle < end) | (end == length))


def _joined(parts: list[Detections], size: tuple[int, int]) -> Detections:
    """The cells of all pieces, the surest first, cut at the picture's edges."""
    boxes, scores, groups = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    boxes = np.clip(boxes[order], 0, np.asarray(size * 2, np.float32))
    kept = distinct(boxes) if len(parts) > 1 else np.arange(len(boxes))
    return Detections(boxes[kept], scores[order][kept], groups[order][kept])


def _background(picture: NDArray[np.uint8]) -> tuple[float, ...]:
    """The picture's background: a high level of each channel, with which it is padded."""
    few = picture[:: max(picture.shape[0] // 64, 1), :: max(picture.shape[1] // 64, 1)].reshape(-1, 3)
    return tuple(float(level) for level in np.partition(few, len(few) * 9 // 10, axis=0)[len(few) * 9 // 10])


def _padded(picture: NDArray[np.uint8], background: tuple[float, ...]) -> NDArray[np.uint8]:
    down, across = (-side % MULTIPLE for side in picture.shape[:2])
    return np.ascontiguousarray(
        cv2.copyMakeBorder(picture, 0, down, 0, across, cv2.BORDER_CONSTANT, value=background), np.uint8
    )
