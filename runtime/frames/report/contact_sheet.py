"""`draw_contact_sheet`: the cells of all frames on one picture, highest score for ALL first, refused cells last.

`draw_grid` draws cells of any origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from blastscope.runtime.frames.report.theme import CALL_STYLES, FAINT, INK, PAPER, caution, names_of, style_of, words_of
from blastscope.runtime.frames.report.thumbnails import THUMB_PX, Thumbnail, WhyCalled
from blastscope.runtime.frames.types import FrameCell, FrameReport

COLUMNS = 8
GAP_PX, TEXT_PX, MARGIN_PX, HEADER_PX, NOTE_PX = 12, 40, 26, 94, 11
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


class SheetCell(NamedTuple):
    """One cell as `draw_grid` shows it.

    Attributes
    ----------
    picture : PIL.Image.Image or None
        Of `THUMB_PX` x `THUMB_PX` pixels.
    colour : str
        Of its frame and call, `#rrggbb`.
    call, note : str
        The two lines below the picture.
    note_colour : str
        Of the second line.
    """

    picture: Image.Image | None
    colour: str
    call: str
    note: str
    note_colour: str = FAINT


def draw_grid(cells: Sequence[SheetCell], title: str, *lines: str) -> Image.Image:
    """Cells in rows, each in a frame of its colour, below a title and one or two further lines."""
    rows = -(-len(cells) // COLUMNS)
    step = THUMB_PX + TEXT_PX + GAP_PX
    width = 2 * MARGIN_PX + COLUMNS * (THUMB_PX + GAP_PX) - GAP_PX
    sheet = Image.new("RGB", (width, HEADER_PX + rows * step + MARGIN_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN_PX, 16), title, INK, ImageFont.load_default(20))
    for number, line in enumerate(lines):
        pen.text((MARGIN_PX, 44 + 20 * number), line, FAINT, ImageFont.load_default(13))
    for index, cell in enumerate(cells):
        row, column = divmod(index, COLUMNS)
        x, y = MARGIN_PX + column * (THUMB_PX + GAP_PX), HEADER_PX + row * step
        if cell.picture:
            sheet.paste(cell.picture, (x, y))
        pen.rectangle((x - 2, y - 2, x + THUMB_PX + 1, y + THUMB_PX + 1), outline=cell.colour, width=2)
        pen.text((x, y + THUMB_PX + 5), cell.call, cell.colour, ImageFont.load_default(14))
        pen.text((x, y + THUMB_PX + 23), cell.note, cell.note_colour, ImageFont.load_default(NOTE_PX))
    return sheet


def draw_contact_sheet(frames: Sequence[Thumbnail], title: str) -> Image.Image:
    """The sheet, of at most `MOST_CELLS` cells; more are counted, not drawn."""
    cards = cards_of(frames)
    told = caution(validated=bool(frames) and all(frame.report.validated for frame in frames))
    return draw_grid([_sheet_cell(card) for card in cards[:MOST_CELLS]], title, sheet_summary(cards), told)


def sheet_summary(cards: Sequence[Card]) -> str:
    """How many cells there are, and how many are on the sheet."""
    kinds = [style_of(card.cell) for card in cards]
    counts = ", ".join(f"{kinds.count(kind)} {style.name}" for kind, style in CALL_STYLES.items())
    more = f"; the first {MOST_CELLS} are shown" if len(cards) > MOST_CELLS else ""
    return f"{len(cards)} white cells: {counts}. By the probability of ALL, the highest first{more}."


def _sheet_cell(card: Card) -> SheetCell:
    picture = Image.open(BytesIO(card.thumb)) if card.thumb else None
    return SheetCell(
        picture, CALL_STYLES[style_of(card.cell)].colour, words_of(card.cell), _fitting(str(card.number), card.frame)
    )


def _fitting(number: str, name: str) -> str:
    """The number with the name, of which the end stays where a card has no room for all of it."""
    font = ImageFont.load_default(NOTE_PX)
    text = f"{number}  {name}"
    while name and font.getlength(text) > THUMB_PX:
        name = name[1:]
        text = f"{number}  ..{name}"
    return text
