"""How libblastscope's rows compare with the Python runtime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blastscope.benchmarks.interleaved_timing import Round
from blastscope.benchmarks.native import compare_with_python, in_own_section, main
from blastscope.benchmarks.results import write_result
from blastscope.benchmarks.schema import BenchResult, Machine, Row, make_row

MACHINE = Machine(processor="a", features=(), cores=2, system="Linux", python="3.11")


def row(engine: str, level_ms: float, load_s: float, peak_mib: float) -> Row:
    rounds = [Round(np.full(10, level_ms)) for _ in range(3)]
    return make_row(f"shipped/fp32/{engine}", 1, rounds).model_copy(update={"load_s": load_s, "peak_mib": peak_mib})


def result(*native: float) -> BenchResult:
    rows = (row("openvino", 10, 1, 200), row("openvino-side-by-side", 5, 1, 200), row("libblastscope", *native))
    return BenchResult(machine=MACHINE, versions={}, rows=rows)


def test_a_row_within_the_limits_is_kept_and_the_same_graph_is_compared() -> None:
    ((text, kept),) = compare_with_python(result(9.5, 0.25, 100))
    assert kept
    assert "image to label 0.950 of Python's median (95 %: 0.950 to 0.950, at most 0.97)" in text
    assert "process start to first label 0.25 (at most 0.5); peak memory 0.50 (at most 0.7)" in text


@pytest.mark.parametrize("native", [(9.8, 0.25, 100), (9.5, 0.6, 100), (9.5, 0.25, 150)])
def test_each_limit_that_is_missed_gives_exit_code_1(tmp_path: Path, native: tuple[float, ...]) -> None:
    write_result(tmp_path / "result.json", result(*native))
    assert main([str(tmp_path / "result.json")]) == 1


def test_a_run_without_pytorch_is_compared_in_its_own_section_too() -> None:
    found = result(9.5, 0.25, 100)
    apart = found.model_copy(update={"rows": tuple(in_own_section(found.rows))})
    assert {one.scope for one in apart.rows} == {"native"}
    assert compare_with_python(apart) == compare_with_python(found)


def test_a_result_without_libblastscope_is_no_success(tmp_path: Path) -> None:
    found = result(9.5, 0.25, 100)
    write_result(tmp_path / "result.json", found.model_copy(update={"rows": found.rows[:2]}))
    assert main([str(tmp_path / "result.json")]) == 2
