"""The report on a slide or a run as one HTML page that needs no other file.

On it a person can say what each cell is, and save it as `corrections.csv`, whose rows `runtime/frames/corrections.py` explains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from blastscope.runtime.frames.corrections import ANSWERS, COLUMNS, COMPLETE, FORMULA, WORDS
from blastscope.runtime.frames.doubts import doubt_sentences
from blastscope.runtime.frames.report.contact_sheet import Card, cards_of
from blastscope.runtime.frames.report.overlay import MOST_NUMBERS
from blastscope.runtime.frames.report.templates import render_template
from blastscope.runtime.frames.report.theme import CALL_STYLES, caution, names_of, style_of, words_of
from blastscope.runtime.frames.report.thumbnails import Thumbnail, thumbnail_side
from blastscope.runtime.frames.types import FrameCell, FrameReport
from blastscope.runtime.inference.neighbours import Neighbour
from blastscope.runtime.io.printable import without_surrogates
from blastscope.runtime.types import Audit, RefusalCode

MOST_CARDS = 5000
BAR_UM = 5  # the scale bar of a cell
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
    """The HTML report on frames.

    Parameters
    ----------
    frames : sequence of Thumbnail
        What it shows.
    title : str
        Its heading.
    audit : Audit, optional
        What answered.
    links : mapping of int to str, optional
        Pages beside this one, by the frame's number. With it the page is an index, without cells.
    alarms : sequence of str
        Of a drift.

    Returns
    -------
    str
        HTML.
    """
    reports = [frame.report for frame in frames]
    cards = cards_of(frames)
    names = names_of(report.path for report in reports)
    places = {id(report): place for place, report in enumerate(reports)}
    with_cells = [(str(place), names[report.path]) for place, report in enumerate(reports) if report.cells]
    several = with_cells if len(with_cells) > 1 else []
    index = links is not None
    maps = [] if index else [frame for frame in frames if frame.map]
    doubts = doubt_sentences(Counter(code for one in reports for code in one.doubt_codes))
    refusals = Counter(card.cell.refusal.code for card in cards if card.cell.refusal)
    return render_template(
        "slide.html",
        title=title,
        index=index,
        warnings=[caution(validated=bool(reports) and all(one.validated for one in reports)), *doubts, *alarms],
        figures=_key_figures(reports, cards),
        reports=reports,
        names=names,
        scales=SCALES,
        links=links if links is not None else {int(place): f"#frame={place}" for place, _ in several},
        cells=[] if index else [_cell(card, places[id(card.report)]) for card in cards[:MOST_CARDS]],
        cell_count=len(cards),
        explained=not index and any(card.explained for card in cards[:MOST_CARDS]),
        compared=not index and any(_alike(cards)),
        pictured=any(picture is not None for alike in _alike(cards) for _, picture in alike),
        kinds=[("", "all cells"), *((kind, style.name) for kind, style in CALL_STYLES.items())],
        frame_choices=[("", "all frames"), *several] if several else [],
        examined=sum(report.refusal is None for report in reports),
        answers=[(answer, WORDS[answer]) for answer in ANSWERS],
        reviewed=[(place, names[one.path]) for place, one in enumerate(reports) if one.refusal is None and one.path],
        review_settings=_review_settings(reports),
        refusals=[(code, count, REASONS[code]) for code, count in refusals.most_common()],
        maps=[(names[frame.report.path], frame.map) for frame in maps],
        mapped_cells=max((len(frame.report.cells) for frame in maps), default=0),
        most_numbers=MOST_NUMBERS,
        audit=audit,
    )


def _alike(cards: Sequence[Card]) -> Iterator[tuple[tuple[Neighbour, bytes | None], ...]]:
    """The labelled cells that stand beside the shown cells, where there are any."""
    return (card.explained.alike for card in cards[:MOST_CARDS] if card.explained and card.explained.alike)


def _key_figures(reports: Sequence[FrameReport], cards: Sequence[Card]) -> list[tuple[str, str, str, str]]:
    """Names, values, notes and kinds, for colours."""
    kinds = Counter(style_of(card.cell) for card in cards)
    called = kinds["all"] + kinds["hem"]
    share = f"{100 * kinds['all'] / called:.0f} % of those called" if called else "none was called"
    groups: Counter[str] = Counter()  # a differential's first line, as far as it is known
    for report in reports:
        groups.update(report.groups)
    differential = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in groups.items())
    return [
        ("frames", f"{len(reports):,}", f"{sum(report.refusal is not None for report in reports)} not examined", ""),
        ("white cells", f"{len(cards):,}", differential, ""),
        ("called ALL", f"{kinds['all']:,}", share, "all"),
        ("called HEM", f"{kinds['hem']:,}", "normal", "hem"),
        ("not called", f"{kinds['refused']:,}", "see the reasons below" if kinds["refused"] else "", "refused"),
    ]


def _cell(card: Card, place: int) -> dict[str, object]:
    """What the page shows of a cell, and what its scripts sort by; `place` is its frame's, from 0."""
    cell, across, score = card.cell, diameter_um(card.cell, card.report), card.cell.score
    details = [
        f"{across:.1f}\u00a0\u00b5m" if across else "",
        f"voter {cell.prediction.voter}" if cell.prediction and cell.prediction.voter else "",
    ]
    scale = card.report.parameters
    return {
        "kind": style_of(cell),
        "frame": place,
        "frame_name": card.frame,
        "number": card.number,
        "name": f"cell {card.number} of {card.frame}",
        "score": "" if score is None else f"{score:.6f}",
        "size": f"{across:.3f}" if across else "",
        "box": cell.box,
        "old": cell.label or (cell.refusal.code if cell.refusal else ""),
        "detail": cell.refusal.detail if cell.refusal else "",
        "words": words_of(cell),
        "details": ", ".join(filter(None, details)),
        "thumb": card.thumb,
        "explained": card.explained,
        "bar": (BAR_UM, BAR_UM / scale.pixel_um / thumbnail_side(cell.box)) if scale and card.thumb else None,
    }


def _review_settings(reports: Sequence[FrameReport]) -> dict[str, object]:
    """What the script that writes `corrections.csv` must know."""
    known = [{"path": without_surrogates(report.path) if report.path else "", "cells": len(report.cells)} for report in reports]
    return {"columns": COLUMNS, "complete": COMPLETE, "formula": "".join(FORMULA), "answers": ANSWERS, "frames": known}


def diameter_um(cell: FrameCell, report: FrameReport) -> float | None:
    """The diameter of the disk that has the cell's area."""
    if report.parameters is None or len(cell.found.contour) < 3:
        return None
    outline = cell.found.contour
    steps = np.abs(np.diff(outline, axis=0, append=outline[:1]))
    # The outline goes through the middles of the outermost pixels, which it halves. By Pick's theorem the area of all pixels is
    # that inside of it, half a pixel for each that it passes, and one.
    area = cv2.contourArea(outline) + np.gcd(steps[:, 0], steps[:, 1]).sum() / 2 + 1
    return float(2 * (area / 3.141592653589793) ** 0.5 * report.parameters.pixel_um)
