"""Result files: written, read, merged, with old names, and described by a schema."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest

from blastscope.benchmarks import results
from blastscope.benchmarks.interleaved_timing import Round
from blastscope.benchmarks.results import (
    RENAMED_ROW_KEYS,
    SCHEMA_FILE,
    merge_results,
    read_result,
    result_json,
    schema_json,
    write_result,
)
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import BenchResult, Machine, Row, make_row
from blastscope.runtime.errors import UsageError

MACHINE = Machine(processor="fake", features=("avx2",), cores=2, system="Linux", python="3.11")


def row(name: str, level_ms: float) -> Row:
    rng = np.random.default_rng(int(1000 * level_ms))
    return make_row(name, 1, [Round(level_ms * rng.normal(1, 0.01, 8), 0.0) for _ in range(5)])


def run(*rows: Row, machine: Machine = MACHINE, **versions: str) -> BenchResult:
    return BenchResult(machine=machine, versions={"openvino": "1", **versions}, rows=rows)


def test_a_result_is_one_line_a_row_and_comes_back_the_same(tmp_path: Path) -> None:
    result = run(row("a/x/y", 10.0), row("b/x/y", 10.0)).model_copy(update={"notes": ("left out: 'x'",)})
    write_result(tmp_path / "r.json", result)
    assert read_result(tmp_path / "r.json") == result
    text = result_json(result)
    assert len([line for line in text.splitlines() if '"name"' in line]) == 2
    assert set(json.loads(text)) == {"machine", "versions", "rows", "notes"}
    assert read_result(_written(tmp_path / "none.json", result_json(run()))) == run()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["{}", "not JSON", "[1]"])
def test_a_file_that_holds_no_result_is_named_in_the_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"r.json' holds no result"):
        read_result(_written(tmp_path / "r.json", text))
    with pytest.raises(UsageError, match=r"absent.json' can't be read"):
        read_result(tmp_path / "absent.json")


def test_merged_rooflines_are_of_the_highest_peak() -> None:
    low, high = (Peak(execution="f32", gmacs=gmacs, kernel="fake") for gmacs in (10.0, 40.0))
    facts = {"gmac": 0.2, "execution": "f32"}
    first = run(row("a/x/y", 10.0).model_copy(update=facts), machine=MACHINE.model_copy(update={"peaks": (low,)}))
    second = run(row("b/x/y", 10.0).model_copy(update={"load_s": 3.0}), machine=MACHINE.model_copy(update={"peaks": (high,)}))
    again = run(row("b/x/y", 12.0))
    found = merge_results([first, second, again])
    assert found.machine.peaks == (high,)
    assert [(one.name, one.roofline_ms) for one in found.rows] == [("a/x/y", 5.0), ("b/x/y", None)]
    assert (found.rows[1].p50_ms, found.rows[1].load_s) == (again.rows[0].p50_ms, 3.0)
    with pytest.raises(UsageError, match="different machines"):
        merge_results([first, run(machine=MACHINE.model_copy(update={"cores": 4}))])
    with pytest.raises(UsageError, match="different versions"):
        merge_results([first, run(openvino="2")])


def test_the_schema_in_the_tree_matches_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_json(), "run python -m blastscope.benchmarks.results"
    schema = json.loads(schema_json())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(result_json(run(row("a/x/y", 1.0)))))
    assert not jsonschema.Draft202012Validator(schema).is_valid({"rows": []})
    monkeypatch.setattr(results, "SCHEMA_FILE", tmp_path / "bench.schema.json")
    results.main()
    assert (tmp_path / "bench.schema.json").read_text(encoding="utf-8") == schema_json()


def with_old_names(result: BenchResult) -> dict[str, Any]:
    """The JSON of a result as older versions wrote it."""
    content: dict[str, Any] = json.loads(result_json(result))
    present = {new: old for old, new in RENAMED_ROW_KEYS.items()}
    content["rows"] = [{present.get(key, key): value for key, value in one.items()} for one in content["rows"]]
    for one in content["rows"]:
        one["what"] = one["what"].replace("benchmark_app", "outside")
    for peak in content["machine"]["peaks"]:
        peak["how"] = peak.pop("kernel")
    return content


def test_a_file_with_old_names_is_read_with_a_warning(tmp_path: Path) -> None:
    machine = MACHINE.model_copy(update={"peaks": (Peak(execution="f32", gmacs=10.0, kernel="a loop"),)})
    fields = {"roofline_ms": 5.0, "peak_fraction": 0.5, "config": "eager", "source": "https://pytorch.org"}
    outside = {"scope": "benchmark_app", "benchmark_app_ms": 9.0}
    result = run(row("a/x/y", 10.0).model_copy(update=fields), row("b/x/y", 10.0).model_copy(update=outside), machine=machine)
    path = _written(tmp_path / "old.json", json.dumps(with_old_names(result)))
    assert '"floor_ms"' in path.read_text()
    with pytest.warns(
        FutureWarning, match=r"old\.json' was written by an older version, .*'floor_ms' is now 'roofline_ms'"
    ) as caught:
        assert read_result(path) == result
    for part in ("'how' is now 'config'", "'peaks.how' is now 'peaks.kernel'", "'outside' is now 'benchmark_app'"):
        assert part in str(caught[0].message)
    write_result(path, result)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_result(path) == result


def test_a_key_that_no_version_knows_is_named(tmp_path: Path) -> None:
    content = json.loads(result_json(run(row("a/x/y", 10.0))))
    content["rows"][0]["speed"] = 1.0
    with pytest.raises(UsageError, match=r"rows\.0\.speed: no such key"):
        read_result(_written(tmp_path / "r.json", json.dumps(content)))


def test_results_in_the_tree_have_present_names_only() -> None:
    folder = SCHEMA_FILE.parent / "results"
    paths = [*folder.glob("*.json"), *folder.glob("cpu/*.json")]
    assert paths
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert results.rename_keys(content) == {}, path
