"""A contact sheet: cells with their calls, for people who would rather look than read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blastscope.runtime.types import ClassName, Prediction

TILE_PX = 172
TEXT_PX = 50
GAP_PX = 12
MARGIN_PX = 28
HEADER_PX = 74
PAPER, INK, FAINT = "#ffffff", "#1b1f24", "#6a737d"
COLOURS = {"all": "#c2410c", "hem": "#0e5aa7", None: "#6a737d"}  # apart for the colour-blind too


@dataclass(frozen=True)
class Tile:
    """One cell on the sheet; `truth` is None where nobody knows it."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    prediction: Prediction
    truth: ClassName | None = None


def draw_sheet(tiles: Sequence[Tile], title: str, *, columns: int = 6) -> Image.Image:
    """The picture of `tiles`, row by row, each framed in the colour of its call."""
    rows = -(-len(tiles) // columns)
    width = 2 * MARGIN_PX + columns * TILE_PX + (columns - 1) * GAP_PX
    height = HEADER_PX + rows * (TILE_PX + TEXT_PX + GAP_PX) + MARGIN_PX // 2
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN_PX, 18), title, INK, ImageFont.load_default(19))
    pen.text((MARGIN_PX, 44), summary(tiles), FAINT, ImageFont.load_default(13))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        corner = (MARGIN_PX + column * (TILE_PX + GAP_PX), HEADER_PX + row * (TILE_PX + TEXT_PX + GAP_PX))
        _draw_tile(sheet, pen, tile, corner)
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Writes the PNG under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    sheet.save(temporary, format="PNG", optimize=True)
    temporary.replace(path)


def summary(tiles: Sequence[Tile]) -> str:
    """How many were called what, and how many calls are right where the truth is known."""
    labels = [tile.prediction.label for tile in tiles]
    counts = f"{labels.count('all')} called ALL, {labels.count('hem')} called HEM, {labels.count(None)} refused"
    known = [tile for tile in tiles if tile.truth and tile.prediction.label]
    right = sum(tile.truth == tile.prediction.label for tile in known)
    return f"{counts}; {right} of {len(known)} calls agree with the expert" if known else counts


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int]) -> None:
    x, y = corner
    colour = COLOURS[tile.prediction.label]
    sheet.paste(Image.fromarray(tile.image).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), corner)
    pen.rectangle((x - 1, y - 1, x + TILE_PX, y + TILE_PX), outline=colour, width=4)
    pen.text((x, y + TILE_PX + 6), _call_text(tile.prediction), colour, ImageFont.load_default(16))
    note, wrong = _note_text(tile)
    pen.text((x, y + TILE_PX + 27), note, COLOURS["all"] if wrong else FAINT, ImageFont.load_default(12))


def _call_text(prediction: Prediction) -> str:
    if prediction.label is None:
        return "refused"
    return f"{prediction.label.upper()}  {prediction.probability:.2f}"


def _note_text(tile: Tile) -> tuple[str, bool]:
    prediction = tile.prediction
    if prediction.refusal:
        return prediction.refusal.code, False
    if tile.truth is None:
        return f"voter {prediction.voter}", False
    wrong = tile.truth != prediction.label
    return f"{prediction.voter}, {'but ' if wrong else ''}expert: {tile.truth.upper()}", wrong
