"""`make gpu-check`: without a GPU it says so; on a simulated one it measures, compares and says what it left out."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from host_backend import HostRunner
from host_gpu import FOUND, HostGpu
from host_kernels import HostKernels

from blastscope.benchmarks.gpu import baselines, check, engines, steps
from blastscope.benchmarks.gpu import subprocess_runner as build_deps
from blastscope.benchmarks.gpu.steps import NoNetwork, compare_crops
from blastscope.benchmarks.gpu.subprocess_runner import RESTART_EXIT_CODE, read_findings, run_isolated
from blastscope.benchmarks.gpu_schema import Findings, GpuCheck, GpuRow, gpu_section
from blastscope.benchmarks.interleaved_timing import TimingConfig
from blastscope.benchmarks.models import BenchmarkModel
from blastscope.benchmarks.results_page import write_page
from blastscope.benchmarks.schema import describe_machine
from blastscope.runtime.backends.nvidia import batch_executor
from blastscope.runtime.backends.nvidia.engine_factory import PixelPipeline
from blastscope.runtime.backends.protocol import GPU_BACKENDS
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.cuda import pycuda_device
from blastscope.runtime.cuda.driver import DriverInfo
from blastscope.runtime.errors import DriverError, MissingLibrary
from blastscope.runtime.inference import device_selection

ROOT = Path(__file__).resolve().parents[3]


class Absent:
    def executions(self, device: str) -> Any:
        raise MissingLibrary("tensorrt", "tensorrt")


def test_without_a_gpu_it_exits_4_and_the_page_has_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(ordinal: int) -> Any:
        raise DriverError("no NVIDIA driver is installed", reason="missing")

    monkeypatch.setattr(check, "find_gpu", none)
    assert check.main(["--out", str(tmp_path)]) == 4
    assert "nothing can be measured here: no NVIDIA driver is installed" in capsys.readouterr().err
    assert "No GPU has been measured yet" in (tmp_path / "RESULTS.md").read_text()
    assert not list(tmp_path.rglob("*.json"))


def test_the_page_in_the_tree_is_made_of_its_results(tmp_path: Path) -> None:
    write_page(tmp_path / "RESULTS.md", ROOT / "benchmarks" / "results")
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text() == (tmp_path / "RESULTS.md").read_text()


@pytest.fixture
def gpu(host_kernels: HostKernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HostGpu:
    module = ModuleType("libraries_on_the_host")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.HOST, module.NONE = HostRunner(), Absent()  # type: ignore[attr-defined]
    for name in GPU_BACKENDS:
        monkeypatch.setitem(GPU_BACKENDS, name, f"{module.__name__}:{'HOST' if name == 'tensorrt' else 'NONE'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(device_selection, "find_gpu", lambda ordinal: FOUND)
    monkeypatch.setattr(check, "probe", lambda: DriverInfo((13, 0), "580.1", (FOUND,)))
    # small crops: the kernels are slow on the host, and tests/runtime/cuda has them at every side
    monkeypatch.setitem(steps.SPECIFICATIONS, "fit", CropSpecification(side_px=48))
    monkeypatch.setitem(steps.SPECIFICATIONS, "keep", CropSpecification(side_px=48, scale="keep", window_px=96))
    monkeypatch.setattr(batch_executor, "USUAL_PX", 100)
    monkeypatch.setattr(PixelPipeline.__init__, "__kwdefaults__", {"batches": (1, 2)})
    monkeypatch.setattr(engines, "require_torch", lambda ordinal: (_ for _ in ()).throw(DriverError("PyTorch has no CUDA")))
    return HostGpu(host_kernels.launch)


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(
        batch=[1, 2], rounds=1, seconds=0.0, data=None, network=["tiny"], out=tmp_path / "out", gpu=0, wheelhouse=tmp_path
    )


@pytest.fixture
def tiny(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    model = BenchmarkModel("tiny", tmp_path, tiny_bundle.make("fp32"), same_weights=True)
    for module in (check, steps):
        monkeypatch.setattr(module, "prepare_model", lambda name, data: model)
    monkeypatch.setattr(
        steps, "load_images", lambda data, count: [tiny_bundle.cell(seed, size_px=70 + seed) for seed in range(count or 3)]
    )
    return tiny_bundle


def run_here(gpu: HostGpu, options: argparse.Namespace, built: dict[str, str] | None = None) -> GpuCheck:
    """The check with its steps in this process."""
    timing = TimingConfig(rounds=1, min_calls=1, seconds=0.0)
    config = engines.GpuBenchmarkConfig(tuple(options.batch), timing, cells=3)
    runner = steps.StepRunner(gpu, config, None)
    return check.run_check(FOUND, built or {}, options, lambda names: map(runner.run, names))


def test_what_runs_is_measured_and_what_does_not_says_why(gpu: HostGpu, tiny: Any, options: argparse.Namespace) -> None:
    result = run_here(gpu, options, {"pycuda": "fake"})
    assert result.passed
    assert [one.different for one in result.crops] == [0, 0]
    crops = [row for row in result.rows if row.scope == "crop"]
    assert {row.engine for row in crops} == {
        "OpenCV on the CPU", "kernels, from host memory", "kernels, from device memory", "kernels, the recorded work alone",
    }  # fmt: skip
    assert {row.batch for row in crops} == {1, 2}
    assert all(row.p50_ms and (row.ratio or row.engine.startswith("OpenCV")) for row in crops)
    ours = [row for row in result.rows if row.engine == "fp32/tensorrt"]
    assert {(row.scope, row.batch) for row in ours} == {(scope, batch) for scope in ("engine", "pixels") for batch in (1, 2)}
    assert all(row.p50_ms and row.per_second and row.ratio is None and row.problem is None for row in ours)
    (agreement,) = result.agreements
    assert agreement.difference is not None
    assert agreement.difference < 1e-5
    assert (agreement.flips, agreement.refusals_alike) == (0, True)
    empty = {row.engine: row.problem for row in result.rows if row.p50_ms is None}
    assert empty["fp32/tensorrt-rtx"] == "'tensorrt' is not installed: pip install 'blastscope[tensorrt]'"
    assert empty[baselines.TORCH_BASELINE] == empty[baselines.TORCH_COMPILED] == "PyTorch has no CUDA"
    assert gpu.idle

    check.publish_gpu_results(result, options.out)
    (file,) = (options.out / "results").iterdir()
    assert file.name == f"host-gpu-{result.date}.json"
    assert GpuCheck.model_validate_json(file.read_text()) == result
    page = (options.out / "RESULTS.md").read_text()
    assert "## Host GPU" in page
    assert "| tiny | fp32/tensorrt | 2 |" in page
    assert "identical in every byte" in page
    assert "No GPU has been measured yet" not in page


def test_ratios_are_of_the_baseline_in_the_same_rounds(
    gpu: HostGpu, tiny: Any, options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "require_torch", lambda ordinal: "Host GPU")
    monkeypatch.setattr(engines, "separate_torch_models", lambda run, device_name: tiny.expected)
    monkeypatch.setattr(engines, "with_host_crop", lambda infer, spec: lambda images: ["all"] * len(images))
    rows = run_here(gpu, options).rows
    ours = [row for row in rows if row.engine == "fp32/tensorrt"]
    assert all(row.ratio and row.baseline == baselines.TORCH_BASELINE for row in ours)
    baseline = [row for row in rows if row.engine == baselines.TORCH_BASELINE]
    assert len(baseline) == 4  # once a scope and batch, however many engines were timed beside it
    assert all(row.p50_ms and row.ratio is None for row in baseline)


def test_a_part_that_fails_is_reported_and_the_rest_goes_on(
    gpu: HostGpu, tiny: Any, options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def misnamed(*wanted: object) -> Any:
        raise AttributeError("module 'pycuda.driver' has no attribute 'memcpy'")

    def full(crops: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(steps, "compare_crops", misnamed)
    monkeypatch.setattr(engines, "require_torch", lambda ordinal: "Host GPU")
    monkeypatch.setattr(engines, "separate_torch_models", lambda run, device_name: full)
    result = run_here(gpu, options)
    assert not result.passed
    assert [check.problem for check in result.crops] == ["AttributeError: module 'pycuda.driver' has no attribute 'memcpy'"] * 2
    ours = [row for row in result.rows if row.engine == "fp32/tensorrt"]
    assert len(ours) == 4
    assert {row.problem for row in ours} == {"measured without the baseline: RuntimeError: CUDA out of memory"}
    assert all(row.p50_ms and row.ratio is None for row in ours)
    assert "Traceback" in capsys.readouterr().err
    check.publish_gpu_results(result, options.out)
    assert "**not compared**: AttributeError" in (options.out / "RESULTS.md").read_text()
    assert gpu.idle


STEPS = f"""
    import json, os, sys, threading
    into, *steps = sys.argv[1:]
    def write(line):
        with open(into, "a") as stream:
            stream.write(line + chr(10))
    if "unlucky" in steps[0]:
        sys.exit("no GPU can be opened: it is busy")
    for step in steps:
        write("begin " + step)
        if "crash" in step:
            os.abort()
        if "hang" in step:
            threading.Event().wait()
        write(json.dumps(dict(rows=[dict(network="n", scope="engine", engine=step, batch=1, p50_ms=os.getpid())])))
        if "lose" in step:
            sys.exit({RESTART_EXIT_CODE})
"""


def test_a_step_that_crashes_its_process_costs_no_other_step(capsys: pytest.CaptureFixture[str]) -> None:
    def command(left: Any, into: Path) -> list[str]:
        return [sys.executable, "-c", textwrap.dedent(STEPS), str(into), *left]

    def failure(step: str, problem: str) -> Findings:
        return Findings(rows=(GpuRow(network="n", scope="engine", engine=step, batch=1, problem=problem),))

    wanted = ["one", "lose", "two", "crash", "three", "hang", "four"]
    found = [row for one in run_isolated(wanted, command, failure, step_timeout_s=1.5) for row in one.rows]
    assert [row.engine for row in found] == wanted
    problems = {row.engine: row.problem for row in found if row.problem}
    assert problems == {"crash": "the process was ended by SIGABRT", "hang": "no output for 2 s: the process was killed"}
    processes = [row.p50_ms for row in found if row.p50_ms]
    assert len(set(processes)) == 4  # a new one after each that crashed, and none without need
    assert processes[0] == processes[1]
    all_of_them = list(run_isolated(["unlucky", "two"], command, failure, step_timeout_s=30.0))
    reason = "the process ended with 1: no GPU can be opened: it is busy"
    assert [(row.engine, row.problem) for one in all_of_them for row in one.rows] == [("unlucky", reason), ("two", reason)]


def test_the_child_writes_findings_and_ends_when_the_gpu_is_lost(
    gpu: HostGpu, tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pycuda_device, "open_gpu", lambda ordinal: gpu)
    arguments = ["--batch", "1", "--rounds", "1", "--seconds", "0", "--into", str(tmp_path / "found")]
    steps_wanted = ["crop keep", "tiny fp32/tensorrt-rtx"]
    step_arguments = [word for step in steps_wanted for word in ("--step", step)]
    assert check.main([*arguments, *step_arguments]) == 0
    begun, found = read_findings(tmp_path / "found")
    assert begun == steps_wanted
    assert [len(one.crops) for one in found] == [1, 0]
    assert {row.problem for row in found[1].rows if row.engine == "fp32/tensorrt-rtx"} == {
        "'tensorrt' is not installed: pip install 'blastscope[tensorrt]'"
    }
    gpu.lost = True
    (tmp_path / "found").unlink()
    assert check.main([*arguments, *step_arguments]) == RESTART_EXIT_CODE
    begun, found = read_findings(tmp_path / "found")
    assert begun == steps_wanted[:1]
    assert "the GPU was lost" in str(found[0].crops[0].problem)


def test_kernels_with_other_crops_than_opencv_fail_the_check(gpu: HostGpu, tiny: Any, host_kernels: HostKernels) -> None:
    spec = CropSpecification(side_px=16)
    images = [tiny.cell(seed) for seed in range(3)] + [np.zeros((20, 20, 3), np.uint8)]
    good = PixelPipeline("crop", gpu, NoNetwork(), spec)
    assert compare_crops(good, images, spec, "drawn").different == 0
    wrong = PixelPipeline("crop", gpu, NoNetwork(), spec.model_copy(update={"erosion_px": 3, "grow_back": False}))
    assert compare_crops(wrong, images, spec, "drawn").different == 3


def test_pycuda_is_built_only_from_what_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise build_deps.PackageNotFoundError(name)

    monkeypatch.setattr(build_deps, "version", absent)
    assert "no pycuda-*.tar.gz" in build_deps.build_pycuda(tmp_path, tmp_path / "built")
    (tmp_path / "pycuda-2026.1.tar.gz").touch()
    monkeypatch.setattr(build_deps, "_cuda_root", lambda: None)
    assert "no CUDA headers" in build_deps.build_pycuda(tmp_path, tmp_path / "built")
    monkeypatch.setattr(build_deps, "_cuda_root", lambda: tmp_path)
    assert "could not be built from " in build_deps.build_pycuda(tmp_path, tmp_path / "built")  # it is no archive


def test_the_kernels_are_compiled_again_where_nvcc_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_deps.shutil, "which", lambda name: None)
    assert build_deps.rebuild_kernels() == "as shipped; no nvcc here to compile them"
    record = build_deps.read_record()
    monkeypatch.setattr(build_deps.shutil, "which", lambda name: "nvcc")
    monkeypatch.setattr(build_deps, "nvcc_version", lambda: record.nvcc)
    monkeypatch.setattr(build_deps, "compiled_bytes", lambda place: b"other")
    assert "**other bytes than are shipped**" in build_deps.rebuild_kernels()


def test_results_in_the_tree_are_those_of_a_gpu() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        found = GpuCheck.model_validate(json.loads(path.read_text()))
        assert found.gpu != FOUND.name
        assert "paper" not in found.gpu.lower()


def test_the_old_name_of_the_step_timeout_is_accepted_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert check._parser().parse_args([]).step_timeout == 1800.0
    assert check._parser().parse_args(["--step-timeout", "7"]).step_timeout == 7.0
    assert capsys.readouterr().err == ""
    assert check._parser().parse_args(["--patience", "7"]).step_timeout == 7.0
    assert "--patience is deprecated and will be removed in the next version: use --step-timeout" in capsys.readouterr().err


def test_a_gpu_result_with_old_names_is_read_with_a_warning(tmp_path: Path) -> None:
    rows = [GpuRow(network="n", scope="engine", engine="fp32/tensorrt", batch=1, p50_ms=2.5, ratio=4.0, baseline="PyTorch")]
    facts = {"date": "2026-11-23", "gpu": "Some GPU", "capability": "8.6", "driver": "580.1", "cuda": "13.0"}
    result = GpuCheck(
        **facts, machine=describe_machine(), versions={}, built={}, crops=(), agreements=(), rows=tuple(rows), notes=()
    )
    text = result.model_dump_json().replace('"scope"', '"what"').replace('"baseline"', '"peer"')
    (tmp_path / "some-gpu.json").write_text(text)
    with pytest.warns(FutureWarning, match="'what' is now 'scope', 'peer' is now 'baseline'"):
        page = gpu_section(tmp_path)
    assert "| n | fp32/tensorrt | 1 | 2.500 |" in page
    assert "| 4.0 |" in page
