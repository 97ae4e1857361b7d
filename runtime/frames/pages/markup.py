"""The parts that every page is made of. Text is escaped here; `Html` is what was made of text already, and stays as it is."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from blastscope.runtime.frames.pages.look import PAGE, STYLE


class Html(str):
    """Markup."""

    __slots__ = ()


Cell = str | tuple[str, str]  # of a table: its text, or its text with its class


class Tile(NamedTuple):
    """A figure that stands above all tables."""

    name: str
    value: str
    note: str
    kind: str = ""  # 'all', 'hem' or 'refused', for its colour


def whole_page(title: str, sections: Iterable[str], *, script: str = "") -> str:
    """The page of `sections`, which are markup."""
    return PAGE.substitute(title=safe(title), style=STYLE, script=script, body="\n".join(filter(None, sections)))


def safe(text: str) -> Html:
    """`text` as markup, whatever bytes the name of a file holds."""
    return text if isinstance(text, Html) else Html(escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True))


def warning(text: str) -> Html:
    """A sentence that nobody is to miss."""
    return Html(f'<p class="warning">{safe(text)}</p>')


def tiles(figures: Iterable[Tile]) -> Html:
    """The figures side by side."""
    boxes = (
        f'<div class="tile {one.kind}"><span>{safe(one.name)}</span><b>{safe(one.value)}</b><span>{safe(one.note)}</span></div>'
        for one in figures
    )
    return Html(f'<div class="tiles">{"".join(boxes)}</div>')


def digits(value: object) -> Cell:
    """A cell that is aligned to the right."""
    return str(value), "n"


def table(heads: Sequence[Cell], rows: Iterable[Html | Sequence[Cell]]) -> Html:
    """A table, without a head where `heads` is empty. A row may be markup."""
    head = f"<thead><tr>{_cells(heads, 'th')}</tr></thead>" if heads else ""
    body = "".join(row if isinstance(row, Html) else f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    return Html(f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>')


def picture(jpeg: bytes | None, alt: str) -> Html:
    """A JPEG inside of the page itself; where there is none, its empty place."""
    if jpeg is None:
        return Html('<i class="none"></i>')
    return Html(f'<img src="data:image/jpeg;base64,{b64encode(jpeg).decode("ascii")}" alt="{safe(alt)}" loading="lazy">')


def _cells(cells: Iterable[Cell], tag: str) -> str:
    pairs = (cell if isinstance(cell, tuple) else (cell, "") for cell in cells)
    opened = ((f'<{tag} class="{kind}">' if kind else f"<{tag}>", text) for text, kind in pairs)
    return "".join(f"{start}{safe(text)}</{tag}>" for start, text in opened)
