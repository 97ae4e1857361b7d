"""HTML elements of the report pages; all text is escaped here.

The look of the slide report and its few lines of script. It loads nothing, and without a script it shows everything too.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from typing import NamedTuple


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


STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --line: #d8dee4; --wash: #f6f8fa; --paper: #fff;
  --warn: #fff4ec; --all: #b54a00; --hem: #0067a5; --refused: #4b535c; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --muted: #9aa5b1; --line: #343b44; --wash: #1c2128;
  --paper: #12161b; --warn: #2b1d12; --all: #ff9a52; --hem: #5db3ea; --refused: #aab3bd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.5rem 4rem; max-width: 78rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .1rem; }
p { margin: .4rem 0 .8rem; max-width: 52rem; }
.quiet, figcaption, footer, summary { color: var(--muted); font-size: .92rem; }
.warning { border-left: 4px solid var(--all); background: var(--warn); padding: .6rem 1rem; margin: .8rem 0; max-width: none; }
.warning::first-letter { text-transform: uppercase; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--wash); border-radius: .5rem; padding: .7rem 1rem; border-top: 4px solid var(--line); }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .88rem; }
.tile.all { border-color: var(--all); } .tile.hem { border-color: var(--hem); } .tile.refused { border-color: var(--refused); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; margin: .6rem 0 1rem; }
th, td { text-align: left; padding: .3rem 1.1rem .3rem 0; vertical-align: top; }
thead th { border-bottom: 1.5px solid var(--ink); font-weight: 600; white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 9rem; }
tr.refused td, td.zero { color: var(--muted); }
.swatch { display: inline-block; width: .9em; height: .9em; border-radius: 2px;
  border: 1px solid var(--line); vertical-align: -.1em; }
form { display: none; flex-wrap: wrap; gap: .6rem 1.4rem; align-items: center; margin: .6rem 0 1rem; }
.live form { display: flex; }
select { font: inherit; color: inherit; background: var(--wash); border: 1px solid var(--line); border-radius: .35rem;
  padding: .2rem .4rem; max-width: 22rem; }
.cells { list-style: none; margin: 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(10.9rem, 1fr)); }
.cell { background: var(--wash); border-radius: .5rem; overflow: hidden; border: 2px solid var(--refused); font-size: .79rem; }
.cell[hidden] { display: none; }
.cell.all { border-color: var(--all); } .cell.hem { border-color: var(--hem); } .cell.refused { border-style: dashed; }
.cell img, .cell .none { display: block; width: 100%; aspect-ratio: 1; background: var(--line); }
.cell div { padding: .4rem .55rem .5rem; }
.cell b { display: block; font-size: .98rem; }
.cell.all b, td.all { color: var(--all); } .cell.hem b, td.hem { color: var(--hem); } .cell.refused b { color: var(--refused); }
.cell span { display: block; color: var(--muted); overflow-wrap: anywhere; line-height: 1.35; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; border-radius: .35rem; }
summary { cursor: pointer; padding: .2rem 0; overflow-wrap: anywhere; }
code { font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", Consolas, monospace; overflow-wrap: anywhere; }
a { color: var(--hem); }
footer { margin-top: 3rem; padding-top: .9rem; border-top: 1px solid var(--line); }
@media print { body { max-width: none; padding: 0; font-size: 11px; } form, .live form { display: none; }
  .cells { grid-template-columns: repeat(7, 1fr); } .cell, figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""

# What is chosen stands in the address behind '#', so that a view can be kept as a bookmark.
SCRIPT = """
(() => {
  const form = document.querySelector("form"), list = document.querySelector(".cells");
  if (!form || !list) return;
  const cells = [...list.children], said = document.querySelector("output");
  const value = (cell, name, missing) => cell.dataset[name] === "" ? missing : Number(cell.dataset[name]);
  const orders = {
    score: (a, b) => value(b, "score", -1) - value(a, "score", -1),
    hem: (a, b) => value(a, "score", 2) - value(b, "score", 2),
    size: (a, b) => value(b, "size", 0) - value(a, "size", 0),
    place: (a, b) => a.dataset.frame - b.dataset.frame || a.dataset.number - b.dataset.number,
  };
  const show = () => {
    const wanted = Object.fromEntries(new FormData(form));
    cells.sort(orders[wanted.sort]);
    let shown = 0;
    for (const cell of cells) {
      const { kind, frame } = cell.dataset;
      const fits = (!wanted.show || kind === wanted.show) && (!wanted.frame || frame === wanted.frame);
      cell.hidden = !fits;
      shown += fits;
    }
    list.append(...cells);
    said.textContent = `${shown} of ${cells.length} cells`;
  };
  const read = () => {
    for (const [name, chosen] of new URLSearchParams(location.hash.slice(1))) {
      const field = form.elements[name];
      if (field && [...field.options].some((option) => option.value === chosen)) field.value = chosen;
    }
    show();
  };
  form.addEventListener("change", () => {
    history.replaceState(null, "", "#" + new URLSearchParams(new FormData(form)));
    show();
  });
  window.addEventListener("hashchange", () => {
    read();
    form.scrollIntoView();
  });
  document.documentElement.classList.add("live");
  read();
})();
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
<footer>Written by blastscope. For research use, not a medical device: no call on this page may decide on anybody's
treatment.</footer>
<script>$script</script>
</body>
</html>
""")
