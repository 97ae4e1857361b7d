"""From a bundle and cells to int8 in the bundle, or to a refusal that says why."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from trained_bundle import VALIDATION, TrainedBundle, trained_networks
from typer.testing import CliRunner

from blastscope.calibration.calibrate import calibrate, check_writable
from blastscope.calibration.cascade import run as cascade_module
from blastscope.calibration.cascade.report import CascadeReport, write_report
from blastscope.calibration.cascade.run import calibrate_cascade
from blastscope.calibration.cascade.threshold_selection import clopper_pearson_upper
from blastscope.calibration.compare import compare_engines
from blastscope.calibration.config import CalibrationConfig, CascadeConfig, OperatingPointConfig
from blastscope.calibration.evaluation import CellPredictions, ReferenceRunner
from blastscope.calibration.quantisation.qdq_placement import count_macs, voter_mac_share
from blastscope.calibration.quantisation.quantizer import Int8Builder
from blastscope.calibration.result import CalibrationReport
from blastscope.cli import app
from blastscope.export.exporter import export_run
from blastscope.export.onnx_writer import ExportConfig
from blastscope.runtime.bundle import Bundle, pack, read_bundle, read_golden, update_bundle
from blastscope.runtime.errors import BundleError, DataError, DeviceError, UsageError
from blastscope.runtime.io.cnmc import DatasetEntry, scan_dataset
from blastscope.runtime.types import VOTERS
from blastscope.train.ensemble_checkpoint import save_ensemble

pytestmark = pytest.mark.usefixtures("one_thread")

LENIENT = CalibrationConfig(method="minmax", cells=8, max_flip_rate=0.5, max_f1_drop_points=50, draws=50)


@pytest.fixture(scope="module")
def data(trained_bundle: TrainedBundle) -> Path:
    return trained_bundle.data


@pytest.fixture(scope="module")
def exported(trained_bundle: TrainedBundle) -> Path:
    return trained_bundle.path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def admitted(exported: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, CalibrationReport]:
    place = Path(shutil.copytree(exported, tmp_path_factory.mktemp("admitted") / "bundle"))
    config = LENIENT.model_copy(update={"operating_point": OperatingPointConfig(sensitivity=0.9)})
    report = calibrate(place, data, config)
    return read_bundle(place), report


def test_an_int8_that_holds_its_gate_comes_into_the_bundle(admitted: tuple[Bundle, CalibrationReport]) -> None:
    bundle, report = admitted
    assert report.admitted, report.text()
    assert report.graphs == ("int8/ensemble.onnx", "int8/a.onnx", "int8/b.onnx", "int8/combined.onnx")
    fused = bundle.graph("int8")
    assert fused is not None
    assert fused.gate in report.gates
    assert [gate.engine for gate in report.gates] == ["openvino", "onnxruntime", "signed codes"]
    parent = bundle.graph("fp32")
    assert parent is not None
    assert fused.parent == parent.sha256
    assert report.digest == bundle.digest
    assert [row.precision for row in bundle.manifest.scores] == ["fp32", "int8"]


def test_calibration_and_gate_take_validation_patients_and_no_cell_twice(
    admitted: tuple[Bundle, CalibrationReport], data: Path
) -> None:
    bundle, report = admitted
    patient_of = {cell.path.name: cell.patient for cell in scan_dataset(data).cells}
    assert {patient_of[name] for name in report.sample} <= set(VALIDATION)
    assert report.gates[0].cells == 32 - 8
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration.cells == report.sample
    assert bundle.manifest.training.patients.calibration == report.sample_patients


def test_the_golden_set_passes_in_int8_on_every_backend_here(admitted: tuple[Bundle, CalibrationReport], data: Path) -> None:
    bundle, _ = admitted
    comparison = compare_engines(bundle, data)
    assert comparison.passed, comparison.text()
    assert {(row.backend, row.precision) for row in comparison.engines} >= {("openvino", "int8"), ("onnxruntime", "int8")}
    assert [row.precision for row in comparison.scores] == ["fp32", "int8"]
    assert comparison.scores[0].patients == len(VALIDATION)
    assert "weighted F1" in comparison.text()


def test_verify_names_every_cell_that_it_does_not_score(
    admitted: tuple[Bundle, CalibrationReport], data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    mine = [cell.path.relative_to(data) for cell in scan_dataset(data).cells if cell.patient in VALIDATION]
    broken, black, twin = mine[0], mine[1], mine[2].with_name(mine[2].name.replace("_1_", "_77_"))
    (folder / broken).write_bytes(b"no image")
    cv2.imwrite(str(folder / black), np.zeros((90, 90, 3), np.uint8))
    shutil.copyfile(folder / mine[2], folder / twin)
    table = tmp_path / "cells.csv"
    done = CliRunner().invoke(app, ["verify", str(admitted[0].path), "--data", str(folder), "--csv", str(table)])
    assert f"{len(mine) - 2} of {len(mine) + 1} cells are scored" in done.stdout
    for path, reason in ((broken, "undecodable"), (black, "empty"), (twin, "a copy of")):
        assert re.search(rf"left out: {re.escape(path.as_posix())}: .*{reason}", done.stdout), done.stdout
    trained = len(scan_dataset(data).cells) - len(mine)
    assert f"not scored: {trained} cells of patients that took part in the training" in done.stdout
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "patient", "precision", "call", "score", "refusal"]
    assert {row["file"] for row in rows} == {path.as_posix() for path in (*mine, twin)}
    assert {row["file"] for row in rows if row["refusal"]} == {path.as_posix() for path in (broken, black, twin)}
    for precision, scores in zip(("fp32", "int8"), compare_engines(admitted[0], folder).scores, strict=True):
        called = [row for row in rows if row["precision"] == precision]
        positive = [row for row in called if row["label"] == "all"]
        assert scores.cells == len(called)
        assert scores.sensitivity.value == pytest.approx(np.mean([row["call"] == "all" for row in positive]))


def test_single_and_fused_int8_graphs_say_the_same(admitted: tuple[Bundle, CalibrationReport]) -> None:
    bundle, _ = admitted
    crops = read_golden(bundle).crops
    fused = bundle.graph("int8")
    assert fused is not None
    together = ReferenceRunner(bundle.file(fused)).probabilities(crops)
    for place, models in enumerate(("a", "b", "combined")):
        entry = bundle.graph("int8", models)  # type: ignore[arg-type]
        assert entry is not None
        np.testing.assert_allclose(ReferenceRunner(bundle.file(entry)).probabilities(crops), together[:, place], atol=0.05)


def test_an_operating_point_is_chosen_on_validation_cells(admitted: tuple[Bundle, CalibrationReport]) -> None:
    bundle, report = admitted
    point = bundle.manifest.operating_point
    assert point is not None
    assert point == report.operating_point
    assert point.sensitivity >= point.sensitivity_wanted == 0.9
    assert point.cells == report.gates[0].cells


def test_the_report_reads_as_text_and_as_json(admitted: tuple[Bundle, CalibrationReport]) -> None:
    _, report = admitted
    assert "int8 admitted" in report.text()
    assert "votes flipped" in report.text()
    assert CalibrationReport.model_validate(json.loads(report.model_dump_json())) == report


def test_a_refused_int8_leaves_the_bundle_as_it_was(bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_bundle(bundle)
    monkeypatch.setattr(Int8Builder, "build", lambda builder, recipe: _turned_round(builder.model))
    limits = {"max_flip_rate": 0.02, "max_f1_drop_points": 0.5, "search": False}
    report = calibrate(bundle, data, LENIENT.model_copy(update=limits))
    assert not report.admitted
    assert report.exit_code == 1
    assert any("votes flip" in failure for failure in report.failures)
    assert any("weighted F1 loses" in failure for failure in report.failures)
    assert any("golden set" in failure for failure in report.failures)
    assert report.graphs == ()
    assert report.tolerance is None
    assert "refused" in report.text()
    assert read_bundle(bundle).digest == before.digest == report.digest


def test_a_comparison_of_a_bundle_whose_name_is_no_utf8_is_json(exported: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(exported, tmp_path / os.fsdecode(b"b\xe4")))
    assert json.loads(compare_engines(read_bundle(place)).model_dump_json())["bundle"].endswith("b\\xe4")


def _turned_round(parent: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that calls everything the other way round."""
    model = onnx.ModelProto()
    model.CopyFrom(parent)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    negated = onnx.helper.make_node("Neg", [softmax.input[0]], ["negated"], name="negated")
    place = list(model.graph.node).index(softmax)
    softmax.input[0] = "negated"
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], negated, *nodes[place:]])
    return model


def test_a_calibration_that_leaves_no_gate_cells_is_refused_at_once(
    bundle: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blastscope")
    with pytest.raises(UsageError, match="calibrate on fewer than"):
        calibrate(bundle, data, LENIENT.model_copy(update={"cells": 10_000}))
    assert len(caplog.messages) == 1  # that cells are looked for


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no folder into which nobody writes")
def test_a_place_that_cannot_be_written_is_an_error_before_the_work() -> None:
    with pytest.raises(DataError, match="'/proc/bundle': can't be written"):
        check_writable(Path("/proc/bundle"))


def test_named_training_cells_are_refused(bundle: Path, data: Path) -> None:
    trained = next(cell.path.name for cell in scan_dataset(data).cells if cell.patient == "H1")
    with pytest.raises(DataError, match=f"training patients can't calibrate: {trained}"):
        calibrate(bundle, data, LENIENT.model_copy(update={"files": (trained,)}))


def test_weights_of_8_bits_are_not_judged_by_a_cpu_without_vnni(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("blastscope.calibration.calibrate"), "int8_sums_overflow", lambda: True)
    with pytest.raises(DeviceError, match=r"no VNNI .*weight_bits = 7"):
        calibrate(bundle, data, CalibrationConfig(weight_bits=8))
    assert CalibrationConfig().weight_bits == 7  # a bundle goes to machines that nobody knows


def test_a_zip_and_a_bundle_without_fp32_are_refused(bundle: Path, data: Path, tmp_path: Path) -> None:
    source = read_bundle(bundle)
    with pytest.raises(BundleError, match="not a folder"):
        calibrate(pack(source, tmp_path / "bundle.zip"), data)
    fused = source.graph("fp32")
    assert fused is not None
    half = fused.model_copy(update={"precision": "fp16", "file": "fp16/ensemble.onnx"})
    manifest = source.manifest.model_copy(update={"graphs": (half,)})
    update_bundle(source, manifest, {half.file: source.file(fused).read_bytes()})
    with pytest.raises(BundleError, match="no fp32 fused graph"):
        calibrate(bundle, data)


@pytest.mark.slow
def test_the_road_holds_on_real_cells(cnmc: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    kept = {"H1": 0}
    cells = scan_dataset(cnmc).cells
    hem = sorted({cell.patient for cell in cells if cell.label == "hem"})[:3]
    all_ = sorted({cell.patient for cell in cells if cell.label == "all"})[:3]
    names = dict(zip((*hem, *all_), ("H1", "H3", "H5", "2", "4", "6"), strict=True))
    for cell in cells:
        name = names.get(cell.patient)
        if name is not None and kept.setdefault(name, 0) < 16:
            kept[name] += 1
            target = folder / cell.label / f"UID_{name}_{cell.image}_{cell.cell}_{cell.label}{cell.path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(cell.path)
    save_ensemble(tmp_path / "run", trained_networks(folder, backbone="test_efficientnet", side_px=64))
    config = ExportConfig(fused_only=True, parity_cells=16)
    made = export_run(tmp_path / "run", tmp_path / "bundle", data=folder, config=config)
    assert made.manifest.golden.source == "validation"
    report = calibrate(made.path, folder, CalibrationConfig(cells=16, max_flip_rate=0.1, max_f1_drop_points=10, draws=50))
    assert report.gates[0].patients == 4
    assert report.admitted, report.text()
    assert compare_engines(read_bundle(made.path)).passed


# ---- a first voter that decides alone


@pytest.fixture(scope="module")
def cascaded(
    admitted: tuple[Bundle, CalibrationReport], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, CascadeReport]:
    place = Path(shutil.copytree(admitted[0].path, tmp_path_factory.mktemp("cascaded") / "bundle"))
    report = calibrate_cascade(place, data, CascadeConfig(max_flip_rate=0.5, draws=50))
    return read_bundle(place), report


def test_an_admitted_cascade_changes_nothing_else_in_the_manifest(
    cascaded: tuple[Bundle, CascadeReport], admitted: tuple[Bundle, CalibrationReport]
) -> None:
    bundle, report = cascaded
    found = bundle.manifest.cascade
    assert report.admitted, report.text()
    assert found == report.cascade
    assert found is not None
    assert (found.precision, found.patients, found.cells) == ("int8", len(VALIDATION), 32 - 8)
    assert found.flip_rate.value <= 0.5
    assert found.flip_rate_upper == max(
        found.flip_rate.high, clopper_pearson_upper(round(found.flip_rate.value * found.cells), found.cells)
    )
    assert float(np.float32(found.threshold)) == found.threshold
    assert report.digest == bundle.digest
    assert bundle.manifest.model_copy(update={"cascade": None}) == admitted[0].manifest


def test_a_voters_share_of_the_work_is_that_of_its_own_graph(admitted: tuple[Bundle, CalibrationReport]) -> None:
    bundle, _ = admitted
    work = {entry.models: sum(count_macs(onnx.load(bundle.file(entry))).values()) for entry in bundle.manifest.graphs[:4]}
    fused = bundle.graph("int8")
    assert fused is not None
    for voter in VOTERS:
        assert voter_mac_share(onnx.load(bundle.file(fused)), voter) == pytest.approx(work[voter] / work["ensemble"], rel=1e-3)


def test_the_cascades_report_reads_as_text_and_json_and_has_a_picture(
    cascaded: tuple[Bundle, CascadeReport], tmp_path: Path
) -> None:
    _, report = cascaded
    assert "cascade admitted" in report.text()
    assert "times the throughput" in report.text()
    write_report(tmp_path / "report", report)
    assert CascadeReport.model_validate_json((tmp_path / "report" / "cascade.json").read_bytes()) == report
    assert (tmp_path / "report" / "cascade.png").read_bytes().startswith(b"\x89PNG")


def test_a_new_operating_point_ends_the_cascade_of_every_graph(
    cascaded: tuple[Bundle, CascadeReport], data: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(shutil.copytree(cascaded[0].path, tmp_path / "bundle"))
    manifest = bundle.manifest
    assert manifest.cascade is not None
    kept = manifest.model_copy(update={"cascade": manifest.cascade.model_copy(update={"precision": "fp32"})})
    update_bundle(bundle, kept, {})
    point = LENIENT.model_copy(update={"operating_point": OperatingPointConfig(sensitivity=0.8)})
    calibrate(bundle.path, data, point)
    assert read_bundle(bundle.path).manifest.cascade is None  # it was judged by other calls


def test_a_second_calibration_replaces_the_first_and_its_cascade(
    cascaded: tuple[Bundle, CascadeReport], data: Path, tmp_path: Path
) -> None:
    first, _ = cascaded
    place = Path(shutil.copytree(first.path, tmp_path / "again"))
    report = calibrate(place, data, LENIENT.model_copy(update={"seed": 1}))
    again = read_bundle(place)
    assert report.admitted
    assert len([entry for entry in again.manifest.graphs if entry.precision == "int8"]) == 4
    assert again.manifest.calibration is not None
    assert again.manifest.calibration.seed == 1
    assert again.manifest.operating_point == first.manifest.operating_point  # kept until another is asked for
    assert again.manifest.cascade is None


def test_a_cascade_that_costs_too_much_leaves_the_bundle_as_it_was(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def against_each_other(networks: dict[str, object], cells: list[DatasetEntry], *_: object, **__: object) -> CellPredictions:
        """Each patient's cells are told apart by another voter, so what the others choose is wrong for it."""
        names = sorted({cell.patient for cell in cells})
        place = np.array([names.index(cell.patient) % 2 for cell in cells])
        probabilities = np.full((len(cells), 3, 2), 0.5, np.float32)
        rows = np.arange(len(cells))
        probabilities[rows, place] = [0.2, 0.8]
        probabilities[rows, 1 - place] = [0.7, 0.3]
        return CellPredictions(cells=tuple(cells), refused=(), probabilities=dict.fromkeys(networks, probabilities))

    monkeypatch.setattr(cascade_module, "evaluate", against_each_other)
    before = read_bundle(bundle)
    report = calibrate_cascade(bundle, data, CascadeConfig(max_flip_rate=0.0, draws=50))
    assert not report.admitted
    assert report.exit_code == 1
    assert report.cascade is None
    assert "not admitted" in report.text()
    assert read_bundle(bundle).digest == before.digest == report.digest


def test_the_verb_takes_bound_precision_and_a_place_for_the_report(bundle: Path, data: Path, tmp_path: Path) -> None:
    words = ["calibrate", str(bundle), "--data", str(data), "--cascade", "--cascade-flips", "0.4", "--precision", "fp32"]
    result = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "report"), "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == (0 if found["admitted"] else 1), result.output
    assert (found["precision"], found["max_flip_rate"], found["engines"]) == ("fp32", 0.4, ["openvino"])
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["cascade.json", "cascade.png"]
    assert CliRunner().invoke(app, [*words[:4], "--cascade-flips", "0.4"]).exit_code == 2
    for wrong in (["--cascade-flips", "1"], ["--report", str(tmp_path / "report" / "cascade.json" / "below")]):
        refused = CliRunner().invoke(app, [*words[:5], *wrong])
        assert (refused.exit_code, "asking" in refused.output) == (2, False), refused.output
