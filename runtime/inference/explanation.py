"""`Explanation`: which parts of a cell its call rests on, found by covering them one after the other (occlusion)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.crop import Crop
from blastscope.runtime.inference.voting import TINY
from blastscope.runtime.types import CLASSES, VOTERS, Box, Prediction, PredictionRow

PATCHES = 10  # the covering square is this part of the crop's side; it moves by half of itself
LEAST_CELL = 0.25  # of a square that must be cell: elsewhere there is little to cover

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # crops (N, S, S, 3) to probabilities (N, 3, 2)


class PatchRow(TypedDict):
    """One covered square, in pixels of the crop."""

    box: list[int]
    support: float


class ExplanationRow(TypedDict):
    """An explanation as the command line prints it."""

    prediction: PredictionRow
    side_px: int
    patches: list[PatchRow]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """How much each part of a crop supports the call: by how much the deciding voter's margin falls where it is covered.

    A margin is the log of the odds of the called class. Negative support speaks for the other class. A square is covered with
    the median colour of the cell, so that its outline and size stay.
    """

    prediction: Prediction
    crop: NDArray[np.uint8]  # (S, S, 3) RGB
    boxes: tuple[Box, ...]  # of the squares, in pixels of the crop
    support: tuple[float, ...]  # of each square

    @property
    def heat(self) -> NDArray[np.float32]:
        """(S, S) mean support of the squares over each pixel; 0 outside of the cell."""
        total = np.zeros(self.crop.shape[:2], np.float32)
        count = np.zeros_like(total)
        for (x0, y0, x1, y1), value in zip(self.boxes, self.support, strict=True):
            total[y0:y1, x0:x1] += value
            count[y0:y1, x0:x1] += 1
        mean: NDArray[np.float32] = np.where(self.crop.max(axis=2) > 0, total / np.maximum(count, 1), 0).astype(np.float32)
        return mean

    def row(self) -> ExplanationRow:
        """The explanation as plain JSON values."""
        patches = [PatchRow(box=list(box), support=value) for box, value in zip(self.boxes, self.support, strict=True)]
        return ExplanationRow(prediction=self.prediction.row(), side_px=len(self.crop), patches=patches)


def explain_crop(prediction: Prediction, crop: Crop, infer: Infer) -> Explanation:
    """What of `crop` the call in `prediction` rests on. `infer` is asked once for each square, in one batch."""
    pixels = crop.pixels
    boxes = _squares(pixels)
    covered = np.repeat(pixels[None], len(boxes) + 1, axis=0)
    for number, box in enumerate(boxes):
        cover(covered[number], box)
    margins = called_margins(prediction, infer(covered))
    return Explanation(prediction, pixels, tuple(boxes), tuple(float(margins[-1] - one) for one in margins[:-1]))


def cover(pixels: NDArray[np.uint8], box: Box) -> None:
    """Paints the cell's part of `box` in `pixels` (S, S, 3) with the cell's median colour, in place."""
    cell = pixels.max(axis=2) > 0
    median = np.maximum(np.median(pixels[cell], axis=0), 1).astype(np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1][cell[y0:y1, x0:x1]] = median


def called_margins(prediction: Prediction, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) log odds of the called class in `probabilities` (N, 3, 2), by the voter that decided `prediction`."""
    assert prediction.voter is not None
    assert prediction.label is not None
    pairs = np.maximum(probabilities[:, VOTERS.index(prediction.voter)], TINY).astype(np.float64)
    called = CLASSES.index(prediction.label)
    margins: NDArray[np.float64] = np.log(pairs[:, called] / pairs[:, 1 - called])
    return margins


def _squares(pixels: NDArray[np.uint8]) -> list[Box]:
    side = len(pixels)
    patch = max(2, side // PATCHES)
    cell = pixels.max(axis=2) > 0
    starts = range(0, side - patch + 1, max(1, patch // 2))
    boxes = [(x, y, x + patch, y + patch) for y in starts for x in starts]
    return [box for box in boxes if cell[box[1] : box[3], box[0] : box[2]].mean() >= LEAST_CELL]
