"""Benchmarks of a model: its contenders, their labels, and what is left out. Times themselves are never tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import onnx
import pytest
from onnx_builders import reference, two_towers

from blastscope import open_bundle
from blastscope.benchmarks import baselines, model_benchmark
from blastscope.benchmarks import bench as bench_module
from blastscope.benchmarks.baselines import BaselineGraphs
from blastscope.benchmarks.bench import run_benchmark
from blastscope.benchmarks.contenders import ReferencePredictions, RuntimeConfig, open_runtime, predict_graphs
from blastscope.benchmarks.interleaved_timing import TimingConfig
from blastscope.benchmarks.model_benchmark import BenchmarkConfig
from blastscope.benchmarks.models import BenchmarkModel
from blastscope.benchmarks.results import SCHEMA_FILE, result_json
from blastscope.benchmarks.roofline import Peak
from blastscope.benchmarks.schema import BenchResult
from blastscope.runtime import bundle as bundle_module
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.types import Layout

QUICK = TimingConfig(rounds=1, min_calls=1, seconds=0.0)
PEAKS = (Peak(execution="f32", gmacs=50.0, kernel="fake"), Peak(execution="int8", gmacs=200.0, kernel="fake"))
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


@pytest.fixture
def no_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "measure_peaks", lambda threads: PEAKS)


@pytest.mark.usefixtures("no_peaks")
def test_rows_name_precision_and_engine_and_notes_what_was_left_out(tiny_bundle: Any, tmp_path: Path) -> None:
    path = tiny_bundle.make("fp32", "int8", tolerances={"fp32": {"f32": 1e-4, "bf16": 0.5}})
    model = BenchmarkModel("tiny", tmp_path, path, same_weights=True)
    result = run_benchmark([model], BenchmarkConfig(torch_baseline=False, batches=(1,), timing=QUICK))
    text = result_json(result)
    assert BenchResult.model_validate(json.loads(text)) == result
    jsonschema.validate(json.loads(text), SCHEMA)
    names = {row.name for row in result.rows}
    assert {"tiny/fp32/openvino", "tiny/int8/openvino"} <= names
    assert "tiny/fp32-bf16/openvino" in names or any("tiny/fp32-bf16/openvino" in note for note in result.notes)
    assert all(row.load_s is not None and row.load_s > 0 for row in result.rows if row.name.endswith("/openvino"))
    assert all(row.gmac == pytest.approx(row.batch * 18e-9) for row in result.rows)  # three colours to six logits
    assert all(row.peak_fraction is not None and row.threads for row in result.rows if "bf16" not in row.name)
    assert {"processor", "features", "cores"} <= set(result.machine.model_dump())


@pytest.mark.usefixtures("no_peaks")
def test_baselines_label_as_their_graphs_do_or_are_left_out_with_a_note(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_bundle.make("fp32", "int8")
    bundle = read_bundle(path)
    files = [bundle.file(entry) for entry in (bundle.graph("fp32"), bundle.graph("int8")) if entry]
    monkeypatch.setattr(model_benchmark, "baseline_graphs", lambda model, data: BaselineGraphs(*files))

    def no_compiler(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no C++ compiler was found\nand a long trace")

    monkeypatch.setattr(baselines, "separate_torch_models", no_compiler)
    monkeypatch.setattr(baselines, "fused_torch_model", no_compiler)
    config = BenchmarkConfig(False, (2,), QUICK, frameworks=baselines.FRAMEWORKS, runtime=False, cold_start=False)
    result = run_benchmark([BenchmarkModel("tiny", tmp_path, path, same_weights=True)], config)
    engines = {row.name.removeprefix("tiny/").replace("fp32-bf16", "fp32") for row in result.rows}
    assert engines == {
        *("fp32/onnxruntime", "int8/onnxruntime", "int8/onnxruntime-own-int8"),
        *(f"{precision}/openvino-plain{suffix}" for precision in ("fp32", "int8") for suffix in ("", "-throughput")),
    }
    assert all(row.config and row.source and row.source.startswith("https://") for row in result.rows)
    assert "tiny/fp32/torch-fused-compiled left out: no C++ compiler was found" in result.notes


@pytest.mark.usefixtures("no_peaks")
def test_a_cascade_is_timed_at_both_its_ends(tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = two_towers()
    monkeypatch.setattr(tiny_bundle, "graph", lambda precision="fp32", **_: graph)
    monkeypatch.setattr(tiny_bundle, "expected", lambda crops: reference(graph, crops))
    model = BenchmarkModel("towers", tmp_path, tiny_bundle.make("fp32"), same_weights=True)
    layouts: tuple[Layout, ...] = ("fused", "side-by-side")
    config = BenchmarkConfig(False, (1, 2), QUICK, threads=2, layouts=layouts, cascade=True, cold_start=False)
    result = run_benchmark([model], config)
    both = {f"towers/fp32/openvino{layout}" for layout in ("", "-staged", "-staged-first-alone")}
    names = {batch: {row.name for row in result.rows if row.batch == batch and "bf16" not in row.name} for batch in (1, 2)}
    assert names == {1: both | {"towers/fp32/openvino-side-by-side"}, 2: both}
    assert any("layout 'side-by-side' is not for throughput" in note for note in result.notes)
    alone = [row for row in result.rows if not row.runs_all_voters]
    assert alone
    assert all(row.peak_fraction is None for row in alone)  # one voter does less than the work of all of them


@pytest.mark.usefixtures("no_peaks")
def test_cells_unlike_the_training_are_labelled_in_a_benchmark(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BenchmarkModel("novel", tmp_path, bundle_with_novelty(tiny_bundle, monkeypatch), same_weights=True)
    cell = tiny_bundle.cell()
    with open_bundle(model.bundle, device="cpu") as scope:
        assert scope.classify(cell).label is None
    with open_runtime(model, RuntimeConfig("fp32", "f32", "latency", "fused", None)) as scope:
        assert scope.classify(cell).label is not None
    reference = ReferencePredictions(read_bundle(model.bundle).manifest.crop, 3)
    assert predict_graphs(model.bundle, reference)["fp32"].shape == (3, 3, 2)  # without the novelty
    result = run_benchmark([model], BenchmarkConfig(False, (2,), QUICK, layouts=("fused",), cold_start=False))
    assert "novel/fp32/openvino" in {row.name for row in result.rows}


def bundle_with_novelty(tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny bundle whose graph measures a novelty of 2 for every cell, and whose limit is 1."""
    model = onnx.load_model_from_string(tiny_bundle.graph())
    constants = {"zero": np.float32(0), "two": np.float32(2), "voters": np.array([1]), "classes": np.array([1, 2])}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), f"novelty_{name}") for name, value in constants.items()
    )
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMean", ["probabilities", "novelty_voters"], ["novelty_mean"], keepdims=1),
            onnx.helper.make_node("Mul", ["novelty_mean", "novelty_zero"], ["novelty_nothing"]),
            onnx.helper.make_node("Add", ["novelty_nothing", "novelty_two"], ["novelty_row"]),
            onnx.helper.make_node("ReduceMean", ["novelty_row", "novelty_classes"], ["novelty"], keepdims=0),
            onnx.helper.make_node("Concat", ["probabilities", "novelty_row"], ["answers"], axis=1),
        ]
    )
    shapes: dict[str, list[str | int]] = {"novelty": ["N"], "answers": ["N", 4, 2]}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    monkeypatch.setattr(tiny_bundle, "graph", lambda **_: model.SerializeToString())
    golden_type = bundle_module.Golden
    monkeypatch.setattr(
        bundle_module,
        "Golden",
        lambda crops, probabilities: golden_type(crops, probabilities, np.full(len(crops), 2, np.float32)),
    )
    sets = {"level": 0.9, "hem": 0.1, "all": 0.1, "hem_coverage": 0.9, "all_coverage": 0.9, "both": 0.1}
    scores = {name: {"value": 0.9, "low": 0.8, "high": 1.0} for name in ("weighted_f1", "auroc", "sensitivity", "specificity")}
    people = {"cells": 9, "hem_people": 3, "all_people": 3, **scores}
    novelty = {"limit": 1.0, "quantile": 0.99, "refused": 0.01}
    uncertainty = {"temperature": 1.0, "calibration_error": 0.05, "sets": sets, "novelty": novelty, **people}
    path: Path = tiny_bundle.make("fp32", format="1.2", measures_novelty=True, uncertainty=uncertainty)
    return path


def test_every_baseline_has_a_configuration() -> None:
    task = baselines.BaselineTask(
        Path("run"), {f"fp32/{name}": Path("x") for name in ("onnxruntime", "openvino-plain")}, None, 1
    )  # type: ignore[arg-type]
    many = baselines.BaselineTask(task.run, task.graphs, task.spec, 8)
    found = [pair for one in (task, many) for name in baselines.FRAMEWORKS for pair in baselines.baseline_factories(name, one)]
    assert {*(name.split("/")[1] for name, _ in found), "onnxruntime-own-int8"} == set(baselines.BASELINE_CONFIGS)
