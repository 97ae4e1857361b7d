"""The cells that went wrong in a validation, as a section of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from blastscope.runtime.frames.pages.colours import LOOKS, kind_of, words_of
from blastscope.runtime.frames.pages.markup import Html, picture, safe
from blastscope.runtime.frames.pages.names import names_of
from blastscope.runtime.site.mistakes import Kind, Mistake

MOST_CARDS = 120  # of each kind
HEADS: dict[Kind, tuple[str, str]] = {
    "all-called-hem": ("Labelled ALL, called HEM", "Blasts that were taken for normal cells; the surest calls first."),
    "hem-called-all": ("Labelled HEM, called ALL", "Normal cells that were taken for blasts; the surest calls first."),
    "missed": ("Labelled, not found", "No outline overlaps the label's box by half; one that comes near is drawn."),
    "refused": ("Labelled and found, but not called", "The reason stands below each."),
    "unlabelled": ("Found where none is labelled", "Something else was taken for a white cell, or the table lacks one."),
}


def gallery(mistakes: Sequence[Mistake], frames: Sequence[Path] = ()) -> Html:
    """A heading and a list of cards for each kind of mistake that there is, in some of the `frames`."""
    names = names_of([*frames, *(one.path for one in mistakes)])
    parts = [_part(kind, own, names) for kind in HEADS if (own := [one for one in mistakes if one.kind == kind])]
    if not parts:
        return Html("")
    told = (
        "The box is the label's; the outline is what was found, dashed where it was refused. Vermilion is ALL, blue is HEM. "
        "Frames that couldn't be examined aren't shown."
    )
    return Html(f'<h2>Cells that went wrong</h2><p class="quiet">{told}</p>{"".join(parts)}')


def _part(kind: Kind, mistakes: Sequence[Mistake], names: Mapping[Path | None, str]) -> str:
    name, said = HEADS[kind]
    ordered = sorted(mistakes, key=_sureness, reverse=True)[:MOST_CARDS]
    more = f" The first {len(ordered)} are shown." if len(ordered) < len(mistakes) else ""
    cards = "".join(_card(one, names[one.path]) for one in ordered)
    return f'<h3>{name}: {len(mistakes)}</h3><p class="quiet">{said}{more}</p><ul class="cells">{cards}</ul>'


def _sureness(mistake: Mistake) -> float:
    return (mistake.cell.probability if mistake.cell else None) or 0.0


def _card(mistake: Mistake, frame: str) -> str:
    cell = mistake.cell
    words = words_of(cell) if cell else "not found"
    labelled = f"labelled {LOOKS[mistake.label].name}" if mistake.label else "no label"
    x0, y0, _, _ = mistake.box
    place = f"{frame}, at {x0}, {y0}"
    title = f' title="{safe(cell.refusal.detail)}"' if cell and cell.refusal else ""
    shown = picture(mistake.picture, f"{labelled}: {words}")
    return (
        f'<li class="cell {kind_of(cell) if cell else "refused"}"{title}>{shown}'
        f"<div><b>{safe(words)}</b><span>{safe(labelled)}</span><span>{safe(place)}</span></div></li>"
    )
