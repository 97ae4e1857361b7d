"""A run becomes a bundle, and model A and model B, of one architecture, can't be swapped on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from blastscope.benchmarks.benchmark_bundle import make_benchmark_bundle
from blastscope.calibration.evaluation import ReferenceRunner
from blastscope.export.exporter import export_run, synthetic_crops
from blastscope.export.onnx_export import make_graph
from blastscope.export.onnx_writer import ExportConfig, backbone_passes, export_graphs
from blastscope.export.parity import torch_probabilities
from blastscope.runtime.bundle import Bundle, read_bundle, read_golden
from blastscope.runtime.bundle.manifest import Patients
from blastscope.runtime.errors import DataError, DigestMismatch, EngineError
from blastscope.runtime.inference.validation import check_golden
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.train.config import TrainConfig
from blastscope.train.ensemble_checkpoint import TrainedEnsemble, ValidationCell, load_ensemble, random_ensemble, save_ensemble
from blastscope.train.network import Ensemble

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32
FACTS = {
    "network": {"backbone": "test_resnet", "weights": "none"},
    "crop": {"side_px": SIDE},
    "stage2": {"hidden": 16},
}
SMALL = ExportConfig(parity_cells=12)


def decisive_ensemble(**changes: object) -> TrainedEnsemble:
    """Random networks whose voters call half of the cells ALL, and do so clearly."""
    config = TrainConfig.model_validate({**FACTS, **changes})
    crops = synthetic_crops(24, config.crop, 0)
    trained = random_ensemble(config, crops)
    ensemble = trained.ensemble
    with torch.no_grad():
        last = [ensemble.a.classify, ensemble.b.classify, ensemble.head.layers[-1]]
        for place, layer in enumerate(last):
            margin = ensemble(torch.from_numpy(crops))[:, place].diff(dim=1)
            layer.weight *= 6 / margin.std()
            margin = ensemble(torch.from_numpy(crops))[:, place].diff(dim=1)
            layer.bias[1] -= margin.median()
    return trained


@pytest.fixture(scope="module")
def trained() -> TrainedEnsemble:
    return decisive_ensemble()


@pytest.fixture(scope="module")
def run(trained: TrainedEnsemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_ensemble(folder, trained)
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_run(run, tmp_path_factory.mktemp("out") / "bundle", config=SMALL)


def test_a_bundle_holds_every_network_in_both_precisions(bundle: Bundle, trained: TrainedEnsemble) -> None:
    kinds = {(entry.models, entry.precision): entry for entry in bundle.manifest.graphs}
    assert set(kinds) == {
        (models, precision) for models in ("ensemble", "a", "b", "combined") for precision in ("fp32", "fp16")
    }
    for (models, precision), entry in kinds.items():
        props = {prop.key: prop.value for prop in onnx.load(bundle.file(entry)).metadata_props}
        assert (props["blastscope.models"], props["blastscope.precision"]) == (models, precision)
        assert props["blastscope.voters"] == "a,b,combined"
        assert set(entry.tolerances) == {"f32", "bf16", "f16"}
        assert entry.parent == (None if precision == "fp32" else kinds[models, "fp32"].sha256)
        assert entry.passes == {"ensemble": 2, "a": 1, "b": 1, "combined": 2}[models]
    assert bundle.manifest.crop == trained.config.crop
    assert bundle.manifest.training.data_sha256 is None
    assert bundle.manifest.golden.source == "drawn"


def test_every_graph_repeats_pytorch_on_any_batch(bundle: Bundle, trained: TrainedEnsemble) -> None:
    crops = synthetic_crops(5, trained.config.crop, 77)
    for entry in bundle.manifest.graphs:
        answers = ReferenceRunner(bundle.file(entry)).probabilities(crops)
        wanted = torch_probabilities(make_graph(trained.ensemble, entry.models), crops)
        assert np.abs(answers - wanted).max() <= entry.tolerances["f32"], entry.file
        alone = ReferenceRunner(bundle.file(entry)).probabilities(crops[:1])
        np.testing.assert_allclose(alone, answers[:1], atol=1e-4)


def test_the_fused_graph_and_the_separate_ones_agree(bundle: Bundle, trained: TrainedEnsemble) -> None:
    crops = synthetic_crops(4, trained.config.crop, 5)
    answers = {
        entry.models: ReferenceRunner(bundle.file(entry)).probabilities(crops)
        for entry in bundle.manifest.graphs
        if entry.precision == "fp32"
    }
    for place, voter in enumerate(("a", "b", "combined")):
        np.testing.assert_allclose(answers["ensemble"][:, place], answers[voter], atol=1e-4)


def test_a_graph_is_the_same_bytes_again_and_tells_nothing_of_this_machine(
    bundle: Bundle, trained: TrainedEnsemble, tmp_path: Path
) -> None:
    config = ExportConfig(precisions=("fp32",))
    (again,) = export_graphs(trained.ensemble, "a", synthetic_crops(4, trained.config.crop, 0), tmp_path, config)
    entry = bundle.graph("fp32", "a")
    assert entry is not None
    assert again.entry.sha256 == entry.sha256
    content = again.path.read_bytes()
    for word in (b"site-packages", b"/home", b"/root", b"/tmp", b"torch/", str(Path.cwd()).encode()):
        assert word not in content
    model = onnx.load(again.path)
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert [entry.version for entry in model.opset_import] == [18]


def test_validation_cells_make_the_golden_set_where_they_are_at_hand(trained: TrainedEnsemble, tmp_path: Path) -> None:
    data = write_synthetic_dataset(tmp_path / "data", patients=4, cells_each=6, size_px=160)
    cells = [cell for cell in scan_dataset(data).cells if cell.patient in ("3", "4", "H3")]
    known = tuple(ValidationCell(file=f"elsewhere/{cell.path.name}", label=cell.label, patient=cell.patient) for cell in cells)
    parts = Patients(training=("H1", "2"), validation=("H3", "4"))
    provenance = trained.provenance.model_copy(update={"validation": known, "split": "patient", "patients": parts})
    save_ensemble(tmp_path / "run", TrainedEnsemble(trained.ensemble, trained.config, provenance))
    config = ExportConfig(fused_only=True, precisions=("fp32",), parity_cells=8, golden_cells=4)
    made = export_run(tmp_path / "run", tmp_path / "bundle", data=data, config=config)
    assert (made.manifest.golden.source, made.manifest.golden.count) == ("validation", 4)
    assert [entry.file for entry in made.manifest.graphs] == ["fp32/ensemble.onnx"]
    assert made.manifest.training.patients == parts
    other = write_synthetic_dataset(tmp_path / "other", patients=2, cells_each=2, size_px=160)
    with pytest.raises(DataError, match="none of the run's validation cells is here"):
        export_run(tmp_path / "run", tmp_path / "none", data=other, config=config)
    assert not (tmp_path / "none").exists()


def test_an_ensemble_with_moved_backbones_makes_four_passes_and_says_so(tmp_path: Path) -> None:
    trained = decisive_ensemble(stage2={"hidden": 16, "fine_tune": True})
    ensemble = trained.ensemble
    assert ensemble.tuned_a is not None
    with torch.no_grad():
        ensemble.tuned_a.backbone.conv1.weight.mul_(1.5) if hasattr(ensemble.tuned_a.backbone.conv1, "weight") else None
    (fused,) = export_graphs(
        ensemble, "ensemble", synthetic_crops(6, trained.config.crop, 0), tmp_path, ExportConfig(precisions=("fp32",))
    )
    assert fused.entry.passes == 4
    assert [backbone_passes(ensemble, models) for models in ("a", "b", "combined")] == [1, 1, 2]


# A and B can't be swapped: each place where they could be, and what catches it


def test_swapped_files_are_caught_by_their_digests(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.path, copy)
    a, b = copy / "fp32/a.onnx", copy / "fp32/b.onnx"
    a.rename(copy / "x"), b.rename(a), (copy / "x").rename(b)
    with pytest.raises(DigestMismatch):
        read_bundle(copy)


def test_swapped_entries_are_caught_by_what_the_file_says_of_itself(bundle: Bundle) -> None:
    a, b = bundle.graph("fp32", "a"), bundle.graph("fp32", "b")
    assert a is not None
    assert b is not None
    for entry in (a, b):
        props = {prop.key: prop.value for prop in onnx.load(bundle.file(entry)).metadata_props}
        assert props["blastscope.models"] == entry.models
    assert a.sha256 != b.sha256


@pytest.mark.parametrize("how", ["voters", "weights", "heads"])
def test_an_ensemble_whose_a_and_b_are_swapped_fails_the_golden_set(bundle: Bundle, run: Path, how: str) -> None:
    golden = read_golden(bundle)
    swapped: Ensemble = load_ensemble(run).ensemble
    if how == "voters":
        swapped.a, swapped.b = swapped.b, swapped.a
    elif how == "weights":
        a, b = ({k: v.clone() for k, v in voter.state_dict().items()} for voter in (swapped.a, swapped.b))
        swapped.a.load_state_dict(b), swapped.b.load_state_dict(a)
    else:
        swapped.a.classify, swapped.b.classify = swapped.b.classify, swapped.a.classify
    entry = bundle.graph("fp16")
    assert entry is not None

    class Swapped:
        name = "swapped"

        def infer(self, crops: np.ndarray) -> np.ndarray:
            return torch_probabilities(make_graph(swapped, "ensemble"), crops)

        def close(self) -> None:
            pass

    assert not check_golden(Swapped(), golden, max(entry.tolerances.values())).passed


def test_a_run_whose_weights_were_swapped_between_runs_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    text = (run / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(text.replace('"side_px": 32', '"side_px": 48'))
    with pytest.raises(DataError, match="different runs"):
        export_run(tmp_path / "run", tmp_path / "out", config=SMALL)


def test_weights_that_fp16_cannot_hold_stop_the_export(trained: TrainedEnsemble, run: Path, tmp_path: Path) -> None:
    ensemble = load_ensemble(run).ensemble
    with torch.no_grad():
        next(ensemble.a.backbone.parameters())[0, 0, 0, 0] = 1e5
    with pytest.raises(EngineError, match="export without fp16"):
        export_graphs(ensemble, "combined", synthetic_crops(4, trained.config.crop, 0), tmp_path, ExportConfig())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_run_with_weights_that_are_no_numbers_is_not_exported(run: Path, tmp_path: Path, bad: float) -> None:
    trained = load_ensemble(run)
    with torch.no_grad():
        trained.ensemble.b.backbone.get_parameter("conv1.0.weight")[3, 1, 1, 1] = bad
    save_ensemble(tmp_path / "run", trained)
    with pytest.raises(DataError, match=r"ensemble.safetensors.*'b.backbone.conv1.0.weight' holds what is not a number.*lr"):
        export_run(tmp_path / "run", tmp_path / "out", config=SMALL)


def test_a_layer_whose_output_is_infinite_stops_the_export_by_name(run: Path, tmp_path: Path) -> None:
    trained = load_ensemble(run)
    with torch.no_grad():
        trained.ensemble.get_parameter("a.backbone.conv1.0.weight").fill_(1e38)  # a number, and its sums are none
    save_ensemble(tmp_path / "run", trained)
    with pytest.raises(EngineError, match=r"layer 'ensemble\.a\.backbone\.conv1\.0' gives what is not a number"):
        export_run(tmp_path / "run", tmp_path / "out", config=SMALL)


def test_a_benchmark_bundle_has_every_precision_and_a_waived_gate(tmp_path: Path) -> None:
    config = TrainConfig.model_validate(FACTS)
    crops = synthetic_crops(16, config.crop, 3)
    made = make_benchmark_bundle(random_ensemble(config, crops), crops, tmp_path / "bench")
    assert made.manifest.gate == "waived"
    assert [entry.precision for entry in made.manifest.graphs] == ["fp32", "fp16", "int8"]
    golden = read_golden(made)
    for entry in made.manifest.graphs:
        answers = ReferenceRunner(made.file(entry)).probabilities(golden.crops)
        tolerance = entry.tolerances["int8" if entry.precision == "int8" else "f32"]
        assert np.abs(answers - golden.probabilities).max() <= tolerance
