"""Result files: written with one row a line, read, merged, described by bench.schema.json, and compared with one another.

A comparison says which rows are slower or faster beyond noise, and whether the two runs can be compared at all.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json

from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import BenchResult, Machine, Row, change_interval, with_roofline
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import problems

MIN_CHANGE = 0.05  # below it nothing counts: memory layout alone moves times more between processes than within a run
MIN_ROUNDS = 3  # fewer don't show how much rounds differ
MACHINE_KEYS = ("processor", "features", "cores", "system", "governor")  # equal on machines whose times can be compared

Verdict = Literal["slower", "faster", "as before", "busy", "too few rounds", "gone", "new"]
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


class Change(NamedTuple):
    """The change of one row from one run to the other.

    Attributes
    ----------
    name : str
        The row's.
    batch : int
        The row's.
    verdict : str
        In a word.
    old_ms, new_ms : float or None
        Medians; None where the row is only in one of the results.
    low, high : float or None
        95 % interval of new / old.
    """

    name: str
    batch: int
    verdict: Verdict
    old_ms: float | None = None
    new_ms: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The change in one line."""
        head = f"{self.name}, batch {self.batch}: "
        if self.old_ms is None or self.new_ms is None:
            return f"{head}{self.verdict}"
        times = f"{self.old_ms:.2f} to {self.new_ms:.2f} ms, {100 * (self.new_ms / self.old_ms - 1):+.1f} %"
        if self.low is None or self.high is None:
            return f"{head}{self.verdict}, not judged ({times})"
        return f"{head}{self.verdict} ({times}; interval {100 * (self.low - 1):+.1f} to {100 * (self.high - 1):+.1f} %)"


class RunComparison(NamedTuple):
    """What became of every row; or why the runs can't be compared.

    Attributes
    ----------
    changes
        One for each row of either run; none where the machines differ.
    machine_differences
        Why the times can't be compared, one line each.
    notes
        Versions of libraries that changed, one line each.
    """

    changes: tuple[Change, ...]
    machine_differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def slower(self) -> bool:
        """Whether any row is slower beyond noise."""
        return any(change.verdict == "slower" for change in self.changes)


def compare_runs(old: BenchResult, new: BenchResult) -> RunComparison:
    """Compares two runs row by row.

    Parameters
    ----------
    old, new
        The earlier and the later run.

    Returns
    -------
    RunComparison
        Without changes where the runs come from different machines.
    """
    differences = _machine_differences(old.machine, new.machine)
    if differences:
        return RunComparison((), differences, ())
    before, after = ({_key(row): row for row in run.rows} for run in (old, new))
    changes = [_change(before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]
    names = sorted({*old.versions, *new.versions})
    notes = [
        f"{name} {old.versions.get(name, 'absent')} is now {new.versions.get(name, 'absent')}"
        for name in names
        if old.versions.get(name) != new.versions.get(name)
    ]
    return RunComparison(tuple(changes), (), tuple(notes))


def _machine_differences(old: Machine, new: Machine) -> tuple[str, ...]:
    values = [(name, getattr(old, name), getattr(new, name)) for name in MACHINE_KEYS]
    return tuple(f"{name}: {_format(before)} then, {_format(now)} now" for name, before, now in values if before != now)


def _format(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _key(row: Row) -> tuple[str, str, int, int | None]:
    return row.scope, row.name, row.batch, row.threads


def _change(old: Row | None, new: Row | None) -> Change:
    row = new or old
    assert row is not None  # a key comes from one of the two
    name = row.name if row.scope == "pixels" else f"{row.scope} {row.name}"
    if old is None or new is None:
        return Change(name, row.batch, "new" if old is None else "gone")
    change = Change(name, row.batch, "as before", old.p50_ms, new.p50_ms)
    if old.busy or new.busy:
        return change._replace(verdict="busy")
    if min(len(old.rounds_ms), len(new.rounds_ms)) < MIN_ROUNDS:
        return change._replace(verdict="too few rounds")
    low, high = change_interval(_round_times(old), _round_times(new))
    verdict: Verdict = "slower" if low > 1 + MIN_CHANGE else "faster" if high < 1 / (1 + MIN_CHANGE) else "as before"
    return change._replace(verdict=verdict, low=low, high=high)


def _round_times(row: Row) -> Sequence[NDArray[np.float64]]:
    """The calls of each round in milliseconds, or their median where the row has no samples."""
    return [np.array(times) for times in row.samples_ms or [(median,) for median in row.rounds_ms]]


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
            raise UsageError(
                "the results come from different machines: measure all of them on one, or publish each without '--add', into a "
                "folder of its own by '--out'"
            )
        if result.versions != first.versions:
            raise UsageError(
                "the results come from different versions of the libraries: measure them anew, or publish these without "
                "'--add', into a folder of its own by '--out'"
            )
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
