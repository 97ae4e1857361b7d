"""Draws an `Explanation`: the crop, and beside it what supports the call and what speaks against it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blastscope.runtime.frames.report.theme import FAINT, INK, LOOKS, PAPER, rgb
from blastscope.runtime.inference.explanation import Explanation
from blastscope.runtime.io.printable import printable

SIDE, GAP, HEAD, FOOT = 480, 16, 44, 58


def draw_explanation(explanation: Explanation, title: str) -> Image.Image:
    """An RGB picture: the crop, the crop under its map, a scale in units of log odds, and what was called."""
    prediction = explanation.prediction
    assert prediction.label is not None
    heat = explanation.heat
    reach = max(float(np.abs(heat).max()), 1e-6)
    sheet = Image.new("RGB", (2 * SIDE + 3 * GAP, HEAD + SIDE + FOOT), PAPER)
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
    return sheet


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
