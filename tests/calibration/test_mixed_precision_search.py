"""A network made to fail in int8: channels planted 200 times too large, which no fp32 answer tells of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from trained_bundle import TrainedBundle
from typer.testing import CliRunner

from blastscope.calibration.acceptance.mixed_precision_search import blocks_of, evenly_spaced
from blastscope.calibration.calibrate import calibrate
from blastscope.calibration.calibration_data import crop_cells
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.evaluation import ReferenceRunner
from blastscope.calibration.quantisation.calibrators import collect_stats
from blastscope.calibration.quantisation.qdq import equalize_layers
from blastscope.calibration.quantisation.qdq_placement import make_plan
from blastscope.calibration.quantisation.quantizer import matching_layers
from blastscope.calibration.result import CalibrationReport
from blastscope.cli import app
from blastscope.runtime.bundle import Bundle, describe_file, read_bundle, read_golden, update_bundle
from blastscope.runtime.bundle.manifest import GraphModels
from blastscope.runtime.errors import ConfigError
from blastscope.runtime.io.cnmc import scan_dataset

PLAIN = CalibrationConfig(method="minmax", cells=8, max_flip_rate=0.05, max_f1_drop_points=5, draws=50)
FACTOR, CHANNELS = 200, 2


def pairs(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Names of the first two convolutions of B and of A, which have a ReLU and nothing else between them."""
    made = {node.output[0]: node for node in model.graph.node}
    taken = [name for node in model.graph.node for name in node.input]
    found = []
    for node in model.graph.node:
        relu = made.get(node.input[0]) if node.op_type == "Conv" else None
        if relu is not None and relu.op_type == "Relu" and taken.count(relu.output[0]) == 1 == taken.count(relu.input[0]):
            found.append((made[relu.input[0]], node))
    stem = found[0][0].input[0]
    return [(first.name, second.name) for first, second in found if first.input[0] == stem]


def plant(model: onnx.ModelProto, where: list[tuple[str, str]]) -> onnx.ModelProto:
    """`model` with a few channels between each two layers made `FACTOR` times larger, which the second layer takes back."""
    grown = onnx.ModelProto.FromString(model.SerializeToString())
    arrays = {weight.name: weight for weight in grown.graph.initializer}
    nodes = {node.name: node for node in grown.graph.node}
    for first, second in where:
        names = (nodes[first].input[1], nodes[first].input[2], nodes[second].input[1])
        weight, bias, after = (numpy_helper.to_array(arrays[name]).copy() for name in names)
        largest = np.argsort(-np.abs(after).sum(axis=(0, 2, 3)))[:CHANNELS]
        weight[largest] *= FACTOR
        bias[largest] *= FACTOR
        after[:, largest] /= FACTOR
        for name, array in zip(names, (weight, bias, after), strict=True):
            arrays[name].CopyFrom(numpy_helper.from_array(array, name))
    return grown


def load_graph(bundle: Bundle, models: GraphModels = "ensemble", precision: str = "fp32") -> onnx.ModelProto:
    entry = bundle.graph(precision, models)  # type: ignore[arg-type]
    assert entry is not None
    return onnx.load(bundle.file(entry))


@pytest.fixture(scope="module")
def planted(trained_bundle: TrainedBundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A bundle of the fused graph and A alone, planted once in A and once in B; and the names of the layers that suffer."""
    place = Path(shutil.copytree(trained_bundle.path, tmp_path_factory.mktemp("planted") / "bundle"))
    bundle = read_bundle(place)
    fused, alone = load_graph(bundle), load_graph(bundle, "a")
    chosen = pairs(fused)
    assert len(chosen) == 2
    single = [(matching_layers(fused, [one], alone)[0], matching_layers(fused, [other], alone)[0]) for one, other in chosen[1:]]
    files = {"fp32/ensemble.onnx": plant(fused, chosen), "fp32/a.onnx": plant(alone, single)}
    content = {name: model.SerializeToString() for name, model in files.items()}
    entries = tuple(
        entry.model_copy(update=describe_file(content[entry.file], entry.file).model_dump())
        for entry in bundle.manifest.graphs
        if entry.file in content
    )
    update_bundle(bundle, bundle.manifest.model_copy(update={"graphs": entries}), dict(content))
    return place, [second for _, second in chosen]


@pytest.fixture(scope="module")
def mended(planted: tuple[Path, list[str]], trained_bundle: TrainedBundle) -> CalibrationReport:
    return calibrate(planted[0], trained_bundle.data, PLAIN)


def test_planted_channels_change_no_answer_in_fp32_and_ruin_int8(
    planted: tuple[Path, list[str]], trained_bundle: TrainedBundle, mended: CalibrationReport
) -> None:
    crops = read_golden(read_bundle(planted[0])).crops
    before, after = (
        ReferenceRunner(load_graph(read_bundle(path)).SerializeToString()) for path in (trained_bundle.path, planted[0])
    )
    np.testing.assert_allclose(after.probabilities(crops), before.probabilities(crops), atol=1e-5)
    assert all(not gate.passed and gate.flip_rate.value > 0.2 for gate in mended.first_gates)
    assert mended.search is not None
    assert mended.search.path[0].distance.flip_rate > 0.2


def test_the_search_finds_exactly_the_planted_layers_and_the_gate_holds(
    planted: tuple[Path, list[str]], mended: CalibrationReport
) -> None:
    place, layers = planted
    assert mended.admitted, mended.text()
    assert set(mended.recipe.floats) == set(layers)
    assert mended.search is not None
    assert {mended.search.blocks[0].layers[0], mended.search.blocks[1].layers[0]} == set(layers)
    assert [step.deed for step in mended.search.path] == ["plain", "restore", "restore", "keep", "keep"]
    assert all(gate.flip_rate.value == 0 for gate in mended.gates)
    provenance = read_bundle(place).manifest.calibration
    assert provenance is not None
    assert provenance.floats == mended.recipe.floats
    assert provenance.int8_share == mended.int8_share == pytest.approx(mended.search.path[2].int8_share)
    assert 0.7 < mended.int8_share < 1


def test_layers_that_are_named_stay_fp32_without_a_search(
    planted: tuple[Path, list[str]], mended: CalibrationReport, trained_bundle: TrainedBundle, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(planted[0], tmp_path / "bundle"))
    report = calibrate(place, trained_bundle.data, PLAIN.model_copy(update={"float_layers": mended.recipe.floats}))
    assert report.admitted, report.text()
    assert report.search is None
    assert report.recipe.floats == mended.recipe.floats
    assert report.int8_share == pytest.approx(mended.int8_share)
    assert f"stay fp32       {', '.join(mended.recipe.floats)}; " in report.text()
    with pytest.raises(ConfigError, match=r"float_layers: the graph has no layer Conv_x; it has .*"):
        calibrate(place, trained_bundle.data, PLAIN.model_copy(update={"float_layers": ("Conv_x",)}))


def test_all_other_layers_are_int8_in_fused_and_single_graphs(
    planted: tuple[Path, list[str]], mended: CalibrationReport
) -> None:
    bundle = read_bundle(planted[0])
    for models, count in (("ensemble", 2), ("a", 1)):
        child = load_graph(bundle, models, "int8")  # type: ignore[arg-type]
        made = {name: node.op_type for node in child.graph.node for name in node.output}
        plain = [
            node.name
            for node in child.graph.node
            if node.op_type == "Conv" and "DequantizeLinear" not in (made.get(node.input[0]), made.get(node.input[1]))
        ]
        mixed = [
            node.name
            for node in child.graph.node
            if node.op_type == "Conv" and (made.get(node.input[0]) == "DequantizeLinear") != (node.input[1] in made)
        ]
        assert len(plain) == count
        assert mixed == []


def test_tensorrt_takes_the_mended_graph(planted: tuple[Path, list[str]], mended: CalibrationReport, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    from blastscope.runtime.backends.tensorrt.engine_store import obtain_engine
    from blastscope.runtime.backends.tensorrt.key import EngineKey, platform_name

    assert mended.admitted
    bundle = read_bundle(planted[0])
    entry = bundle.graph("int8")
    assert entry is not None
    key = EngineKey(
        graph=entry.sha256,
        models="ensemble",
        precision="int8",
        library="tensorrt-rtx",
        version=trt.__version__,
        platform=platform_name(),
        targets=("sm86",),
    )
    assert obtain_engine(tmp_path, bundle.file(entry), key).built


def test_the_report_shows_the_way(mended: CalibrationReport, planted: tuple[Path, list[str]]) -> None:
    text = mended.text()
    for layer in planted[1]:
        assert f"restore {layer}" in text
    assert "before that, all in int8" in text
    assert "of the work in int8" in text
    assert CalibrationReport.model_validate_json(mended.model_dump_json()) == mended
    shown = CliRunner().invoke(app, ["inspect", str(planted[0])]).stdout
    assert all(layer in shown for layer in planted[1])


@pytest.mark.parametrize(
    ("bound", "stopped"),
    [
        ({"search_share": 0.0, "search_blocks": 4}, "share"),
        ({"search_minutes": 1e-9}, "time"),
        ({"search": False}, None),
    ],
)
def test_a_search_keeps_its_bounds_and_a_gate_that_fails_stays_shut(
    planted: tuple[Path, list[str]],
    trained_bundle: TrainedBundle,
    tmp_path: Path,
    bound: dict[str, object],
    stopped: str | None,
) -> None:
    place = Path(shutil.copytree(planted[0], tmp_path / "bundle"))
    report = calibrate(place, trained_bundle.data, PLAIN.model_copy(update=bound))
    assert not report.admitted
    assert report.recipe.floats == ()
    assert (report.search.stopped if report.search else None) == stopped
    assert report.text()


def test_the_method_that_drifts_least_is_taken(
    planted: tuple[Path, list[str]], trained_bundle: TrainedBundle, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(planted[0], tmp_path / "bundle"))
    one_of_18 = {"method": "auto", "max_flip_rate": 0.06}  # a vote near a tie: CPUs round otherwise
    report = calibrate(place, trained_bundle.data, PLAIN.model_copy(update=one_of_18))
    assert report.admitted, report.text()
    assert report.recipe.equalised
    assert report.recipe.floats == ()
    assert {row.recipe.method for row in report.methods} == {"minmax", "entropy", "percentile"}
    (taken,) = [row for row in report.methods if row.chosen]
    assert taken.distance.drift == min(row.distance.drift for row in report.methods)
    assert report.gates[0].cells == 24 - 24 // 4  # those that chose the method don't judge
    assert "methods tried" in report.text()


def test_equalised_channels_change_no_answer(planted: tuple[Path, list[str]], trained_bundle: TrainedBundle) -> None:
    bundle = read_bundle(planted[0])
    model = load_graph(bundle)
    crops = crop_cells(scan_dataset(trained_bundle.data).cells[:8], bundle.manifest.crop).crops
    plan = make_plan(model)
    before = collect_stats(model, plan, crops)
    level = equalize_layers(model, before.channels)
    assert level is not None
    after = collect_stats(level, plan, crops)
    answers = [ReferenceRunner(one.SerializeToString()).probabilities(crops) for one in (model, level)]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
    made = {node.name: node for node in model.graph.node}
    for layer in planted[1]:
        value = made[layer].input[0]
        spread_before, spread_after = (
            np.ptp(np.log(found.channels[value][found.channels[value] > 0])) for found in (before, after)
        )
        assert spread_after < spread_before - 2


def test_blocks_hold_every_layer_once_in_order_and_are_as_many_as_may_be(trained_bundle: TrainedBundle) -> None:
    model = load_graph(read_bundle(trained_bundle.path))
    layers = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert blocks_of(model, layers, len(layers)) == [(name,) for name in layers]
    for most in (3, 8, len(layers) - 1):
        blocks = blocks_of(model, layers, most)
        assert [name for block in blocks for name in block] == layers
        assert 2 <= len(blocks) <= most


def test_places_are_spread_evenly() -> None:
    assert evenly_spaced(10, 5) == [0, 2, 4, 6, 8]
    assert evenly_spaced(3, 48) == [0, 1, 2]
