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
    """One covered square: its box in pixels of the crop, and its support.

    Attributes
    ----------
    box : list of int
        x0, y0, x1, y1 in pixels of the crop, half-open.
    support : float
        By how much the deciding voter's margin falls while the square is covered.
    """

    box: list[int]
    support: float


class ExplanationRow(TypedDict):
    """An `Explanation` as plain values, as the command line prints it.

    Attributes
    ----------
    prediction : PredictionRow
        The call on the whole cell.
    side_px : int
        Side of the crop, in pixels.
    patches : list of PatchRow
        The squares.
    """

    prediction: PredictionRow
    side_px: int
    patches: list[PatchRow]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """How much each part of a crop supports the call on it.

    Squares of the crop are covered one after the other with the median colour of the cell, so that its outline and size stay.
    A square's support is by how much the deciding voter's margin falls while it is covered. The margin is the natural logarithm
    of the odds of the called class.

    Attributes
    ----------
    prediction : Prediction
        The call that is explained.
    crop : (S, S, 3) uint8 array, RGB
        What the networks saw.
    boxes : tuple of (x0, y0, x1, y1)
        The squares, in pixels of the crop, half-open.
    support : tuple of float
        One figure for each square. Above 0 the square speaks for the called class, below 0 for the other.

    Examples
    --------
    >>> from blastscope import open_bundle, synthetic_cell
    >>> with open_bundle(unlike_training="call") as scope:  # drawn cells are unlike those of the training
    ...     explanation = scope.explain(synthetic_cell(seed=7))
    >>> explanation.heat.shape == explanation.crop.shape[:2]
    True
    >>> len(explanation.support) == len(explanation.boxes)
    True
    """

    prediction: Prediction
    crop: NDArray[np.uint8]  # (S, S, 3) RGB
    boxes: tuple[Box, ...]  # of the squares, in pixels of the crop
    support: tuple[float, ...]  # of each square

    @property
    def heat(self) -> NDArray[np.float32]:
        """The support of each pixel, for drawing: an (S, S) float32 array.

        It is the mean support of the squares over the pixel, and 0 outside of the cell.
        """
        return self._mean_over(np.asarray(self.support))

    @property
    def contrast(self) -> NDArray[np.float32]:
        """The heat of each pixel, compared with the median of the cell: an (S, S) float32 array.

        A cover moves a call by itself, the more the more of the cell it hides. So the median support, for as much hidden cell,
        is taken off, and the sign tells for which class a part speaks more than others do: above 0 for the called one. It is 0
        outside of the cell and where no square lies.
        """
        cell, support = self.crop.max(axis=2) > 0, np.asarray(self.support)
        hidden = np.array([cell[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in self.boxes])
        return self._mean_over(support - np.median(support / hidden) * hidden)

    def _mean_over(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """The mean of the values of the squares over each pixel; 0 outside of the cell."""
        total = np.zeros(self.crop.shape[:2], np.float32)
        count = np.zeros_like(total)
        for (x0, y0, x1, y1), value in zip(self.boxes, values, strict=True):
            total[y0:y1, x0:x1] += value
            count[y0:y1, x0:x1] += 1
        mean: NDArray[np.float32] = np.where(self.crop.max(axis=2) > 0, total / np.maximum(count, 1), 0).astype(np.float32)
        return mean

    def row(self) -> ExplanationRow:
        """The explanation as plain values, which `json.dumps` takes.

        Returns
        -------
        ExplanationRow
            A dict: `prediction` as `Prediction.row` gives it, `side_px` of the crop, and `patches`, each with `box` and
            `support`.
        """
        patches = [PatchRow(box=list(box), support=value) for box, value in zip(self.boxes, self.support, strict=True)]
        return ExplanationRow(prediction=self.prediction.row(), side_px=len(self.crop), patches=patches)


def explain_crop(prediction: Prediction, crop: Crop, infer: Infer) -> Explanation:
    """Which parts of a crop the call on it rests on.

    Parameters
    ----------
    prediction : Prediction
        The call on this crop. It must have a label.
    crop : Crop
        The crop as `crop_cell` gives it.
    infer : callable
        Takes crops (N, S, S, 3) uint8 and gives probabilities (N, 3, 2) float32. It is called once, with a crop for each square
        and one that is not covered: some hundred.

    Returns
    -------
    Explanation
    """
    pixels = crop.pixels
    boxes = _squares(pixels)
    covered = np.repeat(pixels[None], len(boxes) + 1, axis=0)
    for number, box in enumerate(boxes):
        cover(covered[number], box)
    margins = called_margins(prediction, infer(covered))
    return Explanation(prediction, pixels, tuple(boxes), tuple(float(margins[-1] - one) for one in margins[:-1]))


def cover(pixels: NDArray[np.uint8], box: Box) -> None:
    """Paints the part of the cell that lies in `box` with the cell's median colour, in place.

    Parameters
    ----------
    pixels : (S, S, 3) uint8 array
        A crop with some cell in it. It is written to.
    box : (x0, y0, x1, y1)
        In pixels of the crop, half-open.
    """
    cell = pixels.max(axis=2) > 0
    median = np.maximum(np.median(pixels[cell], axis=0), 1).astype(np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1][cell[y0:y1, x0:x1]] = median


def called_margins(prediction: Prediction, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """The margins of the called class, by the voter that decided: natural logarithms of its odds.

    Parameters
    ----------
    prediction : Prediction
        Whose `label` and `voter` count. It must have both.
    probabilities : (N, 3, 2) float32 array
        Of each crop, voter and class.

    Returns
    -------
    (N,) float64 array
    """
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
    shares = [float(cell[y0:y1, x0:x1].mean()) for x0, y0, x1, y1 in boxes]
    least = min(LEAST_CELL, max(shares))  # a thin thing fills no square so far
    return [box for box, share in zip(boxes, shares, strict=True) if share >= least]
