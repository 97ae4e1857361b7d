"""int8 of an ensemble that holds nobody out, judged by its cross validation's ensembles."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from trained_bundle import trained_networks
from typer.testing import CliRunner

from blastscope.calibration import fold_gate
from blastscope.calibration.calibrate import calibrate
from blastscope.calibration.calibration_data import crop_cells
from blastscope.calibration.config import CalibrationConfig
from blastscope.calibration.quantisation.quantizer import Int8Builder
from blastscope.cli import app
from blastscope.export.exporter import export_run
from blastscope.export.onnx_writer import ExportConfig
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.bundle.manifest import Patients
from blastscope.runtime.errors import BundleError, UsageError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.train.ensemble_checkpoint import TrainedEnsemble, ValidationCell, save_ensemble

pytestmark = pytest.mark.usefixtures("one_thread")

LENIENT = CalibrationConfig(method="minmax", cells=8, max_flip_rate=0.5, max_f1_drop_points=50, draws=50)
PARTS = (("H1", "2", "H3"), ("4", "H5", "6"))
EVERYBODY = tuple(sorted(PARTS[0] + PARTS[1]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("cells"), patients=6, cells_each=6, size_px=160)


def held_out(trained: TrainedEnsemble, folder: Path, names: tuple[str, ...]) -> TrainedEnsemble:
    cells = tuple(
        ValidationCell(file=cell.path.name, label=cell.label, patient=cell.patient)
        for cell in scan_dataset(folder).cells
        if cell.patient in names
    )
    training = tuple(name for name in EVERYBODY if name not in names)
    facts = {
        "split": "patient" if names else "none",
        "patients": Patients(training=training, validation=names),
        "validation": cells,
        "data_sha256": scan_dataset(folder).sha256,
    }
    return TrainedEnsemble(trained.ensemble, trained.config, trained.provenance.model_copy(update=facts))


@pytest.fixture(scope="module")
def exported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle `whole` and, below `folds`, one for each of the parts."""
    place, trained = tmp_path_factory.mktemp("exported"), trained_networks(data)
    config = ExportConfig(precisions=("fp32",), fused_only=True, parity_cells=8, golden_cells=4, drawn=True)
    for target, names in {"whole": (), "folds/fold-1": PARTS[0], "folds/fold-2": PARTS[1]}.items():
        run = place / "runs" / target.replace("/", "-")
        save_ensemble(run, held_out(trained, data, names))
        (place / target).parent.mkdir(exist_ok=True)
        export_run(run, place / target, data=data, config=config)
    return place


@pytest.fixture
def place(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_folds_admit_int8_of_an_ensemble_that_holds_nobody_out(place: Path, data: Path) -> None:
    report = calibrate(place / "whole", data, LENIENT, folds=place / "folds")
    assert report.admitted, report.text()
    cells = scan_dataset(data).cells
    assert {(gate.cells, gate.patients) for gate in report.gates} == {(len(cells), len(EVERYBODY))}
    assert "each held out of one of 2 folds' ensembles" in report.text()
    manifest = read_bundle(place / "whole").manifest
    fused = manifest.graph("int8")
    assert fused is not None
    assert fused.gate in report.gates
    assert set(manifest.training.patients.calibration) <= set(EVERYBODY)
    assert not manifest.training.patients.validation
    assert {(row.precision, row.cells) for row in manifest.scores} == {("fp32", len(cells)), ("int8", len(cells))}


def test_no_held_out_cell_sets_a_range_of_its_fold(place: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[bytes]] = []

    def build(model: object, crops: np.ndarray, *rest: object, **options: object) -> Int8Builder:
        seen.append({crop.tobytes() for crop in crops})
        return Int8Builder(model, crops, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fold_gate, "Int8Builder", build)
    calibrate(place / "whole", data, LENIENT, folds=place / "folds")
    assert len(seen) == len(PARTS)
    spec = read_bundle(place / "whole").manifest.crop
    for used, names in zip(seen, PARTS, strict=True):
        judged = crop_cells([cell for cell in scan_dataset(data).cells if cell.patient in names], spec)
        assert used.isdisjoint(crop.tobytes() for crop in judged.crops)


def test_folds_that_flip_too_much_leave_the_bundle_as_it_was(place: Path, data: Path) -> None:
    before = read_bundle(place / "whole").digest
    strict = LENIENT.model_copy(
        update={"max_f1_drop_points": 0.0, "max_flip_rate": 0.0, "percentile": 90.1, "method": "percentile"}
    )
    report = calibrate(place / "whole", data, strict, folds=place / "folds")
    assert not report.admitted
    assert any("of the votes flip" in failure for failure in report.failures)
    assert read_bundle(place / "whole").digest == before


def test_folds_must_hold_out_everybody_exactly_once(place: Path, data: Path) -> None:
    shutil.rmtree(place / "folds" / "fold-2")
    with pytest.raises(UsageError, match="must hold out each patient"):
        calibrate(place / "whole", data, LENIENT, folds=place / "folds")
    shutil.rmtree(place / "folds")
    with pytest.raises(BundleError, match="holds no bundles"):
        calibrate(place / "whole", data, LENIENT, folds=place / "folds")


def test_folds_of_another_recipe_cannot_judge(place: Path, data: Path, tmp_path: Path) -> None:
    other = trained_networks(data, side_px=40)
    save_ensemble(tmp_path / "run", held_out(other, data, PARTS[1]))
    shutil.rmtree(place / "folds" / "fold-2")
    config = ExportConfig(precisions=("fp32",), fused_only=True, parity_cells=8, golden_cells=4, drawn=True)
    export_run(tmp_path / "run", place / "folds" / "fold-2", data=data, config=config)
    with pytest.raises(UsageError, match="another crop"):
        calibrate(place / "whole", data, LENIENT, folds=place / "folds")


def test_an_ensemble_that_holds_people_out_takes_no_folds(place: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="calibrate it without folds"):
        calibrate(place / "folds" / "fold-1", data, LENIENT, folds=place / "folds")
    command = ["calibrate", str(place / "whole"), "--data", str(data), "--folds", str(place / "folds"), "--cascade"]
    assert CliRunner().invoke(app, command).exit_code == 2
