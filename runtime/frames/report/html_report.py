"""The report on a slide or a run as one HTML page that needs no other file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from blastscope.runtime.frames.doubts import doubt_sentences
from blastscope.runtime.frames.report.contact_sheet import Card, cards_of, score_of
from blastscope.runtime.frames.report.markup import (
    SCRIPT,
    Cell,
    Html,
    Tile,
    digits,
    picture,
    safe,
    table,
    tiles,
    warning,
    whole_page,
)
from blastscope.runtime.frames.report.overlay import MOST_NUMBERS
from blastscope.runtime.frames.report.review import REVIEW_SCRIPT, answer_field, card_data, review_panel
from blastscope.runtime.frames.report.theme import LOOKS, caution, names_of, style_of, words_of
from blastscope.runtime.frames.report.thumbnails import Thumbnail
from blastscope.runtime.frames.types import FrameCell, FrameReport
from blastscope.runtime.types import Audit, RefusalCode

MOST_CARDS = 5000
OPEN_MAPS = 3
SCALES = {"given": "given", "red-cells": "by the red cells", "assumed": "assumed"}
REASONS: dict[RefusalCode, str] = {
    "undecodable": "The file is missing, damaged, of another kind, or holds several images.",
    "bomb": "More pixels than can be decoded safely.",
    "not-8-bit-rgb": "Not an 8-bit colour image; nothing is converted silently.",
    "empty": "No pixels, or nothing brighter than black.",
    "not-on-black": "Something other than one cell on black was cut out.",
    "touches-border": "The cell is cut off by the edge of the frame, or of the field of view.",
    "too-small": "Too small for a white cell at this scale.",
    "too-large": "Too large for a white cell at this scale.",
    "clumped": "Cells that lie so close that they can't be parted reliably.",
    "out-of-focus": "Too blurred to be judged.",
    "not-lymphoid": "A lobed or granular nucleus, pink cytoplasm, or another look than that of lymphoid cells.",
    "unsegmented": "A white cell whose outline can't be told from what is around it.",
    "unlike-training": "Unlike the cells that the networks were trained on: nobody knows what a call on it is worth.",
    "failed": "An error in the program kept it from being examined.",
}


def render_slide_report(
    frames: Sequence[Thumbnail],
    title: str,
    *,
    audit: Audit | None = None,
    links: Mapping[int, str] | None = None,
    alarms: Sequence[str] = (),
) -> str:
    """The page on `frames`, with the `alarms` of a drift.

    With `links` (number of a frame to a page beside this one) it is an index, without cells.
    """
    reports = [frame.report for frame in frames]
    cards = cards_of(frames)
    sections = [
        f"<h1>{safe(title)}</h1>",
        warning(caution(validated=bool(reports) and all(one.validated for one in reports))),
        *map(warning, doubt_sentences(Counter(code for one in reports for code in one.doubt_codes))),
        *map(warning, alarms),
        _tiles(reports, cards),
        *([_frames(reports, links)] if links is not None else [_cells(reports, cards), review_panel(reports)]),
        _reasons(cards),
        *([] if links is not None else [_maps(frames), _frames(reports, _views(reports))]),
        _origin(audit),
    ]
    return whole_page(title, sections, script=SCRIPT + REVIEW_SCRIPT)


def _tiles(reports: Sequence[FrameReport], cards: Sequence[Card]) -> str:
    kinds = Counter(style_of(card.cell) for card in cards)
    called = kinds["all"] + kinds["hem"]
    share = f"{100 * kinds['all'] / called:.0f} % of those called" if called else "none was called"
    return tiles(
        [
            Tile("frames", f"{len(reports):,}", f"{sum(report.refusal is not None for report in reports)} not examined"),
            Tile("white cells", f"{len(cards):,}", _kinds(reports)),
            Tile("called ALL", f"{kinds['all']:,}", share, "all"),
            Tile("called HEM", f"{kinds['hem']:,}", "normal", "hem"),
            Tile("not called", f"{kinds['refused']:,}", "see the reasons below" if kinds["refused"] else "", "refused"),
        ]
    )


def _kinds(reports: Sequence[FrameReport]) -> str:
    """A differential's first line, as far as it is known."""
    groups: Counter[str] = Counter()
    for report in reports:
        groups.update(report.groups)
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in groups.items())


def _frames(reports: Sequence[FrameReport], links: Mapping[int, str]) -> str:
    counts = map(digits, ("pixels", "white cells", "ALL", "HEM", "not called"))
    heads: list[Cell] = ["frame", *counts, "micrometres a pixel", "glass"]
    names = names_of(report.path for report in reports)
    rows = (_frame_row(report, names[report.path], links.get(place)) for place, report in enumerate(reports))
    return f"<h2>Frames</h2>{table(heads, rows)}"


def _views(reports: Sequence[FrameReport]) -> dict[int, str]:
    """Where the cells of one frame alone are shown: the page's script understands it."""
    return {place: f"#frame={place}" for place, report in enumerate(reports) if report.cells} if _several(reports) else {}


def _several(reports: Sequence[FrameReport]) -> bool:
    return sum(bool(report.cells) for report in reports) > 1


def _frame_row(report: FrameReport, called: str, link: str | None) -> Html | list[Cell]:
    name = safe(called)
    linked = f'<a href="{safe(link)}">{name}</a>' if link else name
    named = Html(linked + "".join(f'<br><span class="quiet">{safe(note)}</span>' for note in report.notes))
    size = f"{report.size[0]} x {report.size[1]}" if report.size else ""
    if report.refusal or report.facts is None:
        told = f"not examined: {report.refusal.code}, {report.refusal.detail}" if report.refusal else ""
        return Html(
            f'<tr class="refused"><td class="name">{named}</td><td class="n">{size}</td><td colspan="6">{safe(told)}</td></tr>'
        )
    counts, facts = report.counts, report.facts
    glass = ", ".join(f"{value:.0f}" for value in facts.background)
    return [
        (named, "name"),
        digits(size),
        digits(counts["cells"]),
        *((str(counts[kind]), f"n {kind if counts[kind] else 'zero'}") for kind in ("all", "hem")),
        digits(counts["refused"]),
        f"{facts.pixel_um:.4f}, {SCALES[facts.scale_source]}",
        Html(f'<i class="swatch" style="background: rgb({glass})"></i> {glass}'),
    ]


def _maps(frames: Sequence[Thumbnail]) -> str:
    shown = [frame for frame in frames if frame.map]
    if not shown:
        return ""
    names, parts = names_of(frame.report.path for frame in frames), []
    for count, frame in enumerate(shown):
        name = names[frame.report.path]
        parts.append(
            f"<details{' open' if count < OPEN_MAPS and len(shown) <= OPEN_MAPS else ''}><summary>{safe(name)}</summary>"
            f"<figure>{picture(frame.map, f'{name} with its cells outlined')}</figure></details>"
        )
    crowded = any(len(frame.report.cells) > MOST_NUMBERS for frame in shown)
    numbers = "Each cell has the number that it has above" + (
        f"; where there are more than {MOST_NUMBERS} go by its place: pixels from the left and from the top" if crowded else ""
    )
    examined = sum(frame.report.refusal is None for frame in frames)
    more = f" Of {examined:,} frames {len(shown)} are shown; a folder of pages shows them all." if len(shown) < examined else ""
    if not any(frame.report.cells for frame in shown):
        words = f'<p class="quiet">{more}</p>' if more else ""
        return f"<h2>What was looked at</h2>{words}{''.join(parts)}"
    return (
        f'<h2>Where the cells lie</h2><p class="quiet">{numbers}. '
        f"Solid vermilion: called ALL. Solid blue: called HEM. Dashed: not called.{more}</p>{''.join(parts)}"
    )


def _cells(reports: Sequence[FrameReport], cards: Sequence[Card]) -> str:
    numbers = {id(report): number for number, report in enumerate(reports)}
    alone = len(reports) == 1
    items = "\n".join(_card(card, numbers[id(card.report)], alone=alone) for card in cards[:MOST_CARDS])
    more = f"; only the first {MOST_CARDS:,} of {len(cards):,} are shown here" if len(cards) > MOST_CARDS else ""
    if not cards:
        seen = any(report.refusal is None for report in reports)
        return f"<h2>Cells</h2><p>{'No white cell was found.' if seen else 'No frame could be examined.'}</p>"
    return (
        f'<h2>Cells</h2><p class="quiet">By the probability of ALL, the highest first{more}. The figure is the deciding '
        "network's probability of its own call; the diameter is that of a disc of the cell's area.</p>"
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
    names = names_of(report.path for report in reports)
    shown = [(str(place), names[report.path]) for place, report in enumerate(reports) if report.cells]
    frames = [("", "all frames"), *shown]
    fields = [("show", "Show", kinds), ("sort", "Order", orders), *([("frame", "Frame", frames)] if _several(reports) else [])]
    picks = "".join(
        f'<label>{label} <select name="{name}">'
        + "".join(f'<option value="{value}">{safe(text)}</option>' for value, text in options)
        + "</select></label>"
        for name, label, options in fields
    )
    return f'<form autocomplete="off">{picks}<output></output></form>'


def _card(card: Card, frame: int, *, alone: bool) -> str:
    kind, cell = style_of(card.cell), card.cell
    name, words = safe(card.frame), safe(words_of(cell))
    across = diameter_um(cell, card.report)
    size = f"{across:.1f}&nbsp;\u00b5m" if across else ""
    score = score_of(cell)
    order = f'data-score="{"" if score is None else f"{score:.6f}"}" data-size="{f"{across:.3f}" if across else ""}"'
    voter = f"voter {cell.prediction.voter}" if cell.prediction and cell.prediction.voter else ""
    facts = ", ".join(filter(None, (size, voter)))
    x0, y0, _, _ = cell.box
    place = f"number {card.number}, at {x0}, {y0}" if alone else f"{card.number} in {name}</span><span>at {x0}, {y0}"
    shown = picture(card.thumb, f"cell {card.number} of {card.frame}: {words_of(cell)}")
    title = f' title="{safe(cell.refusal.detail)}"' if cell.refusal else ""
    return (
        f'<li class="cell {kind}" data-kind="{kind}" data-frame="{frame}" data-number="{card.number}" {order} {card_data(cell)}'
        f"{title}>{shown}<div><b>{words}</b><span>{facts}</span><span>{place}</span>"
        f"{answer_field(cell, f'cell {card.number} of {card.frame}')}</div></li>"
    )


def diameter_um(cell: FrameCell, report: FrameReport) -> float | None:
    """The diameter of the disk that has the cell's area."""
    if report.facts is None or len(cell.found.contour) < 3:
        return None
    outline = cell.found.contour
    steps = np.abs(np.diff(outline, axis=0, append=outline[:1]))
    # The outline goes through the middles of the outermost pixels, which it halves. By Pick's theorem the area of all pixels is
    # that inside of it, half a pixel for each that it passes, and one.
    area = cv2.contourArea(outline) + np.gcd(steps[:, 0], steps[:, 1]).sum() / 2 + 1
    return float(2 * (area / 3.141592653589793) ** 0.5 * report.facts.pixel_um)


def _reasons(cards: Sequence[Card]) -> str:
    codes = Counter(card.cell.refusal.code for card in cards if card.cell.refusal)
    if not codes:
        return ""
    rows = ([code, digits(count), REASONS[code]] for code, count in codes.most_common())
    return f"<h2>Why cells were not called</h2>{table(['reason', digits('cells'), ''], rows)}"


def _origin(audit: Audit | None) -> str:
    if audit is None:
        return ""
    engine = f"{audit.backend} on {audit.device}, {audit.precision} computed in {audit.execution}"
    return f"<h2>What answered</h2>{table([], [['networks', Html(f'bundle <code>{audit.bundle}</code>')], ['engine', engine]])}"
