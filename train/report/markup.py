"""Tables and frame of the training report's page, which loads nothing from anywhere: it can be mailed and opened offline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Template

from blastscope.runtime.bundle.manifest import Interval

Cell = str | tuple[str, str]  # HTML, or HTML with its class
Row = tuple[str, Sequence[Cell]]  # its class, its cells


def table(head: Sequence[Cell], rows: Iterable[Row]) -> str:
    """A table as HTML, which scrolls where it is too wide."""
    top = f"<thead><tr>{cells_of('th', head)}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body(rows)}</tbody></table></div>'


def body(rows: Iterable[Row]) -> str:
    """The rows as HTML."""
    return "".join(f'<tr class="{style}">{cells_of("td", cells)}</tr>' for style, cells in rows)


def cells_of(tag: str, cells: Sequence[Cell]) -> str:
    """The cells of one row as HTML, each in `tag`."""
    pairs = [(cell, "") if isinstance(cell, str) else cell for cell in cells]
    return "".join(f'<{tag} class="{style}">{text}</{tag}>' for text, style in pairs)


def interval(figure: Interval | float | None) -> str:
    """A figure with its 95 % interval, where it has one; nothing for None."""
    if figure is None:
        return ""
    if isinstance(figure, Interval):
        return f"{figure.value:.3f} <small>({figure.low:.3f} to {figure.high:.3f})</small>"
    return f"{figure:.3f}"


def number(text: str) -> tuple[str, str]:
    """A cell that is aligned as numbers are."""
    return text, "n"


STYLE = """
:root { --ink: #1f2328; --muted: #59636e; --line: #d8dee4; --wash: #f6f8fa; --all: #d55e00; --hem: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 62rem; color: var(--ink); background: white;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.quiet, figcaption, footer { color: var(--muted); font-size: .92rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { background: var(--wash); border-radius: .5rem; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .88rem; }
.warning { border-left: 4px solid var(--all); background: #fff4ec; padding: .6rem 1rem; margin: .7rem 0; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; margin: .6rem 0 1rem; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; vertical-align: top; }
thead th { border-bottom: 1.5px solid var(--ink); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr.first > * { border-top: 1.5px solid var(--muted); }
td.n, th.n { text-align: right; padding-right: 1.3rem; white-space: nowrap; }
td small { color: var(--muted); white-space: nowrap; }
table.wide { font-size: .86rem; }
table.wide th, table.wide td { padding-right: .4rem; }
table.wide .group { padding-left: 1.1rem; }
table.wide tr + tr th { font-weight: 500; }
thead tr.over th { border-bottom: 0; padding-bottom: 0; }
tr.strong > * { font-weight: 600; }
tr.wrong td, tr.wrong th { background: #fff4ec; }
figure { margin: 1rem 0; }
figure img { width: 100%; height: auto; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
.pair > * { min-width: 0; }
.names { overflow-wrap: anywhere; }
code, pre { font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", Consolas, monospace; }
pre { background: var(--wash); border-radius: .5rem; padding: .8rem 1rem; overflow-x: auto; }
code { overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--muted); }
footer { margin-top: 3rem; padding-top: .9rem; border-top: 1px solid var(--line); }
@media print { body { max-width: none; font-size: 11px; } figure, table { break-inside: avoid; } }
"""

FRAME = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
<footer>Written by blastscope. For research use, not a medical device.
The same figures stand in <code>report.json</code>.</footer>
</body>
</html>
""")
