"""For each fold a recipe is chosen by people of other folds, by ensembles that saw no cell of either."""

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
from blastscope.train.config import DataConfig, TrainConfig
from blastscope.train.nested_cross_validation import RecipeChoices, choose_recipes, nested_cross_validate
from blastscope.train.report.group_scores import same_size_score

FOLDS = 3
PAIRS = ("1-2", "1-3", "2-3")
STAGE = {"optimiser": "adamw", "lr": 0.02, "batch_size": 16, "epochs": 6, "schedule": "one-cycle", "keep": "last"}
LEARNS = TrainConfig.model_validate(
    {
        "data": {"folds": FOLDS},
        "network": {"backbone": "test_efficientnet", "weights": "none"},
        "crop": {"side_px": 64},
        "trunk": {"stages": [1, 2], "covariances": [1], "hidden": 8, "members": 2, "directions": 8},
        "stage1": STAGE,
        "stage2": STAGE,
        "compute": {"device": "cpu", "precision": "fp32"},
    }
)
STANDS = LEARNS.model_copy(
    update={name: getattr(LEARNS, name).model_copy(update={"lr": 1e-9, "epochs": 1}) for name in ("stage1", "stage2")}
)
RECIPES = {"stands": STANDS, "learns": LEARNS}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("cells"), patients=12, cells_each=6, size_px=96)


@pytest.fixture(scope="module")
def folds_unreported() -> Iterator[None]:
    """A fold's own report isn't what is tried here, and each takes four seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blastscope.train.report.writer.write_folder", lambda given, folder: None)
        yield


@pytest.fixture(scope="module")
def nested(cells: Path, folds_unreported: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nested") / "out"
    nested_cross_validate(cells, RECIPES, out, cache=out.parent / "cache")
    return out


def choices_in(out: Path) -> RecipeChoices:
    return RecipeChoices.model_validate_json((out / "choices.json").read_text())


def patients(run: Path) -> dict[str, set[str]]:
    found = json.loads((run / "run.json").read_text())["patients"]
    return {part: set(found[part]) for part in ("training", "validation")}


def judged(run: Path, whose: set[str]) -> tuple[list[int], list[int], list[float], list[str], list[float]]:
    """Labels, calls, scores, patients and sizes of a run's held-out cells of some patients."""
    tensors = load_file(run / "validation.safetensors")
    votes = vote(tensors["probabilities"])
    told = json.loads((run / "run.json").read_text())["validation"]
    rows = [row for row, cell in enumerate(told) if cell["patient"] in whose]
    labels = [int(told[row]["label"] == "all") for row in rows]
    names = [told[row]["patient"] for row in rows]
    return labels, votes.label[rows].tolist(), votes.score[rows].tolist(), names, tensors["size_px"][rows].tolist()


def test_who_judges_for_a_choice_saw_neither_fold(nested: Path) -> None:
    for recipe in RECIPES:
        held_out = [patients(nested / recipe / f"fold-{fold}")["validation"] for fold in range(1, FOLDS + 1)]
        for pair in PAIRS:
            first, second = (int(number) - 1 for number in pair.split("-"))
            parts = patients(nested / recipe / "pairs" / pair)
            assert parts["validation"] == held_out[first] | held_out[second]
            assert parts["training"] == set().union(*held_out) - parts["validation"]


def test_each_fold_gets_the_recipe_that_is_best_on_the_others(nested: Path) -> None:
    found = choices_in(nested)
    held_out = [patients(nested / "learns" / f"fold-{fold}")["validation"] for fold in range(1, FOLDS + 1)]
    for choice, mine in zip(found.folds, held_out, strict=True):
        assert set(choice.patients) == mine
        for recipe, score in choice.scores.items():
            pairs = [pair for pair in PAIRS if str(choice.fold) in pair]
            parts = [judged(nested / recipe / "pairs" / pair, set().union(*held_out) - mine) for pair in pairs]
            labels, calls, _, names, sizes = ([value for part in parts for value in part[place]] for place in range(5))
            assert set(names).isdisjoint(mine)
            oracle = same_size_score(np.array(labels), np.array(calls), names, np.array(sizes)).weighted_f1.value
            assert score == pytest.approx(oracle)
        assert choice.chosen == max(choice.scores, key=choice.scores.__getitem__) == "learns"
    assert found.best == "learns"


def test_the_report_scores_each_fold_by_what_the_others_chose(nested: Path) -> None:
    found = choices_in(nested)
    parts = [nested / choice.chosen / f"fold-{choice.fold}" for choice in found.folds]
    told = [judged(run, patients(run)["validation"]) for run in parts]
    labels, calls, scores = ([value for part in told for value in part[place]] for place in range(3))
    report = json.loads((nested / "report" / "report.json").read_text())
    assert report["scores"]["vote"]["weighted_f1"]["value"] == pytest.approx(f1_score(labels, calls, average="weighted"))
    assert report["scores"]["vote"]["auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert [row["name"] for row in report["comparison"]["rows"]] == ["stands", "learns"]
    assert "chosen for 3 of 3 folds" in report["comparison"]["rows"][1]["note"]
    page = (nested / "report" / "index.html").read_text()
    assert "Nested cross validation of 2 recipes over 3 folds" in page
    assert "the choice among them had no part in these scores" in page


def test_a_recipe_is_chosen_by_plain_scores_where_sizes_are_not_measured(nested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.train.report.writer._floats", lambda tensors, name: None)
    found = choose_recipes(nested, tuple(RECIPES), FOLDS)
    runs = [nested / "learns" / f"fold-{fold}" for fold in range(1, FOLDS + 1)]
    told = [judged(run, patients(run)["validation"]) for run in runs]
    labels, calls = ([value for part in told for value in part[place]] for place in range(2))
    assert found.criterion == "weighted F1"
    assert found.scores["learns"] == pytest.approx(f1_score(labels, calls, average="weighted"))


def test_a_lost_pair_is_trained_again_and_nothing_else(nested: Path, cells: Path) -> None:
    before, choices = {path: path.stat().st_mtime_ns for path in nested.rglob("ensemble.safetensors")}, choices_in(nested)
    lost = nested / "stands" / "pairs" / "2-3"
    for path in sorted(lost.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match="--resume"):
        nested_cross_validate(cells, RECIPES, nested)
    assert nested_cross_validate(cells, RECIPES, nested, resume=True, cache=nested.parent / "cache") == choices
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {lost / "ensemble.safetensors"}


@pytest.mark.parametrize(
    ("recipes", "problem"),
    [
        ({"one": LEARNS}, "two recipes"),
        ({"one": LEARNS, "report": LEARNS}, "can't be the name of a recipe"),
        ({"one": LEARNS, "../two": LEARNS}, "can't be the name of a recipe"),
        ({"one": LEARNS, "two": LEARNS.model_copy(update={"data": DataConfig(folds=4)})}, r"\[data\] must be the same"),
        ({name: LEARNS.model_copy(update={"data": DataConfig(folds=2)}) for name in ("one", "two")}, "folds = 3 or more"),
    ],
)
def test_recipes_that_cannot_be_compared_are_refused(
    cells: Path, tmp_path: Path, recipes: dict[str, TrainConfig], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        nested_cross_validate(cells, recipes, tmp_path / "out")
    assert not (tmp_path / "out").exists()
