"""How many lymphoid cells are refused as `not-lymphoid`, and how many others pass.

    python -m blastscope.benchmarks.lymphoid_filter DATA [--json] [--every N]

DATA holds `bccd/` and `cnmc/`. Progress goes to stderr. All cells take four minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from blastscope.benchmarks.lymphoid_filter.composites import GLASSES
from blastscope.benchmarks.lymphoid_filter.perturbations import LOOKS
from blastscope.benchmarks.lymphoid_filter.scoring import PARTS, Count, count_frames, count_on_glass, labelled_cells

OF_CNMC = 12  # every twelfth of its cells: 438 of 5250


def counts(data: Path, every: int = 1) -> Iterator[Count]:
    """All counts, look by look; of every Nth cell."""
    known = labelled_cells()[::every]
    for name, look in LOOKS.items():
        yield from count_frames(name, look, known, data / "bccd" / "JPEGImages")
    paths = sorted((data / "cnmc").rglob("*.webp"))[:: OF_CNMC * every]
    for name, glass in GLASSES.items():
        yield count_on_glass(name, glass, paths)


def table(rows: Sequence[Count]) -> str:
    """For people: of each kind those judged wrong, of those judged; and the sums over all looks."""
    frames = [row for row in rows if row.part in PARTS]
    kinds = dict.fromkeys((row.part, row.kind) for row in frames)
    lines = ["lymphoid cells refused, others called; in brackets: not found, or refused for another reason", ""]
    lines.append(_line("", [f"{part}: {kind}" for part, kind in kinds]))
    for look in dict.fromkeys(row.look for row in frames):
        lines.append(_line(look, [_wrong(row) for row in frames if row.look == look]))
    sums = [_sum([row for row in frames if (row.part, row.kind) == kind]) for kind in kinds]
    lines += [_line("all looks", [_wrong(row) for row in sums]), "", _line("", ["C-NMC"])]
    lines += [_line(row.look, [_wrong(row)]) for row in rows if row.part not in PARTS]
    return "\n".join(lines)


def _line(name: str, entries: Sequence[str]) -> str:
    return f"{name:24}" + "".join(f"{entry:>20}" for entry in entries)


def _wrong(row: Count) -> str:
    wrong = row.not_lymphoid if row.kind == "lymphoid" else row.called
    beside = row.otherwise + row.lost
    return f"{wrong} of {row.judged}" + (f" ({beside})" if beside else "")


def _sum(rows: Sequence[Count]) -> Count:
    numbers = zip(*((row.called, row.not_lymphoid, row.otherwise, row.lost) for row in rows), strict=True)
    return Count("all looks", rows[0].part, rows[0].kind, *(sum(column) for column in numbers))


def main(words: Sequence[str] | None = None) -> int:
    """Prints the table, or with --json the counts."""
    parser = argparse.ArgumentParser(prog="python -m blastscope.benchmarks.lymphoid_filter", description=__doc__)
    parser.add_argument("data", type=Path, help="the folder with bccd/ and cnmc/")
    parser.add_argument("--json", action="store_true", help="the counts as JSON, and nothing else")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="look at every Nth cell alone")
    wish = parser.parse_args(words)
    if not (wish.data / "bccd").is_dir() or not (wish.data / "cnmc").is_dir():
        parser.error(f"'{wish.data}' holds no bccd/ and cnmc/")
    rows = []
    for row in counts(wish.data, max(wish.every, 1)):
        rows.append(row)
        sys.stderr.write(f"{row.look}, {row.part} {row.kind}: {_wrong(row)}\n")
    print(json.dumps([asdict(row) for row in rows], indent=1) if wish.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
