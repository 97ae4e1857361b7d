"""Results on disk: written with one row a line, read, merged piece by piece, and described by bench.schema.json.

python -m blastscope.benchmarks.results          rewrites the schema from the records in schema.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blastscope.benchmarks.comparison import SAME
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import BenchResult, Row, with_floor
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import problems

SCHEMA_FILE = Path(__file__).with_name("bench.schema.json")


def result_text(result: BenchResult) -> str:
    """The JSON of a result, one line a row, so that a thousand samples don't take a thousand lines."""
    table: dict[str, Any] = json.loads(result.model_dump_json())
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in table.pop("rows"))
    rest = {key: json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  ") for key, value in table.items()}
    parts = [f'  "machine": {rest["machine"]}', f'  "versions": {rest["versions"]}']
    parts += [f'  "rows": [\n{rows}\n  ]' if rows else '  "rows": []', f'  "notes": {rest["notes"]}']
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write_result(path: Path, result: BenchResult) -> None:
    """Writes the JSON of `result` to `path` in one step."""
    write_content(path, result_text(result))


def read_result(path: Path) -> BenchResult:
    """The result kept at `path`. Raises `UsageError` for a file that is none."""
    try:
        return BenchResult.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{path}' can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' holds no result of 'blastscope bench'") from error
    except ValidationError as error:
        raise UsageError(f"'{path}' holds no result of 'blastscope bench': {problems(error)[0]}") from error


def merged(pieces: Sequence[BenchResult]) -> BenchResult:
    """One result of several runs on one machine. A row that was measured twice is the later one's, its start where it has one.

    Each row keeps the ratio to the peer of its own run. Raises `UsageError` for pieces of different machines or versions.
    """
    first = pieces[0]
    for piece in pieces[1:]:
        if any(getattr(piece.machine, name) != getattr(first.machine, name) for name in SAME):
            raise UsageError("the pieces come from different machines: they can't be merged")
        if piece.versions != first.versions:
            raise UsageError("the pieces come from different versions of the libraries: they can't be merged")
    rows: dict[tuple[str, str, int], Row] = {}
    for row in (row for piece in pieces for row in piece.rows):
        before = rows.get((row.what, row.name, row.batch))
        start = {"load_s": before.load_s, "peak_mib": before.peak_mib} if before and row.load_s is None else {}
        rows[row.what, row.name, row.batch] = row.model_copy(update=start)
    best: dict[str, Peak] = {}
    for peak in (peak for piece in pieces for peak in piece.machine.peaks):
        best[peak.execution] = max(best.get(peak.execution, peak), peak, key=lambda one: one.gmacs)
    return BenchResult(
        machine=first.machine.model_copy(update={"peaks": tuple(best.values())}),
        versions=first.versions,
        rows=tuple(with_floor(row, best.values()) for row in rows.values()),
        notes=tuple(dict.fromkeys(note for piece in pieces for note in piece.notes)),
    )


def schema_text() -> str:
    """The JSON schema of a result."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **BenchResult.model_json_schema(),
        "title": "blastscope bench --json",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Brings the schema in step with the code."""
    write_content(SCHEMA_FILE, schema_text())


if __name__ == "__main__":
    main()
