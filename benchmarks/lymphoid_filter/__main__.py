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

from blastscope.benchmarks.lymphoid_filter.composites import BACKGROUNDS, PERTURBATIONS
from blastscope.benchmarks.lymphoid_filter.scoring import (
    PARTS,
    OutcomeCounts,
    benchmark_cells,
    count_composite_outcomes,
    count_frame_outcomes,
)

CNMC_STEP = 12  # every twelfth of its cells: 438 of 5250
ALL_PERTURBATIONS = "all perturbations"


def count_outcomes(data: Path, every: int = 1) -> Iterator[OutcomeCounts]:
    """Counts the outcomes of labelled cells.

    Parameters
    ----------
    data
        Folder with bccd/ and cnmc/.
    every
        Take every Nth cell only.

    Yields
    ------
    OutcomeCounts
        For each perturbation of BCCD's frames one a part and kind; then one for each background of C-NMC's cells.
    """
    cells = benchmark_cells()[::every]
    for name, perturbation in PERTURBATIONS.items():
        yield from count_frame_outcomes(name, perturbation, cells, data / "bccd" / "JPEGImages")
    paths = sorted((data / "cnmc").rglob("*.webp"))[:: CNMC_STEP * every]
    for name, background in BACKGROUNDS.items():
        yield count_composite_outcomes(name, background, paths)


def format_table(rows: Sequence[OutcomeCounts]) -> str:
    """The counts as text: of each kind the errors among those judged, and the sums over all perturbations."""
    frames = [row for row in rows if row.part in PARTS]
    kinds = dict.fromkeys((row.part, row.kind) for row in frames)
    lines = ["lymphoid cells refused, others called; in brackets: not found, or refused for another reason", ""]
    lines.append(_line("", [f"{part}: {kind}" for part, kind in kinds]))
    for name in dict.fromkeys(row.perturbation for row in frames):
        lines.append(_line(name, [_errors(row) for row in frames if row.perturbation == name]))
    sums = [_sum([row for row in frames if (row.part, row.kind) == kind]) for kind in kinds]
    lines += [_line(ALL_PERTURBATIONS, [_errors(row) for row in sums]), "", _line("", ["C-NMC"])]
    lines += [_line(row.perturbation, [_errors(row)]) for row in rows if row.part not in PARTS]
    return "\n".join(lines)


def _line(name: str, entries: Sequence[str]) -> str:
    return f"{name:28}" + "".join(f"{entry:>20}" for entry in entries)


def _errors(row: OutcomeCounts) -> str:
    errors = row.not_lymphoid if row.kind == "lymphoid" else row.called
    not_judged = row.other_refusal + row.not_found
    return f"{errors} of {row.judged}" + (f" ({not_judged})" if not_judged else "")


def _sum(rows: Sequence[OutcomeCounts]) -> OutcomeCounts:
    counts = zip(*((row.called, row.not_lymphoid, row.other_refusal, row.not_found) for row in rows), strict=True)
    return OutcomeCounts(ALL_PERTURBATIONS, rows[0].part, rows[0].kind, *(sum(column) for column in counts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, or with --json the counts. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m blastscope.benchmarks.lymphoid_filter", description=__doc__)
    parser.add_argument("data", type=Path, help="the folder with bccd/ and cnmc/")
    parser.add_argument("--json", action="store_true", help="the counts as JSON, and nothing else")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth cell only")
    options = parser.parse_args(arguments)
    if not (options.data / "bccd").is_dir() or not (options.data / "cnmc").is_dir():
        parser.error(f"'{options.data}' holds no bccd/ and cnmc/")
    rows = []
    for row in count_outcomes(options.data, max(options.every, 1)):
        rows.append(row)
        sys.stderr.write(f"{row.perturbation}, {row.part} {row.kind}: {_errors(row)}\n")
    print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else format_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
