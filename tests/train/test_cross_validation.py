"""Every patient is held out once, and the scores are of the networks that never saw it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import f1_score, roc_auc_score

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.train.config import TrainConfig
from blastscope.train.cross_validation import cross_validate, pool_folds
from blastscope.train.report.writer import read_run

TINY = {
    "data": {"folds": 2},
    "crop": {"side_px": 32},
    "network": {"backbone": "test_efficientnet", "weights": "none"},
    "stage1": {"epochs": 1, "batch_size": 8},
    "stage2": {"epochs": 1, "batch_size": 8, "hidden": 16},
    "compute": {"device": "cpu", "precision": "fp32"},
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("cells"), patients=6, cells_each=4, size_px=96)


@pytest.fixture(scope="module")
def folds_unreported() -> Iterator[None]:
    """A fold's own report isn't what is tried here, and each takes four seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blastscope.train.report.writer.write_folder", lambda given, folder: None)
        yield


@pytest.fixture(scope="module")
def validated(cells: Path, folds_unreported: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validated") / "out"
    return cross_validate(cells, TrainConfig.model_validate(TINY), out, cache=out.parent / "cache")


def test_each_patient_is_held_out_once(validated: Path) -> None:
    parts = [json.loads((validated / f"fold-{n}" / "run.json").read_text())["patients"] for n in (1, 2)]
    held_out = [set(part["validation"]) for part in parts]
    assert not held_out[0] & held_out[1]
    assert [set(part["training"]) for part in parts] == held_out[::-1]


def test_the_scores_are_those_of_all_held_out_cells_together(validated: Path) -> None:
    report = json.loads((validated / "report" / "report.json").read_text())
    runs = [validated / f"fold-{n}" for n in (1, 2)]
    cells = [cell for run in runs for cell in json.loads((run / "run.json").read_text())["validation"]]
    labels = [int(cell["label"] == "all") for cell in cells]
    votes = vote(np.concatenate([load_file(run / "validation.safetensors")["probabilities"] for run in runs]))
    found = report["scores"]["vote"]
    assert found["cells"] == len(cells) == 24
    assert found["weighted_f1"]["value"] == pytest.approx(f1_score(labels, votes.label, average="weighted", zero_division=0))
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(labels, votes.score))
    assert {row["patient"] for row in found["patients"]} == {cell["patient"] for cell in cells}
    page = (validated / "report" / "index.html").read_text()
    assert "cross validation over 2 folds" in page
    assert "every patient was held out once" in page


def test_a_finished_cross_validation_is_resumed_without_training(validated: Path, cells: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in validated.glob("fold-*/ensemble.safetensors")}
    config = TrainConfig.model_validate(TINY)
    with pytest.raises(DataError, match="--resume"):
        cross_validate(cells, config, validated)
    cross_validate(cells, config, validated, resume=True, cache=validated.parent / "cache")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_runs_that_are_no_folds_of_one_another_are_refused(validated: Path) -> None:
    one = read_run(validated / "fold-1")
    with pytest.raises(UsageError, match="held out once"):
        pool_folds([one, one])


def test_folds_by_image_are_refused(cells: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({**TINY, "data": {"split": "image"}})
    with pytest.raises(UsageError, match="over patients"):
        cross_validate(cells, config, tmp_path / "out")


def test_more_folds_than_patients_are_refused_before_the_first_is_trained(cells: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({**TINY, "data": {"folds": 4}})
    with pytest.raises(DataError, match="3 patients of a class do not fill 4 folds"):
        cross_validate(cells, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
