"""Two runs side by side: what is slower beyond noise, what can't be judged, and results as files."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from typer.testing import CliRunner

from blastscope.benchmarks import results
from blastscope.benchmarks.bootstrap import change_interval, ratio_interval
from blastscope.benchmarks.comparison import compare
from blastscope.benchmarks.interleaved_timing import Turn
from blastscope.benchmarks.results import SCHEMA_FILE, merged, read_result, result_text, schema_text, write_result
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import BenchResult, Machine, Row, make_row
from blastscope.cli import app
from blastscope.runtime.errors import UsageError

MACHINE = Machine(processor="told", features=("avx2",), cores=2, system="Linux", python="3.11")


def row(name: str, level_ms: float, *, spread: float = 0.01, rounds: int = 5, others: float = 0.0) -> Row:
    rng = np.random.default_rng(int(1000 * level_ms))
    return make_row(name, 1, [Turn(level_ms * rng.normal(1, spread, 8), others) for _ in range(rounds)])


def run(*rows: Row, machine: Machine = MACHINE, **versions: str) -> BenchResult:
    return BenchResult(machine=machine, versions={"openvino": "1", **versions}, rows=rows)


def verdicts(old: BenchResult, new: BenchResult) -> dict[str, str]:
    return {change.name: change.verdict for change in compare(old, new).changes}


def test_what_is_slower_or_faster_beyond_noise_is_told_and_what_is_not_is_not() -> None:
    old = run(row("a/int8/x", 10.0), row("b/int8/x", 10.0), row("c/int8/x", 10.0), row("d/int8/x", 10.0, spread=0.3))
    new = run(row("a/int8/x", 12.0), row("b/int8/x", 8.0), row("c/int8/x", 10.1), row("d/int8/x", 10.4, spread=0.3))
    assert verdicts(old, new) == {"a/int8/x": "slower", "b/int8/x": "faster", "c/int8/x": "as before", "d/int8/x": "as before"}
    assert compare(old, new).slower
    assert not compare(new, new).slower


def test_what_others_disturbed_or_too_few_rounds_show_is_not_judged() -> None:
    old = run(row("a/x/y", 10.0), row("b/x/y", 10.0, rounds=2), row("gone/x/y", 1.0))
    new = run(row("a/x/y", 20.0, others=0.5), row("b/x/y", 20.0), row("new/x/y", 1.0))
    assert verdicts(old, new) == {"a/x/y": "busy", "b/x/y": "too few rounds", "gone/x/y": "gone", "new/x/y": "new"}
    assert not compare(old, new).slower


def test_runs_of_two_machines_are_not_compared() -> None:
    other = MACHINE.model_copy(update={"cores": 4})
    found = compare(run(row("a/x/y", 10.0)), run(row("a/x/y", 20.0), machine=other))
    assert found.changes == ()
    assert found.obstacles == ("cores: 2 then, 4 now",)


def test_versions_that_moved_are_named() -> None:
    assert compare(run(torch="2"), run(torch="3", timm="1")).notes == ("timm absent is now 1", "torch 2 is now 3")


def test_intervals_hold_the_estimate_and_narrow_with_the_spread_between_rounds() -> None:
    rng = np.random.default_rng(0)
    mood = rng.normal(1, 0.2, 6)  # slows both sides of a round alike
    slow, fast = ([level * one * rng.normal(1, 0.01, 20) for one in mood] for level in (20.0, 10.0))
    low, high = ratio_interval(slow, fast)
    assert low <= 2.0 <= high
    assert high - low < 0.1  # the rounds were drawn together, so their moods cancel
    wide = change_interval(fast, slow)
    assert wide[0] <= 2.0 <= wide[1]
    assert wide[1] - wide[0] > 0.2
    with pytest.raises(ValueError, match="as many"):
        ratio_interval(slow, fast[:2])


def test_a_result_is_one_line_a_row_and_comes_back_the_same(tmp_path: Path) -> None:
    result = run(row("a/x/y", 10.0), row("b/x/y", 10.0)).model_copy(update={"notes": ("left out: 'x'",)})
    write_result(tmp_path / "r.json", result)
    assert read_result(tmp_path / "r.json") == result
    text = result_text(result)
    assert len([line for line in text.splitlines() if '"name"' in line]) == 2
    assert set(json.loads(text)) == {"machine", "versions", "rows", "notes"}
    assert read_result(_written(tmp_path / "none.json", result_text(run()))) == run()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["{}", "not JSON", "[1]"])
def test_what_is_no_result_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="holds no result"):
        read_result(_written(tmp_path / "r.json", text))
    with pytest.raises(UsageError, match="can't be read"):
        read_result(tmp_path / "absent.json")


def test_pieces_of_a_run_become_one_result_whose_floors_are_of_the_highest_peak_seen() -> None:
    low, high = (Peak(execution="f32", gmacs=gmacs, how="told") for gmacs in (10.0, 40.0))
    facts = {"gmac": 0.2, "execution": "f32"}
    first = run(row("a/x/y", 10.0).model_copy(update=facts), machine=MACHINE.model_copy(update={"peaks": (low,)}))
    second = run(row("b/x/y", 10.0).model_copy(update={"load_s": 3.0}), machine=MACHINE.model_copy(update={"peaks": (high,)}))
    again = run(row("b/x/y", 12.0))
    found = merged([first, second, again])
    assert found.machine.peaks == (high,)
    assert [(one.name, one.floor_ms) for one in found.rows] == [("a/x/y", 5.0), ("b/x/y", None)]
    assert (found.rows[1].p50_ms, found.rows[1].load_s) == (again.rows[0].p50_ms, 3.0)
    with pytest.raises(UsageError, match="different machines"):
        merged([first, run(machine=MACHINE.model_copy(update={"cores": 4}))])
    with pytest.raises(UsageError, match="different versions"):
        merged([first, run(openvino="2")])


def test_the_schema_in_the_tree_is_in_step_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run python -m blastscope.benchmarks.results"
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(result_text(run(row("a/x/y", 1.0)))))
    assert not jsonschema.Draft202012Validator(schema).is_valid({"rows": []})
    monkeypatch.setattr(results, "SCHEMA_FILE", tmp_path / "bench.schema.json")
    results.main()
    assert (tmp_path / "bench.schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_verb_exits_1_when_something_is_slower_and_2_when_nothing_can_be_said(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.json" for name in ("old", "new", "elsewhere")}
    write_result(paths["old"], run(row("a/int8/x", 10.0)))
    write_result(paths["new"], run(row("a/int8/x", 15.0)))
    write_result(paths["elsewhere"], run(row("a/int8/x", 15.0), machine=MACHINE.model_copy(update={"processor": "another"})))

    def compared(old: str, new: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["bench", "--compare", str(paths[old]), "--measured", str(paths[new])])
        return done.exit_code, done.output

    code, text = compared("old", "new")
    assert code == 1
    assert text.startswith("something is slower\na/int8/x, batch 1: slower (")
    assert compared("new", "old")[0] == 0
    code, text = compared("old", "elsewhere")
    assert code == 2
    assert "the comparison is not valid" in text
    assert CliRunner().invoke(app, ["bench", "--measured", str(paths["old"])]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "--peers", "caffe"]).exit_code == 2
