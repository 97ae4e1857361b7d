"""`draw_contact_sheet`: the cells of all frames on one picture, highest score for ALL first, refused cells last."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from blastscope.runtime.frames.report.theme import FAINT, INK, LOOKS, PAPER, caution, names_of, style_of, words_of
from blastscope.runtime.frames.report.thumbnails import THUMB_PX, Thumbnail, WhyCalled
from blastscope.runtime.frames.types import FrameCell, FrameReport

COLUMNS = 8
GAP_PX, TEXT_PX, MARGIN_PX, HEADER_PX = 12, 40, 26, 94
MOST_CELLS = 800


class Card(NamedTuple):
    """One cell as sheets and pages show it.

    Attributes
    ----------
    report : FrameReport
        The frame's.
    frame : str
        What the frame is called.
    number : int
        In its frame, from 1.
    cell : FrameCell
        The cell.
    thumb : bytes or None
        A JPEG; None where there is none.
    """

    report: FrameReport
    frame: str
    number: int
    cell: FrameCell
    thumb: bytes | None
    explained: WhyCalled | None = None  # what the call rests on


def cards_of(frames: Sequence[Thumbnail]) -> list[Card]:
    """The cells of `frames` by the deciding voter's probability of ALL, the largest first; then the refused ones."""
    names = names_of(frame.report.path for frame in frames)
    cards = [
        Card(
            frame.report,
            names[frame.report.path],
            number,
            cell,
            frame.thumbs[number - 1] if frame.thumbs else None,
            frame.explained.get(number - 1),
        )
        for frame in frames
        for number, cell in enumerate(frame.report.cells, 1)
    ]
    return sorted(cards, key=lambda card: -(card.cell.score or 0.0) if card.cell.refusal is None else 1.0)


def draw_contact_sheet(frames: Sequence[Thumbnail], title: str) -> Image.Image:
    """The sheet, of at most `MOST_CELLS` cells; more are counted, not drawn."""
    cards = cards_of(frames)
    drawn = cards[:MOST_CELLS]
    rows = -(-len(drawn) // COLUMNS)
    step = THUMB_PX + TEXT_PX + GAP_PX
    width = 2 * MARGIN_PX + COLUMNS * (THUMB_PX + GAP_PX) - GAP_PX
    sheet = Image.new("RGB", (width, HEADER_PX + rows * step + MARGIN_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN_PX, 16), title, INK, ImageFont.load_default(20))
    pen.text((MARGIN_PX, 44), summary(cards), FAINT, ImageFont.load_default(13))
    told = caution(validated=bool(frames) and all(frame.report.validated for frame in frames))
    pen.text((MARGIN_PX, 64), told, FAINT, ImageFont.load_default(13))
    for index, card in enumerate(drawn):
        row, column = divmod(index, COLUMNS)
        _draw_card(sheet, pen, card, (MARGIN_PX + column * (THUMB_PX + GAP_PX), HEADER_PX + row * step))
    return sheet


def summary(cards: Sequence[Card]) -> str:
    """How many cells there are, and how many are on the sheet."""
    kinds = [style_of(card.cell) for card in cards]
    counts = ", ".join(f"{kinds.count(kind)} {look.name}" for kind, look in LOOKS.items())
    more = f"; the first {MOST_CELLS} are shown" if len(cards) > MOST_CELLS else ""
    return f"{len(cards)} white cells: {counts}. By the probability of ALL, the highest first{more}."


def _draw_card(sheet: Image.Image, pen: ImageDraw.ImageDraw, card: Card, corner: tuple[int, int]) -> None:
    x, y = corner
    look = LOOKS[style_of(card.cell)]
    if card.thumb:
        with Image.open(BytesIO(card.thumb)) as thumb:
            sheet.paste(thumb, corner)
    pen.rectangle((x - 2, y - 2, x + THUMB_PX + 1, y + THUMB_PX + 1), outline=look.colour, width=2)
    pen.text((x, y + THUMB_PX + 5), words_of(card.cell), look.colour, ImageFont.load_default(14))
    font = ImageFont.load_default(11)
    pen.text((x, y + THUMB_PX + 23), _fitting(str(card.number), card.frame, font), FAINT, font)


def _fitting(number: str, name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The number with the name, of which the end stays where a card has no room for all of it."""
    text = f"{number}  {name}"
    while name and font.getlength(text) > THUMB_PX:
        name = name[1:]
        text = f"{number}  ..{name}"
    return text
