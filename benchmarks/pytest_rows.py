"""Rows of pytest-benchmark's report on the suite.

python -m blastscope.benchmarks.pytest_rows REPORT.json RESULT.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blastscope.benchmarks.interleaved_timing import Turn
from blastscope.benchmarks.results import write_result
from blastscope.benchmarks.schema import BenchResult, Row, make_row, this_machine, threads_of, versions

BLOCKS = 5  # of calls that follow each other; they stand for rounds where nothing runs in turn
KEPT = 1000  # calls whose times are all kept in the result


def rows_of(report: dict[str, Any]) -> list[Row]:
    """One row for each benchmark that says what it is."""
    return [_row(one) for one in report["benchmarks"] if "what" in one["extra_info"]]


def _row(one: dict[str, Any]) -> Row:
    facts = dict(one["extra_info"])
    samples = facts.pop("samples_ms", None) or [1000 * time for time in one["stats"]["data"]]
    others, began_busy = facts.pop("others", None), bool(facts.pop("began_busy", False))
    blocks = np.array_split(np.array(samples, np.float64), min(BLOCKS, len(samples)))
    turns = [Turn(block, others, began_busy) for block in blocks]
    row = make_row(facts.pop("name"), facts.pop("batch"), turns)
    kept = row.samples_ms if row.calls <= KEPT else ()
    return Row.model_validate({**row.model_dump(), "samples_ms": kept, "threads": threads_of(None), **facts})


def main(words: Sequence[str] | None = None) -> int:
    """Turns a report into a result."""
    report, result = (sys.argv[1:] if words is None else words)[:2]
    rows = rows_of(json.loads(Path(report).read_text(encoding="utf-8")))
    write_result(Path(result), BenchResult(machine=this_machine(), versions=versions(), rows=tuple(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
