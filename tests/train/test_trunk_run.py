"""A run on a frozen trunk, from cells to calls on persons: bags, checkpoint, uncertainty, bundle, handle."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import blastscope
from blastscope.export.exporter import export_run
from blastscope.export.onnx_writer import ExportConfig
from blastscope.runtime.bundle import read_bundle, read_golden, update_bundle
from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell, write_synthetic_dataset
from blastscope.train.config import TrainConfig
from blastscope.train.cross_validation import cross_validate
from blastscope.train.ensemble_checkpoint import load_ensemble
from blastscope.train.pipeline import train_ensemble
from blastscope.train.trunk import TrunkEnsemble
from blastscope.train.uncertainty import read_uncertainty

STAGE = {"optimiser": "adamw", "lr": 0.02, "batch_size": 16, "epochs": 6, "schedule": "one-cycle", "keep": "last"}
CONFIG = TrainConfig.model_validate(
    {
        "data": {"folds": 2},
        "network": {"backbone": "test_efficientnet", "weights": "none"},
        "crop": {"side_px": 64},
        "trunk": {"stages": [1, 2], "covariances": [1], "hidden": 8, "members": 2, "directions": 8, "match_sizes": 0.5},
        "stage1": STAGE,
        "stage2": STAGE,
        "compute": {"device": "cpu", "precision": "fp32"},
    }
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("cells"), patients=20, cells_each=6, size_px=96)


@pytest.fixture(scope="module")
def folds(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folds")
    return cross_validate(cells, CONFIG, place / "cv", cache=place / "cache")


@pytest.fixture(scope="module")
def refit(cells: Path, folds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("refit")
    whole = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"split": "none"})})
    return train_ensemble(cells, whole, place / "run", cache=place / "cache", uncertainty=folds / "uncertainty.json")


@pytest.fixture(scope="module")
def bundle(refit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ExportConfig(precisions=("fp32",), parity_cells=8, golden_cells=4, drawn=True)
    return export_run(refit, tmp_path_factory.mktemp("bundle") / "b", config=config).path


def test_heads_learn_what_tells_drawn_cells_apart(folds: Path) -> None:
    found = read_uncertainty(folds / "uncertainty.json").uncertainty
    assert (found.hem_people, found.all_people, found.cells) == (9, 9, 120)  # C-NMC's H5 is H7, and its 16 is 20
    report = json.loads((folds / "report" / "report.json").read_text())
    assert report["scores"]["vote"]["auroc"]["value"] > 0.8
    assert {row["name"].split(" ")[0].rstrip(",") for row in report["groups"]} == {"HEM", "ALL"}
    assert report["uncertainty"] == json.loads(found.model_dump_json())
    assert "Sizes, stains and shares" in (folds / "report" / "index.html").read_text()


def test_the_same_seed_gives_the_same_run(cells: Path, refit: Path, tmp_path: Path) -> None:
    whole = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"split": "none"})})
    again = train_ensemble(cells, whole, tmp_path / "run", cache=tmp_path / "cache")
    first, second = (load_ensemble(run).ensemble.state_dict() for run in (refit, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_that_holds_people_out_takes_no_others_uncertainty(cells: Path, folds: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="measures its own uncertainty"):
        train_ensemble(cells, CONFIG, tmp_path / "run", uncertainty=folds / "uncertainty.json")
    assert not (tmp_path / "run").exists()


def test_the_uncertainty_of_another_recipe_is_refused(cells: Path, folds: Path, tmp_path: Path) -> None:
    whole = CONFIG.data.model_copy(update={"split": "none"})
    other = CONFIG.model_copy(update={"seed": 5, "data": whole})
    with pytest.raises(DataError, match="another recipe"):
        train_ensemble(cells, other, tmp_path / "run", uncertainty=folds / "uncertainty.json", cache=tmp_path / "cache")


def test_a_resumed_run_keeps_the_uncertainty_it_was_given(
    cells: Path, folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"split": "none"})})
    place = {"cache": tmp_path / "cache"}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("blastscope.train.pipeline._fit_all", stop)
        with pytest.raises(KeyboardInterrupt):
            train_ensemble(cells, whole, tmp_path / "run", uncertainty=folds / "uncertainty.json", **place)
    run = train_ensemble(cells, whole, tmp_path / "run", resume=True, **place)
    assert read_uncertainty(run / "uncertainty.json") == read_uncertainty(folds / "uncertainty.json")


def test_a_run_with_too_few_held_out_people_says_so(cells: Path, tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=200)
    few = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"folds": 5})})
    run = train_ensemble(cells, few, tmp_path / "run", cache=tmp_path / "cache", console=console)
    assert "no uncertainty.json: it takes 4 held-out people of each class" in console.file.getvalue()  # type: ignore[attr-defined]
    assert not (run / "uncertainty.json").exists()


def test_a_run_with_the_uncertainty_of_another_is_not_exported(refit: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(refit, tmp_path / "run"))
    table = json.loads((run / "uncertainty.json").read_text())
    (run / "uncertainty.json").write_text(json.dumps({**table, "data_sha256": "0" * 64}))
    with pytest.raises(DataError, match=r"uncertainty\.json.*another recipe or on other cells"):
        export_run(run, tmp_path / "b")


def test_every_graph_divides_its_margins_by_the_temperature(refit: Path, bundle: Path, cells: Path) -> None:
    trained = load_ensemble(refit).ensemble
    assert isinstance(trained, TrunkEnsemble)
    manifest = read_bundle(bundle).manifest
    assert manifest.uncertainty
    assert manifest.measures_novelty
    golden = read_golden(read_bundle(bundle))
    with torch.inference_mode():
        logits, novelty = trained.eval().judge(torch.from_numpy(golden.crops))
    wanted = (logits / manifest.uncertainty.temperature).softmax(dim=2).numpy()
    np.testing.assert_allclose(golden.probabilities, wanted, atol=1e-5)
    np.testing.assert_allclose(golden.novelty, novelty.numpy(), rtol=1e-4)  # type: ignore[arg-type]


def test_the_model_card_says_what_the_manifest_says(bundle: Path, tmp_path: Path) -> None:
    opened = read_bundle(bundle)
    found = opened.manifest.uncertainty
    assert found
    text = (bundle / "model_card.md").read_text()
    assert f"Trained on 20 patients: {', '.join(opened.manifest.training.patients.training)}" in text
    assert f"Weighted F1: {found.weighted_f1.value:.3f}" in text
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    renamed = update_bundle(read_bundle(copy), opened.manifest.model_copy(update={"name": "renamed"}), {})
    assert (copy / "model_card.md").read_text() == text.replace("# b\n", "# renamed\n").replace("# run\n", "# renamed\n")
    assert renamed.manifest.card != opened.manifest.card


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_cell_unlike_all_of_training_is_refused(bundle: Path, cells: Path, tmp_path: Path, backend: str) -> None:
    known = read_image(scan_dataset(cells).cells[0].path)
    assert isinstance(known, np.ndarray)
    disc = np.zeros((96, 96, 3), np.uint8)
    disc[20:76, 20:76] = (250, 250, 20)
    where = {"cache_dir": tmp_path, "backend": backend, "precision": "fp32", "execution": "f32"}
    with blastscope.open_bundle(bundle, **where) as scope:  # type: ignore[arg-type]
        strange, usual = scope.classify(disc), scope.classify(known)
    assert strange.refusal
    assert strange.refusal.code == "unlike-training"
    assert strange.novelty is not None
    assert f"{strange.novelty:.2f}" in strange.refusal.detail
    assert strange.box is not None
    assert usual.novelty is not None
    assert usual.novelty < strange.novelty
    assert usual.set is not None
    assert usual.row()["set"] == list(usual.set)
    with blastscope.open_bundle(bundle, unlike_training="call", **where) as scope:  # type: ignore[arg-type]
        called = scope.classify(disc)
    assert called.label in ("hem", "all")
    assert called.novelty == pytest.approx(strange.novelty)


def test_a_persons_cells_become_one_call(bundle: Path, cells: Path, tmp_path: Path) -> None:
    entries = [cell for cell in scan_dataset(cells).cells if cell.label == "all"]
    images = [read_image(cell.path) for cell in entries[:24]]
    with blastscope.open_bundle(bundle, cache_dir=tmp_path, unlike_training="call") as scope:
        smear = scope.classify_smear(images)  # type: ignore[arg-type]
        few = scope.classify_smear(images[:3])  # type: ignore[arg-type]
        empty = scope.classify_smear([])
    assert (smear.label, smear.cells, smear.refused) == ("all", 24, {})
    assert smear.low is not None
    assert smear.probability is not None
    assert smear.high is not None
    assert smear.low <= smear.probability <= smear.high
    assert (few.label, few.cells) == (None, 3)
    assert few.detail == "a call on a person needs 10 called cells at least, here are 3"
    assert (empty.cells, empty.audit) == (0, None)


def test_an_explanation_names_the_squares_a_call_rests_on(bundle: Path, tmp_path: Path) -> None:
    with blastscope.open_bundle(bundle, cache_dir=tmp_path, unlike_training="call") as scope:
        explained = scope.explain(synthetic_cell(3))
    row = json.loads(json.dumps(explained.row()))
    assert len(row["patches"]) == len(explained.support) > 20
    heat = explained.heat
    cell = explained.crop.max(axis=2) > 0
    assert not heat[~cell].any()
    x0, y0, x1, y1 = explained.boxes[int(np.argmax(explained.support))]
    assert heat[y0:y1, x0:x1][cell[y0:y1, x0:x1]].max() > 0
