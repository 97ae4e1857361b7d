"""`blastscope bench`: comparing result files, wrong options, and old names of options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from blastscope.benchmarks import bench as bench_module
from blastscope.benchmarks import models
from blastscope.benchmarks.interleaved_timing import Round, TimingConfig
from blastscope.benchmarks.model_benchmark import BenchmarkConfig
from blastscope.benchmarks.results import read_result, result_json, write_result
from blastscope.benchmarks.schema import BenchResult, Machine, make_row
from blastscope.cli import app, options

MACHINE = Machine(processor="fake", features=("avx2",), cores=2, system="Linux", python="3.11")


def result(level_ms: float, *, processor: str = "fake") -> BenchResult:
    rng = np.random.default_rng(int(level_ms))
    row = make_row("a/int8/x", 1, [Round(level_ms * rng.normal(1, 0.01, 8), 0.0) for _ in range(5)])
    machine = MACHINE.model_copy(update={"processor": processor})
    return BenchResult(machine=machine, versions={"openvino": "1"}, rows=(row,))


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[BenchmarkConfig]:
    """The configurations of the runs that `bench` starts; none of them measures anything."""
    found: list[BenchmarkConfig] = []

    def run(prepared: Any, config: BenchmarkConfig) -> BenchResult:
        found.append(config)
        return result(10.0)

    monkeypatch.setattr(models, "prepare_model", lambda network, data: network)
    monkeypatch.setattr(bench_module, "run_benchmark", run)
    return found


def test_it_exits_1_when_a_row_is_slower_and_2_when_nothing_is_judged(tmp_path: Path) -> None:
    old, new, elsewhere = (tmp_path / f"{name}.json" for name in ("old", "new", "elsewhere"))
    write_result(old, result(10.0))
    write_result(new, result(15.0))
    write_result(elsewhere, result(15.0, processor="another"))
    slower = bench("--compare", old, "--result", new)
    assert slower.exit_code == 1
    assert slower.output.startswith("something is slower\na/int8/x, batch 1: slower (")
    assert bench("--compare", new, "--result", old).exit_code == 0
    invalid = bench("--compare", old, "--result", elsewhere)
    assert invalid.exit_code == 2
    assert "the comparison is not valid" in invalid.output
    assert bench("--result", old).exit_code == 2
    assert bench("--framework", "caffe").exit_code == 2


def test_options_become_the_configuration_of_the_run(configs: list[BenchmarkConfig], tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    named = ["--baseline", "none", "--framework", "all", "--batch", "2", "--rounds", "3", "--calls", "1", "--seconds", "0"]
    named += ["--idle-timeout", "1", "--benchmark-app", "--no-cold-start", "--no-runtime", "--layout", "fused", "--cascade"]
    assert bench(*named, "--threads", "2", "--output", out).exit_code == 0
    (config,) = configs
    assert config == BenchmarkConfig(
        torch_baseline=False,
        batches=(2,),
        timing=TimingConfig(rounds=3, min_calls=1, seconds=0.0, idle_timeout_s=1.0),
        threads=2,
        frameworks=("torch", "torch-compiled", "onnxruntime", "openvino"),
        runtime=False,
        layouts=("fused",),
        cascade=True,
        cold_start=False,
        benchmark_app=True,
        data=config.data,
    )
    assert read_result(out).rows[0].name == "a/int8/x"


def test_old_names_of_options_are_accepted_with_a_warning_on_stderr(configs: list[BenchmarkConfig], tmp_path: Path) -> None:
    present = ["--baseline=none", "--framework", "openvino", "--idle-timeout", "2", "--benchmark-app", "--no-cold-start"]
    old = ["--against=none", "--peers", "openvino", "--patience", "2", "--outside", "--no-cold"]
    path = tmp_path / "result.json"
    assert bench(*present, "--no-runtime", "--output", path, "--json").stderr == ""
    found = bench(*old, "--no-own", "--keep", path, "--json")
    assert found.exit_code == 0
    assert configs[0] == configs[1]
    assert json.loads(found.stdout) == json.loads(path.read_text())
    for name in (*(one.partition("=")[0] for one in old if one.startswith("--")), "--no-own", "--keep"):
        new = options.RENAMED_OPTIONS["bench"][name]
        assert f"{name} is deprecated and will be removed in the next version: use {new}\n" in found.stderr
    compared = bench("--compare", path, "--measured", path)
    assert compared.exit_code == 0
    assert "--measured is deprecated" in compared.stderr


def test_every_present_name_is_an_option_and_no_old_one_is_shown() -> None:
    shown = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "200"}).output
    for old, new in options.RENAMED_OPTIONS["bench"].items():
        assert f"{new} " in shown
        assert f"{old} " not in shown


def test_old_keys_in_a_result_are_said_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(result_json(result(10.0)).replace('"scope"', '"what"'))
    compared = bench("--compare", path, "--result", path)
    assert compared.exit_code == 0
    assert compared.stderr == (
        f"'{path}' was written by an older version, and the next version won't read its names: 'what' is now 'scope'\n" * 2
    )
