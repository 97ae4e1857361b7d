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

from blastscope.benchmarks.interleaved_timing import Round
from blastscope.benchmarks.results import write_result
from blastscope.benchmarks.schema import BenchResult, Row, describe_machine, library_versions, make_row, thread_count

BLOCKS = 5  # of consecutive calls, in place of rounds where nothing is interleaved
MAX_SAMPLES = 1000  # calls up to which every sample is kept


def report_rows(report: dict[str, Any]) -> list[Row]:
    """The rows of a pytest-benchmark report, as its JSON holds it.

    Parameters
    ----------
    report
        `benchmarks` is a list; `extra_info` of each holds `scope`, `name`, `batch` and more fields of `Row`. Those without a
        scope are left out.

    Returns
    -------
    list of Row
        One for each benchmark, with five blocks of consecutive calls as rounds.
    """
    return [_row(one) for one in report["benchmarks"] if "scope" in one["extra_info"]]


def _row(benchmark: dict[str, Any]) -> Row:
    fields = dict(benchmark["extra_info"])
    samples_ms = fields.pop("samples_ms", None) or [1000 * seconds for seconds in benchmark["stats"]["data"]]
    other_share, started_busy = fields.pop("other_cpu_share", None), bool(fields.pop("started_busy", False))
    blocks = np.array_split(np.array(samples_ms, np.float64), min(BLOCKS, len(samples_ms)))
    rounds = [Round(block, other_share, started_busy) for block in blocks]
    row = make_row(fields.pop("name"), fields.pop("batch"), rounds)
    samples = row.samples_ms if row.calls <= MAX_SAMPLES else ()
    return Row.model_validate({**row.model_dump(), "samples_ms": samples, "threads": thread_count(None), **fields})


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the result of a report. Returns the exit code."""
    report, result = (sys.argv[1:] if arguments is None else arguments)[:2]
    rows = report_rows(json.loads(Path(report).read_text(encoding="utf-8")))
    write_result(Path(result), BenchResult(machine=describe_machine(), versions=library_versions(), rows=tuple(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
