"""Draws an `Explanation`: the crop, beside it what supports the call and what speaks against it, and labelled cells like it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blastscope.runtime.frames.report.theme import FAINT, INK, LOOKS, PAPER, rgb
from blastscope.runtime.inference.explanation import Explanation
from blastscope.runtime.inference.neighbours import Neighbour
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.printable import printable
from blastscope.runtime.types import Refusal

SIDE, GAP, HEAD, FOOT = 480, 16, 44, 58
AROUND = 1.4  # a thumbnail shows so many times the cell's longer side
THUMB, LINE, PER_ROW = 128, 18, 7  # of cells that are alike; so many stand in a row


def draw_explanation(explanation: Explanation, title: str, neighbours: Sequence[Neighbour] = ()) -> Image.Image:
    """An RGB picture: the crop, the crop under its map, a scale in units of log odds, what was called, and cells like it.

    Parameters
    ----------
    explanation : Explanation
        Of a cell that was called.
    title : str
        What the cell is called by.
    neighbours : sequence of Neighbour
        Labelled cells that are like it, the nearest first.

    Returns
    -------
    PIL.Image.Image
    """
    prediction = explanation.prediction
    assert prediction.label is not None
    heat = explanation.heat
    reach = max(float(np.abs(heat).max()), 1e-6)
    rows = -(-len(neighbours) // PER_ROW)
    below = rows * (THUMB + 3 * LINE) + 2 * LINE if rows else 0
    sheet = Image.new("RGB", (2 * SIDE + 3 * GAP, HEAD + SIDE + FOOT + below), PAPER)
    pen = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (17, 13))
    other = "hem" if prediction.label == "all" else "all"
    called = f"{prediction.label.upper()} {prediction.probability:.3f} by voter {prediction.voter}"
    pen.text((GAP, 12), f"{called}   {printable(title)}"[:100], INK, font=large)
    for place, pixels in enumerate((explanation.crop, draw_heat(explanation))):
        picture = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        sheet.paste(Image.fromarray(picture), (GAP + place * (SIDE + GAP), HEAD))
    bar = np.tile(np.linspace(-1, 1, 2 * SIDE // 3, dtype=np.float32), (14, 1))
    colours = _coloured(bar, prediction.label)
    left, top = 2 * GAP + SIDE, HEAD + SIDE + 10
    sheet.paste(Image.fromarray(colours), (left, top))
    width = colours.shape[1]
    pen.text((left, top + 18), f"-{reach:.2g}: speaks for {LOOKS[other].name}", FAINT, font=small)  # type: ignore[index]
    text = f"+{reach:.2g}: speaks for {LOOKS[prediction.label].name}"
    pen.text((left + width - pen.textlength(text, font=small), top + 18), text, FAINT, font=small)
    pen.text((GAP, top), "Change of the call's log odds under a cover. Compare squares, not signs.", FAINT, font=small)
    pen.text((GAP, top + 18), "For research use, not a medical device.", FAINT, font=small)
    if neighbours:
        _draw_neighbours(sheet, neighbours, HEAD + SIDE + FOOT)
    return sheet


def _draw_neighbours(sheet: Image.Image, neighbours: Sequence[Neighbour], top: int) -> None:
    """The cells with label, patient and distance, from row `top` of the sheet on."""
    pen = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (14, 12))
    pen.text((GAP, top), "Labelled cells most like it, by the networks' features; 0 is the same picture", FAINT, font=large)
    step = (sheet.width - 2 * GAP - THUMB) // (PER_ROW - 1)
    for place, one in enumerate(neighbours):
        row, column = divmod(place, PER_ROW)
        x, y = GAP + column * step, top + 2 * LINE + row * (THUMB + 3 * LINE)
        sheet.paste(Image.fromarray(draw_labelled(one)), (x, y))
        look = LOOKS[one.label]
        pen.rectangle((x - 2, y - 2, x + THUMB + 1, y + THUMB + 1), outline=look.colour, width=2)
        pen.text((x, y + THUMB + 4), f"{look.name}  {one.distance:.2f}", look.colour, font=large)
        pen.text((x, y + THUMB + 4 + LINE), f"patient {printable(one.patient)}"[:22], FAINT, font=small)


def draw_labelled(neighbour: Neighbour) -> NDArray[np.uint8]:
    """A labelled cell as a thumbnail.

    Parameters
    ----------
    neighbour : Neighbour
        The cell; its file is read.

    Returns
    -------
    (128, 128, 3) uint8 array, RGB
        The cell on black; gray where its file can't be read any more.
    """
    pixels = read_image(neighbour.path)
    if isinstance(pixels, Refusal):
        return np.full((THUMB, THUMB, 3), 128, np.uint8)
    return np.asarray(cv2.resize(around_cell(pixels), (THUMB, THUMB), interpolation=cv2.INTER_AREA), np.uint8)


def around_cell(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square around a cell on black, as much of it as a thumbnail shows.

    Parameters
    ----------
    image : (H, W, 3) uint8 array, RGB
        One cell on black.

    Returns
    -------
    (side, side, 3) uint8 array
        A part of the image; a side that the image doesn't have is cut off.
    """
    x, y, width, height = cv2.boundingRect(image.max(axis=2))
    half = min(math.ceil(AROUND * max(width, height, 8) / 2), min(image.shape[:2]) // 2)
    left = min(max(x + width // 2 - half, 0), image.shape[1] - 2 * half)
    top = min(max(y + height // 2 - half, 0), image.shape[0] - 2 * half)
    return image[top : top + 2 * half, left : left + 2 * half]


def draw_heat(explanation: Explanation) -> NDArray[np.uint8]:
    """The crop in gray, tinted by what supports the call and what speaks against it.

    Parameters
    ----------
    explanation : Explanation
        Of a cell that was called.

    Returns
    -------
    (S, S, 3) uint8 array, RGB
        The strongest effect has the full tint: the colour of the class that it speaks for.
    """
    crop, label = explanation.crop, explanation.prediction.label
    assert label is not None
    heat = explanation.heat / max(float(np.abs(explanation.heat).max()), 1e-6)
    gray = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.float32)
    strength = np.abs(heat)[..., None]
    tinted = gray * (1 - 0.75 * strength) + _coloured(heat, label).astype(np.float32) * 0.75 * strength
    found: NDArray[np.uint8] = np.where(crop.max(axis=2, keepdims=True) > 0, tinted, 0).astype(np.uint8)
    return found


def _coloured(values: NDArray[np.float32], label: str) -> NDArray[np.uint8]:
    """The colour of each class where `values` speak for it, white between; -1 to 1, positive for `label`."""
    own, other = (np.array(rgb(LOOKS[kind].colour), np.float32) for kind in (label, "hem" if label == "all" else "all"))  # type: ignore[index]
    size = np.abs(values)[..., None]
    target = np.where(values[..., None] >= 0, own, other)
    return np.asarray(255 * (1 - size) + target * size, np.uint8)
