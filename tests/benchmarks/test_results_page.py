"""The page and the plots of a result; the reports of the suite and of benchmark_app as rows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blastscope.benchmarks import openvino_benchmark_app, pytest_rows
from blastscope.benchmarks.baselines import BASELINE_CONFIGS
from blastscope.benchmarks.interleaved_timing import Round
from blastscope.benchmarks.native import in_own_section
from blastscope.benchmarks.openvino_benchmark_app import run_benchmark_app
from blastscope.benchmarks.results import merge_results, read_result, write_result
from blastscope.benchmarks.results_page import is_runtime_row, machine_slug, main, publish, write_page
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import BenchResult, Machine, Row, make_row
from blastscope.runtime.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]
PEAK = Peak(execution="int8", gmacs=150.0, kernel="a loop")
MACHINE = Machine(processor="Some (R) CPU @ 2 GHz", features=("avx2",), cores=2, system="Linux", python="3.11", peaks=(PEAK,))


def rounds_of(level_ms: float, share: float = 0.0) -> list[Round]:
    rng = np.random.default_rng(int(level_ms))
    return [Round(level_ms * rng.normal(1, 0.05, 20), share) for _ in range(4)]


@pytest.fixture
def result() -> BenchResult:
    baseline = rounds_of(100.0)
    fields = {"gmac": 0.6, "execution": "int8", "roofline_ms": 4.0, "peak_fraction": 0.4, "threads": 2}
    onnxruntime = BASELINE_CONFIGS["onnxruntime"]
    rows: list[Row] = [
        make_row("net/fp32/torch", 1, baseline, baseline).model_copy(update={"load_s": 5.5}),
        make_row("net/int8/openvino", 1, rounds_of(10.0), baseline).model_copy(update=fields),
        make_row("net/int8/onnxruntime", 1, rounds_of(20.0, share=0.4), baseline).model_copy(
            update={**fields, "config": onnxruntime.config, "source": onnxruntime.source}
        ),
        make_row("net/int8/openvino", 1, rounds_of(9.0)).model_copy(update={"scope": "benchmark_app", "benchmark_app_ms": 9.5}),
    ]
    return BenchResult(machine=MACHINE, versions={"openvino": "1"}, rows=tuple(rows), notes=("net/bf16 left out",))


def test_the_page_has_ratios_rooflines_sources_and_busy_rows(tmp_path: Path, result: BenchResult) -> None:
    path = publish(result, tmp_path)
    assert path.name == "some-r-cpu-2-ghz-avx2-2-cores.json"
    assert read_result(path) == result
    page = (tmp_path / "RESULTS.md").read_text()
    assert "### Some (R) CPU @ 2 GHz, AVX2, 2 cores" in page
    assert "int8 peak, measured in the same run: 150 GMAC/s (a loop)" in page
    assert "**Other processes disturbed 1 of 4 rows**" in page
    ours = next(line for line in page.splitlines() if line.startswith("| `int8/openvino`"))
    assert f"{result.rows[1].ratio:.2f} (" in ours
    assert "40%" in ours
    assert "busy: other processes took up to 40%" in page
    assert f"<{BASELINE_CONFIGS['onnxruntime'].source}>" in page
    assert "| 9.50 |" in page
    assert "- net/bf16 left out" in page
    assert "## On GPUs" in page
    assert page.count("\n\n\n") == 0


def test_the_plots_show_something_and_are_named_on_the_page(tmp_path: Path, result: BenchResult) -> None:
    publish(result, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    for name in ("latency", "comparison"):
        file = f"results/{machine_slug(result)}-{name}.png"
        assert f"]({file})" in page
        plot = cv2.imread(str(tmp_path / file))
        assert plot is not None
        assert plot.std() > 10


def test_rows_of_the_runtime_are_distinguished_from_baselines(result: BenchResult) -> None:
    assert [is_runtime_row(row) for row in result.rows[:3]] == [False, True, False]


def test_the_page_is_made_of_several_results(tmp_path: Path, result: BenchResult) -> None:
    for number, row in enumerate(result.rows):
        write_result(tmp_path / f"{number}.json", result.model_copy(update={"rows": (row,)}))
    assert main(["--out", str(tmp_path / "out"), *(str(tmp_path / f"{number}.json") for number in range(4))]) == 0
    found = read_result(next((tmp_path / "out" / "results" / "cpu").iterdir()))
    assert [(row.scope, row.name, row.p50_ms) for row in found.rows] == [
        (row.scope, row.name, row.p50_ms) for row in result.rows
    ]
    assert found.notes == result.notes


def native_run() -> BenchResult:
    rows = [
        make_row(f"net/int8/{engine}", 1, rounds_of(level)).model_copy(update={"load_s": load_s, "peak_mib": peak_mib})
        for engine, level, load_s, peak_mib in (("openvino", 30.0, 1.0, 160.0), ("libblastscope", 27.0, 0.2, 80.0))
    ]
    return BenchResult(machine=MACHINE, versions={"openvino": "1"}, rows=tuple(in_own_section(rows)))


def served_run() -> BenchResult:
    def row(name: str, scope: str, batch: int, *levels: float) -> Row:
        rounds = [Round(np.array([level])) for level in levels]
        return make_row(f"net/int8/{name}", batch, rounds).model_copy(update={"scope": scope, "notes": ("8 clients",)})

    rows = (
        row("classify_many", "served", 400, 2000, 2000, 2000).model_copy(update={"cpu_ms": 9.0}),
        row("grpc", "served", 400, 2500, 2500, 2500).model_copy(update={"cpu_ms": 10.0, "client_cpu_ms": 1.25}),
        row("http", "served", 400, 4000, 4000, 4000),
        row("http", "request", 1, 40, 50, 60),
        row("grpc", "request", 1, 40, 50, 60),
    )
    return BenchResult(machine=MACHINE, versions={"openvino": "1"}, rows=rows)


def test_runs_of_libblastscope_and_the_server_leave_the_ratios_to_pytorch(tmp_path: Path, result: BenchResult) -> None:
    publish(merge_results([result]), tmp_path)
    before = (tmp_path / "RESULTS.md").read_text()
    for name, run in (("native", native_run()), ("served", served_run())):
        write_result(tmp_path / f"{name}.json", run)
        assert main([str(tmp_path / f"{name}.json"), "--add", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    assert not {line for line in before.splitlines() if "rows**" not in line} - set(page.splitlines())  # nothing went
    ours = next(line for line in page.splitlines() if line.startswith("| `int8/openvino`"))
    assert f"{result.rows[1].ratio:.2f} (" in ours
    native = next(line for line in page.splitlines() if line.startswith("| `net/int8` |"))
    assert "| 0.20 | 0.20 | 80 | 0.50 |" in native
    assert 0.85 < float(native.split("|")[6].split("(")[0]) < 0.95
    served = next(line for line in page.splitlines() if line.startswith("| `net/int8/grpc`"))
    assert served == "| `net/int8/grpc` | 8 clients | 160.0 | 200.0 | 0.80 (0.80 to 0.80) | 9.00 | 10.00 | 1.25 | 50.0 | 59.8 |"
    of_an_older_run = next(line for line in page.splitlines() if line.startswith("| `net/int8/http`"))
    assert of_an_older_run == "| `net/int8/http` | 8 clients | 100.0 | 200.0 | 0.50 (0.50 to 0.50) | 9.00 |  |  | 50.0 | 59.8 |"
    assert page.count("\n\n\n") == 0


def test_a_first_run_may_be_of_the_server_alone(tmp_path: Path) -> None:
    write_result(tmp_path / "served.json", served_run())
    assert main([str(tmp_path / "served.json"), "--add", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    assert "#### served" in page
    assert ".png" not in page


def test_results_of_cpus_in_the_tree_are_read() -> None:
    for path in (ROOT / "benchmarks" / "results" / "cpu").glob("*.json"):
        found = read_result(path)
        assert path.stem == machine_slug(found)
        drawn = any(row.scope == "pixels" for row in found.rows)
        for name in ("latency", "comparison") if drawn else ():
            assert (ROOT / "benchmarks" / "results" / f"{path.stem}-{name}.png").exists()


def test_a_page_without_results_says_so(tmp_path: Path) -> None:
    write_page(tmp_path / "RESULTS.md", tmp_path)
    assert "No CPU has been measured yet" in (tmp_path / "RESULTS.md").read_text()


def test_the_suites_report_becomes_rows(tmp_path: Path) -> None:
    info = {"scope": "network", "name": "net/int8/openvino", "batch": 8, "gmac": 4.8, "execution": "int8"}
    report = {
        "benchmarks": [
            {"extra_info": {**info, "other_cpu_share": 0.5, "started_busy": False}, "stats": {"data": [0.001, 0.003, 0.002]}},
            {
                "extra_info": {"scope": "cold", "name": "net", "batch": 1, "samples_ms": [900.0, 700.0]},
                "stats": {"data": [9.0]},
            },
            {"extra_info": {}, "stats": {"data": [1.0]}},
        ]
    }
    (tmp_path / "report").write_text(json.dumps(report))
    assert pytest_rows.main([str(tmp_path / "report"), str(tmp_path / "rows.json")]) == 0
    network, cold = read_result(tmp_path / "rows.json").rows
    assert (network.scope, network.batch, network.calls, network.p50_ms, network.busy) == ("network", 8, 3, 2.0, True)
    assert network.cells_per_second == 4000.0
    assert (cold.p50_ms, cold.max_ms) == (800.0, 900.0)


def test_benchmark_apps_median_is_read_from_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[str] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        arguments[:] = command
        folder = Path(command[command.index("-report_folder") + 1])
        (folder / "benchmark_report.json").write_text(json.dumps({"execution_results": {"latency (ms)": "12.34"}}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(openvino_benchmark_app, "usable_threads", lambda: 4)
    shape = [1, 16, 16, 3]
    assert run_benchmark_app(tmp_path / "g.onnx", shape, "int8", seconds=0.2, threads=None) == 12.34
    assert arguments[arguments.index("-shape") + 1] == "crops[1,16,16,3]"
    assert arguments[arguments.index("-hint") + 1] == "latency"
    run_benchmark_app(tmp_path / "g.onnx", shape, "f32", seconds=2, threads=2)
    assert arguments[arguments.index("-hint") + 1] == "none"  # its rule: no hint beside a number of threads
    assert arguments[arguments.index("-nthreads") + 1] == "2"

    def fail(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "[ ERROR ] no such model\n", "")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(EngineError, match="no such model"):
        run_benchmark_app(tmp_path / "g.onnx", shape, "f32", seconds=2, threads=None)


def test_results_of_two_machines_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = served_run()
    for name, system in (("one", "Linux-1"), ("two", "Linux-2")):
        write_result(
            tmp_path / f"{name}.json", run.model_copy(update={"machine": run.machine.model_copy(update={"system": system})})
        )
    assert main([str(tmp_path / "one.json"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    capsys.readouterr()
    assert main([str(tmp_path / "two.json"), "--add", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "RESULTS.md").read_text() == page
