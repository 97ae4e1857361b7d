"""Result files: written with one row a line, read, merged, and described by bench.schema.json.

python -m blastscope.benchmarks.results          writes the schema again, from the classes in schema.py
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from blastscope.benchmarks.comparison import MACHINE_KEYS
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import BenchResult, Row, with_roofline
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import problems

SCHEMA_FILE = Path(__file__).with_name("bench.schema.json")
# names in files of older versions, which are still read in this version
RENAMED_ROW_KEYS = {
    "what": "scope",
    "others": "other_cpu_share",
    "floor_ms": "roofline_ms",
    "share": "peak_fraction",
    "outside_ms": "benchmark_app_ms",
    "how": "config",
    "peer": "baseline",  # of a GPU's rows
}
RENAMED_PEAK_KEYS = {"how": "kernel"}
RENAMED_SCOPES = {"outside": "benchmark_app"}


def result_json(result: BenchResult) -> str:
    """The JSON of a result, with one line for each row, so that a thousand samples don't take a thousand lines."""
    table: dict[str, Any] = json.loads(result.model_dump_json())
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in table.pop("rows"))
    rest = {key: json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  ") for key, value in table.items()}
    parts = [f'  "machine": {rest["machine"]}', f'  "versions": {rest["versions"]}']
    parts += [f'  "rows": [\n{rows}\n  ]' if rows else '  "rows": []', f'  "notes": {rest["notes"]}']
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write_result(path: Path, result: BenchResult) -> None:
    """Writes the JSON of `result` to `path`; the file is never half written."""
    write_content(path, result_json(result))


def read_result(path: Path) -> BenchResult:
    """Reads a result file.

    Parameters
    ----------
    path
        JSON that `blastscope bench` wrote.

    Returns
    -------
    BenchResult
        With the keys of this version.

    Raises
    ------
    UsageError
        The file can't be read, or holds no result.

    Warns
    -----
    FutureWarning
        The file has keys of an older version.
    """
    try:
        return BenchResult.model_validate(read_json(path))
    except OSError as error:
        raise UsageError(f"'{path}' can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"'{path}' holds no result of 'blastscope bench': {problems(error)[0]}") from error
    except ValueError as error:
        raise UsageError(f"'{path}' holds no result of 'blastscope bench': {error}") from error


def read_json(path: Path) -> Any:
    """The JSON in `path`, a result of a CPU or of a GPU, in which keys of older versions have their present names.

    Raises
    ------
    OSError
        The file can't be read.
    ValueError
        It holds no JSON.

    Warns
    -----
    FutureWarning
        It has keys of an older version.
    """
    content = from_json(path.read_bytes())
    renamed = rename_keys(content)
    if renamed:
        listed = ", ".join(f"'{old}' is now '{new}'" for old, new in renamed.items())
        warnings.warn(
            f"'{path}' was written by an older version, and the next version won't read its names: {listed}",
            FutureWarning,
            stacklevel=3,
        )
    return content


def rename_keys(content: Any) -> dict[str, str]:
    """Gives keys of older versions in `content`, the JSON of a result, their present names, in place.

    Returns
    -------
    dict of str to str
        Old and present name of each key, and of each scope, that was renamed.
    """
    renamed: dict[str, str] = {}
    if not isinstance(content, dict):
        return renamed
    for row in _mappings(content.get("rows")):
        renamed |= _rename(row, RENAMED_ROW_KEYS)
        scope = row.get("scope")
        if isinstance(scope, str) and scope in RENAMED_SCOPES:
            row["scope"] = RENAMED_SCOPES[scope]
            renamed[scope] = row["scope"]
    machine = content.get("machine")
    for peak in _mappings(machine.get("peaks") if isinstance(machine, dict) else None):
        renamed |= {f"peaks.{old}": f"peaks.{new}" for old, new in _rename(peak, RENAMED_PEAK_KEYS).items()}
    return renamed


def _mappings(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _rename(mapping: dict[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    found = {old: new for old, new in names.items() if old in mapping and new not in mapping}
    for key in list(mapping):  # keeps the order
        mapping[found.get(key, key)] = mapping.pop(key)
    return found


def merge_results(results: Sequence[BenchResult]) -> BenchResult:
    """One result of several runs on one machine.

    Parameters
    ----------
    results
        In the order in which they were measured. Of a row that several have the last one counts; where it has no cold start,
        the earlier one's is kept.

    Returns
    -------
    BenchResult
        With the highest peak of each type that any run measured. Each row keeps the ratio to the baseline of its own run.

    Raises
    ------
    UsageError
        The runs come from different machines, or from different versions of the libraries.
    """
    first = results[0]
    for result in results[1:]:
        if any(getattr(result.machine, name) != getattr(first.machine, name) for name in MACHINE_KEYS):
            raise UsageError("the results come from different machines: they can't be merged")
        if result.versions != first.versions:
            raise UsageError("the results come from different versions of the libraries: they can't be merged")
    rows: dict[tuple[str, str, int], Row] = {}
    for row in (row for result in results for row in result.rows):
        earlier = rows.get((row.scope, row.name, row.batch))
        cold_start = {"load_s": earlier.load_s, "peak_mib": earlier.peak_mib} if earlier and row.load_s is None else {}
        rows[row.scope, row.name, row.batch] = row.model_copy(update=cold_start)
    peaks: dict[str, Peak] = {}
    for peak in (peak for result in results for peak in result.machine.peaks):
        peaks[peak.execution] = max(peaks.get(peak.execution, peak), peak, key=lambda one: one.gmacs)
    return BenchResult(
        machine=first.machine.model_copy(update={"peaks": tuple(peaks.values())}),
        versions=first.versions,
        rows=tuple(with_roofline(row, peaks.values()) for row in rows.values()),
        notes=tuple(dict.fromkeys(note for result in results for note in result.notes)),
    )


def schema_json() -> str:
    """The JSON schema of a result."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **BenchResult.model_json_schema(),
        "title": "blastscope bench --json",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes bench.schema.json."""
    write_content(SCHEMA_FILE, schema_json())


if __name__ == "__main__":
    main()
