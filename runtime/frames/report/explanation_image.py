"""Draws an `Explanation`: the crop, beside it what supports the call and what speaks against it, and labelled cells like it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blastscope.runtime.frames.report.theme import CALL_STYLES, FAINT, INK, PAPER, rgb
from blastscope.runtime.inference.explanation import Explanation
from blastscope.runtime.inference.neighbours import Neighbour, in_words
from blastscope.runtime.io.image import load_pixels
from blastscope.runtime.io.printable import printable
from blastscope.runtime.types import VOTERS, ClassName, Prediction, Refusal

SIDE, GAP, HEAD, FOOT = 480, 16, 70, 90
AROUND = 1.4  # a thumbnail shows so many times the cell's longer side
THUMB, LINE, PER_ROW = 128, 18, 7  # of cells that are alike; so many stand in a row
LEAST_REACH = 1e-6
LEGEND = (
    "Right: each part of the cell was covered in turn. The colour tells how",
    "the odds of the call changed, compared with the median of the cell.",
    "The strongest part has the full colour, however weak it is.",
    "For research use, not a medical device.",
)
ALIKE = "Distance by the networks' features: 0 is the same picture, two unrelated cells are about 1.3 apart."
NO_PICTURES = ALIKE.replace("0 is", "0.01 is") + " The option 'archive' shows pictures."


def draw_explanation(explanation: Explanation, title: str, neighbours: Sequence[Neighbour] = ()) -> Image.Image:
    """An RGB picture: what was called, the crop, the crop under its map with a scale of odds, and cells like it.

    Parameters
    ----------
    explanation : Explanation
        Of a cell that was called.
    title : str
        What the cell is called by.
    neighbours : sequence of Neighbour
        Labelled cells that are like it, the nearest first: a picture of each that has one, else a line.

    Returns
    -------
    PIL.Image.Image
    """
    shown = any(one.cell.image is not None for one in neighbours)
    rows = -(-len(neighbours) // PER_ROW) * (THUMB + 3 * LINE) if shown else len(neighbours) * LINE
    below = rows + 3 * LINE if neighbours else 0
    sheet = Image.new("RGB", (2 * SIDE + 3 * GAP, HEAD + SIDE + FOOT + below), PAPER)
    _draw_call(sheet, explanation.prediction, title)
    pen, small = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    pictures = {"what the networks saw": explanation.crop, "what the call rests on": draw_heat(explanation)}
    for place, (name, pixels) in enumerate(pictures.items()):
        left = GAP + place * (SIDE + GAP)
        sheet.paste(Image.fromarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)), (left, HEAD))
        pen.text((left + 8, HEAD + 6), name, PAPER, font=small)
    _draw_scale(sheet, explanation, HEAD + SIDE + 10)
    for number, line in enumerate(LEGEND):
        pen.text((GAP, HEAD + SIDE + 8 + number * LINE), line, FAINT, font=small)
    if neighbours:
        (_draw_neighbours if shown else _list_neighbours)(sheet, neighbours, HEAD + SIDE + FOOT)
    return sheet


def _draw_call(sheet: Image.Image, prediction: Prediction, title: str) -> None:
    """The call in words, and each network's probability."""
    pen = ImageDraw.Draw(sheet)
    assert prediction.label is not None
    assert prediction.probabilities is not None
    called = f"Called {CALL_STYLES[prediction.label].name}, probability {prediction.probability:.3f}"
    pen.text((GAP, 10), f"{called}   {printable(title)}"[:100], INK, font=ImageFont.load_default(17))
    every = zip(VOTERS, prediction.probabilities, strict=True)
    each = (f"{voter} {'not run' if math.isnan(row[1]) else f'{row[1]:.3f}'}" for voter, row in every)
    told = f"Probability of ALL by each network: {', '.join(each)}; {prediction.voter} decides."
    if prediction.set is not None and set(prediction.set) != {prediction.label}:
        told += " Neither class can be excluded." if prediction.set else " Neither class fits well."
    pen.text((GAP, 40), told, FAINT, font=ImageFont.load_default(13))


def _draw_scale(sheet: Image.Image, explanation: Explanation, top: int) -> None:
    """The colours of the map, with the odds that they stand for."""
    pen, small = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    label = explanation.prediction.label
    assert label is not None
    other: ClassName = "hem" if label == "all" else "all"
    times = math.exp(min(float(np.abs(explanation.contrast).max()), 99))
    left, width = 2 * GAP + SIDE, SIDE
    colours = _coloured(np.tile(np.linspace(-1, 1, width, dtype=np.float32), (14, 1)), label)
    sheet.paste(Image.fromarray(colours), (left, top))
    texts = (f"speaks for {CALL_STYLES[other].name}", "as the median", f"speaks for {CALL_STYLES[label].name}")
    for share, text in zip((0, 0.5, 1), texts, strict=True):
        pen.text((left + share * (width - pen.textlength(text, font=small)), top + 18), text, FAINT, font=small)
    for share, name in ((0, CALL_STYLES[other].name), (1, CALL_STYLES[label].name)):
        text = f"odds of {name} {times:.3g} times"
        pen.text((left + share * (width - pen.textlength(text, font=small)), top + 18 + LINE), text, FAINT, font=small)


def _draw_neighbours(sheet: Image.Image, neighbours: Sequence[Neighbour], top: int) -> None:
    """The cells with label, patient and distance, from row `top` of the sheet on."""
    pen = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (14, 12))
    pen.text((GAP, top), f"Labelled cells most like it: {in_words(neighbours)}", INK, font=large)
    pen.text((GAP, top + LINE), ALIKE, FAINT, font=small)
    step = (sheet.width - 2 * GAP - THUMB) // (PER_ROW - 1)
    for place, one in enumerate(neighbours):
        row, column = divmod(place, PER_ROW)
        x, y = GAP + column * step, top + 5 * LINE // 2 + row * (THUMB + 3 * LINE)
        sheet.paste(Image.fromarray(draw_labelled(one)), (x, y))
        style = CALL_STYLES[one.cell.label]
        pen.rectangle((x - 2, y - 2, x + THUMB + 1, y + THUMB + 1), outline=style.colour, width=2)
        pen.text((x, y + THUMB + 4), f"{style.name}  {one.distance:.2f}", style.colour, font=large)
        pen.text((x, y + THUMB + 4 + LINE), printable(one.cell.who)[:24], FAINT, font=small)


def _list_neighbours(sheet: Image.Image, neighbours: Sequence[Neighbour], top: int) -> None:
    """A line for each cell, from row `top` of the sheet on."""
    pen = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (14, 12))
    pen.text((GAP, top), f"Cells of the training most like it: {in_words(neighbours)}", INK, font=large)
    pen.text((GAP, top + LINE), NO_PICTURES, FAINT, font=small)
    for place, one in enumerate(neighbours):
        style, y = CALL_STYLES[one.cell.label], top + 5 * LINE // 2 + place * LINE
        pen.text((GAP, y), f"{style.name}  {one.distance:.2f}", style.colour, font=large)
        pen.text((GAP + 110, y + 2), f"{printable(one.cell.who)}   {printable(one.cell.file)}"[:100], FAINT, font=small)


def draw_labelled(neighbour: Neighbour) -> NDArray[np.uint8]:
    """A labelled cell as a thumbnail.

    Parameters
    ----------
    neighbour : Neighbour
        The cell; its file is read.

    Returns
    -------
    (128, 128, 3) uint8 array, RGB
        The cell on black; gray where it has no picture, or its file can't be read any more.
    """
    image = neighbour.cell.image
    pixels = Refusal("empty", "no picture") if image is None else load_pixels(image)
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
        Each part as it compares with the median of the cell. The strongest has the full tint: the colour of the class that it
        speaks for.
    """
    crop, label = explanation.crop, explanation.prediction.label
    assert label is not None
    heat = explanation.contrast
    heat = heat / max(float(np.abs(heat).max()), LEAST_REACH)
    gray = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.float32)
    strength = np.abs(heat)[..., None]
    tinted = gray * (1 - 0.75 * strength) + _coloured(heat, label).astype(np.float32) * 0.75 * strength
    found: NDArray[np.uint8] = np.where(crop.max(axis=2, keepdims=True) > 0, tinted, 0).astype(np.uint8)
    return found


def _coloured(values: NDArray[np.float32], label: str) -> NDArray[np.uint8]:
    """The colour of each class where `values` speak for it, white between; -1 to 1, positive for `label`."""
    own, other = (np.array(rgb(CALL_STYLES[kind].colour), np.float32) for kind in (label, "hem" if label == "all" else "all"))  # type: ignore[index]
    size = np.abs(values)[..., None]
    target = np.where(values[..., None] >= 0, own, other)
    return np.asarray(255 * (1 - size) + target * size, np.uint8)
