"""train/stages.py: what each of the three networks is trained on, and what is done to it before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.runtime.types import CLASSES
from blastscope.train import stages
from blastscope.train.config import ScheduleConfig, TrainConfig
from blastscope.train.data_loader import cache_crops
from blastscope.train.network import make_voter
from blastscope.train.progress import TrainingProgress
from blastscope.train.split import split_cells
from blastscope.train.stages import Job, TrainingRows, apply_logit_shift, feature_rows, train_combined, train_voters
from blastscope.train.trainer import make_fabric

PLAIN = {"rotation_deg": 0, "flip_horizontal": False, "flip_vertical": False, "noise": 0, "contrast": 0, "channel": 0}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_dataset(tmp_path_factory.mktemp("cells"), patients=4, cells_each=3, size_px=64)


def job(cells: Path, place: Path, **sections: object) -> Job:
    network = {"backbone": "test_efficientnet", "weights": "none"}
    facts = {"crop": {"side_px": 32}, "network": network, "compute": {"device": "cpu", "precision": "fp32"}}
    config = TrainConfig.model_validate({**facts, **sections})
    store = cache_crops(scan_dataset(cells), config.crop, place / "cache")
    machine, split = make_fabric(config.compute), split_cells(store.cells, config.data)
    return Job(config, store, split, place / "run", machine, TrainingProgress(), place / "cache")


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[nn.Module, TrainingRows]]:
    """What would be trained, by the network's name, as it stands before the first step."""
    seen: dict[str, tuple[nn.Module, TrainingRows]] = {}
    monkeypatch.setattr(stages, "_fit", lambda _, name, network, rows: seen.update({name: (network, rows)}))
    return seen


def test_a_and_b_begin_with_one_backbone_and_last_layers_of_their_own(
    cells: Path, tmp_path: Path, fitted: dict[str, tuple[nn.Module, TrainingRows]]
) -> None:
    here = job(cells, tmp_path)
    train_voters(here, make_voter(here.config)[0])
    (a, rows_a), (b, rows_b) = fitted["a"], fitted["b"]
    alike = {name: torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items()}
    assert {name for name, same in alike.items() if not same} == {"classify.weight", "classify.bias"}
    assert set(rows_a.training.cells) == set(rows_b.training.cells) == set(here.split.training)
    assert (rows_a.training.augmented != rows_b.training.augmented).any()


def test_fine_tuned_backbones_see_every_training_cell_augmented(
    cells: Path, tmp_path: Path, fitted: dict[str, tuple[nn.Module, TrainingRows]]
) -> None:
    here = job(cells, tmp_path, stage2={"fine_tune": True, "hidden": 8})
    voter = make_voter(here.config)[0]
    train_combined(here, voter, voter)
    _, rows = fitted["combined"]
    assert rows.training.cells.tolist() == here.split.training.tolist()
    assert rows.training.augmented.all()
    assert rows.inputs is here.store.crops  # and so each epoch anew


def test_the_combined_head_begins_alike_whatever_ran_before(
    cells: Path, tmp_path: Path, fitted: dict[str, tuple[nn.Module, TrainingRows]]
) -> None:
    here = job(cells, tmp_path, stage2={"hidden": 8})
    voter = make_voter(here.config)[0]
    heads = []
    for _ in range(2):
        train_combined(here, voter, voter)
        heads.append(fitted["combined"][0].state_dict())
        torch.rand(1)
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_copys_features_stand_beside_its_own_label_and_patient(cells: Path, tmp_path: Path) -> None:
    here = job(cells, tmp_path, augment=PLAIN, stage2={"augmented_copies": 2, "hidden": 8})
    voter = make_voter(here.config)[0].eval()
    rows, training = feature_rows(here, voter, voter), here.split.training
    own = rows.inputs[training]
    assert rows.training.cells.tolist() == [*training, *range(len(here.store.cells), len(rows.inputs))]
    for start in (len(here.store.cells), len(here.store.cells) + len(training)):  # nothing is augmented, so copies are alike
        np.testing.assert_allclose(rows.inputs[start : start + len(training)], own, atol=1e-5)
        assert rows.labels[start : start + len(training)].tolist() == here.store.labels[training].tolist()
        assert rows.patients[start : start + len(training)].tolist() == here.store.patients[training].tolist()


def test_each_copy_is_augmented_in_its_own_way(cells: Path, tmp_path: Path) -> None:
    here = job(cells, tmp_path, stage2={"augmented_copies": 2, "hidden": 8})
    voter = make_voter(here.config)[0].eval()
    rows, training = feature_rows(here, voter, voter).inputs, here.split.training
    first, second = np.split(rows[len(here.store.cells) :], 2)
    for one, other in ((first, second), (first, rows[training]), (second, rows[training])):
        assert (np.abs(one - other).max(axis=1) > 1e-4).all()


def test_a_shift_goes_to_the_logit_of_all() -> None:
    layer = nn.Linear(3, 2)
    before = layer.bias.tolist()
    apply_logit_shift(layer, ScheduleConfig(all_logit_shift=0.25))
    moved = np.subtract(layer.bias.tolist(), before)
    assert moved[CLASSES.index("all")] == pytest.approx(0.25)
    assert moved[CLASSES.index("hem")] == 0
