"""`compose`: the report on a slide or a run as one page that needs nothing beside it, for who reads blood smears."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

import cv2

from blastscope.runtime.frames.pages.album import Shown
from blastscope.runtime.frames.pages.colours import LOOKS, caution, kind_of, words_of
from blastscope.runtime.frames.pages.look import PAGE, SCRIPT, STYLE
from blastscope.runtime.frames.pages.sheet import Card, cards_of, name_of, score_of
from blastscope.runtime.frames.report import FrameCell, FrameReport
from blastscope.runtime.prediction import Audit, RefusalCode

MOST_CARDS = 5000
OPEN_MAPS = 3
SCALES = {"given": "given", "red-cells": "by the red cells", "assumed": "assumed"}
REASONS: dict[RefusalCode, str] = {
    "undecodable": "The file is missing, damaged, of another kind, or holds several images.",
    "bomb": "More pixels than can be decoded safely.",
    "not-8-bit-rgb": "Not an 8-bit colour image; nothing is converted silently.",
    "empty": "No pixels, or nothing brighter than black.",
    "not-on-black": "Something other than one cell on black was cut out.",
    "touches-border": "The cell is cut off by the edge of the frame.",
    "too-small": "Too small for a white cell at this scale.",
    "too-large": "Too large for a white cell at this scale.",
    "clumped": "Cells that lie so close that they can't be parted reliably.",
    "out-of-focus": "Too blurred to be judged.",
    "not-lymphoid": "A lobed or granular nucleus: the networks know lymphoid cells only.",
    "failed": "An error in the program kept it from being examined.",
}


def compose(frames: Sequence[Shown], title: str, *, audit: Audit | None = None, links: Mapping[int, str] | None = None) -> str:
    """The page on `frames`. With `links` (number of a frame to a page beside this one) it is an index, without cells."""
    reports = [frame.report for frame in frames]
    cards = cards_of(frames)
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="warning">{escape(caution(validated=bool(reports) and all(one.validated for one in reports)))}</p>',
        _tiles(reports, cards),
        _frames(reports, links or {}),
        *([] if links is not None else [_maps(frames), _cells(reports, cards)]),
        _reasons(cards),
        _origin(audit),
    ]
    return PAGE.substitute(title=escape(title), style=STYLE, script=SCRIPT, body="\n".join(filter(None, sections)))


def _tiles(reports: Sequence[FrameReport], cards: Sequence[Card]) -> str:
    kinds = Counter(kind_of(card.cell) for card in cards)
    called = kinds["all"] + kinds["hem"]
    share = f"{100 * kinds['all'] / called:.0f} % of those called" if called else "none was called"
    rows = [
        ("", "frames", len(reports), f"{sum(report.refusal is not None for report in reports)} not examined"),
        ("", "white cells", len(cards), "found"),
        ("all", "called ALL", kinds["all"], share),
        ("hem", "called HEM", kinds["hem"], "normal"),
        ("refused", "not called", kinds["refused"], "see the reasons below"),
    ]
    tiles = (
        f'<div class="tile {kind}"><span>{name}</span><b>{n:,}</b><span>{note}</span></div>' for kind, name, n, note in rows
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _frames(reports: Sequence[FrameReport], links: Mapping[int, str]) -> str:
    head = "".join(f'<th class="n">{name}</th>' for name in ("white cells", "ALL", "HEM", "not called"))
    rows = "".join(_frame_row(number, report, links.get(number)) for number, report in enumerate(reports))
    return (
        '<h2>Frames</h2><div class="scroll"><table><thead><tr><th>frame</th>'
        f'<th class="n">pixels</th>{head}<th>micrometres a pixel</th><th>glass</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _frame_row(number: int, report: FrameReport, link: str | None) -> str:
    name = escape(name_of(report))
    name = f'<a href="{escape(link, quote=True)}">{name}</a>' if link else name
    notes = "".join(f'<br><span class="quiet">{escape(_printable(note))}</span>' for note in report.notes)
    size = f"{report.size[0]} x {report.size[1]}" if report.size else ""
    if report.refusal or report.facts is None:
        told = f"not examined: {report.refusal.code}, {report.refusal.detail}" if report.refusal else ""
        return (
            f'<tr class="refused"><td class="name">{name}{notes}</td><td class="n">{size}</td>'
            f'<td colspan="6">{escape(_printable(told))}</td></tr>'
        )
    counts, facts = report.counts, report.facts
    glass = ", ".join(f"{value:.0f}" for value in facts.background)
    return (
        f'<tr><td class="name">{name}{notes}</td><td class="n">{size}</td><td class="n">{counts["cells"]}</td>'
        f'<td class="n all">{counts["all"]}</td><td class="n hem">{counts["hem"]}</td><td class="n">{counts["refused"]}</td>'
        f"<td>{facts.pixel_um:.4f}, {SCALES[facts.scale_source]}</td>"
        f'<td><i class="swatch" style="background: rgb({glass})"></i> {glass}</td></tr>'
    )


def _maps(frames: Sequence[Shown]) -> str:
    shown = [(number, frame) for number, frame in enumerate(frames) if frame.map]
    if not shown:
        return ""
    parts = []
    for count, (_, frame) in enumerate(shown):
        name = escape(name_of(frame.report))
        parts.append(
            f"<details{' open' if count < OPEN_MAPS and len(shown) <= OPEN_MAPS else ''}><summary>{name}</summary>"
            f'<figure><img src="{_data(frame.map or b"")}" alt="{name} with its cells outlined"></figure></details>'
        )
    examined = sum(frame.report.refusal is None for frame in frames)
    more = f" Of {examined:,} frames {len(shown)} are shown; a folder of pages shows them all." if len(shown) < examined else ""
    return (
        '<h2>Where the cells lie</h2><p class="quiet">Each cell has the number that it has below. '
        f"Solid vermilion: called ALL. Solid blue: called HEM. Dashed: not called.{more}</p>{''.join(parts)}"
    )


def _cells(reports: Sequence[FrameReport], cards: Sequence[Card]) -> str:
    numbers = {id(report): number for number, report in enumerate(reports)}
    alone = len(reports) == 1
    items = "\n".join(_card(card, numbers[id(card.report)], alone=alone) for card in cards[:MOST_CARDS])
    more = f"; only the first {MOST_CARDS:,} of {len(cards):,} are shown here" if len(cards) > MOST_CARDS else ""
    if not cards:
        return "<h2>Cells</h2><p>No white cell was found.</p>"
    return (
        f'<h2>Cells</h2><p class="quiet">By the probability of ALL, the highest first{more}. The figure is the deciding '
        "network's probability of its own call; the diameter is that of a disk of the cell's area.</p>"
        f'{_form(reports)}<ul class="cells">{items}</ul>'
    )


def _form(reports: Sequence[FrameReport]) -> str:
    kinds = [("", "all cells"), *((kind, look.name) for kind, look in LOOKS.items())]
    orders = [
        ("score", "likeliest ALL first"),
        ("hem", "likeliest HEM first"),
        ("size", "largest first"),
        ("place", "by place"),
    ]
    frames = [("", "all frames"), *((str(number), name_of(report)) for number, report in enumerate(reports) if report.cells)]
    fields = [("show", "Show", kinds), ("sort", "Order", orders), *([("frame", "Frame", frames)] if len(frames) > 2 else [])]
    picks = "".join(
        f'<label>{label} <select name="{name}">'
        + "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options)
        + "</select></label>"
        for name, label, options in fields
    )
    return f'<form autocomplete="off">{picks}<output></output></form>'


def _card(card: Card, frame: int, *, alone: bool) -> str:
    kind, cell = kind_of(card.cell), card.cell
    name, words = escape(name_of(card.report)), escape(words_of(cell))
    across = diameter_um(cell, card.report)
    size = f"{across:.1f}&nbsp;\u00b5m" if across else ""
    score = score_of(cell)
    order = f'data-score="{"" if score is None else f"{score:.6f}"}" data-size="{f"{across:.3f}" if across else ""}"'
    voter = f"voter {cell.prediction.voter}, " if cell.prediction and cell.prediction.voter else ""
    place = f"number {card.number}" if alone else f"{card.number} in {name}"
    alt = f"cell {card.number} of {name}: {words}"
    picture = f'<img src="{_data(card.thumb)}" alt="{alt}" loading="lazy">' if card.thumb else '<i class="none"></i>'
    title = f' title="{escape(_printable(cell.refusal.detail), quote=True)}"' if cell.refusal else ""
    return (
        f'<li class="cell {kind}" data-kind="{kind}" data-frame="{frame}" data-number="{card.number}" {order}{title}>{picture}'
        f"<div><b>{words}</b><span>{voter}{size}</span><span>{place}</span></div></li>"
    )


def diameter_um(cell: FrameCell, report: FrameReport) -> float | None:
    """The diameter of the disk that has the cell's area."""
    if report.facts is None or len(cell.found.contour) < 3:
        return None
    area = cv2.contourArea(cell.found.contour)
    return float(2 * (area / 3.141592653589793) ** 0.5 * report.facts.pixel_um)


def _reasons(cards: Sequence[Card]) -> str:
    codes = Counter(card.cell.refusal.code for card in cards if card.cell.refusal)
    if not codes:
        return ""
    rows = "".join(f'<tr><td>{code}</td><td class="n">{n}</td><td>{REASONS[code]}</td></tr>' for code, n in codes.most_common())
    return (
        '<h2>Why cells were not called</h2><table><thead><tr><th>reason</th><th class="n">cells</th><th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _origin(audit: Audit | None) -> str:
    if audit is None:
        return ""
    rows = {
        "networks": f"bundle <code>{escape(audit.bundle)}</code>",
        "engine": f"{escape(audit.backend)} on {escape(audit.device)}, {audit.precision} computed in {audit.execution}",
    }
    body = "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in rows.items())
    return f"<h2>What answered</h2><table><tbody>{body}</tbody></table>"


def _data(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode('ascii')}"


def _printable(text: str) -> str:
    """Names of files may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode("utf-8")
