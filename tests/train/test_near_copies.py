"""Cells that were cut out and coloured anew are found under other ids, and no two different cells are taken for one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.errors import DataError
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.people import TWIN_PATIENTS, join_ids, person_of, write_people
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.train.config import SHIPPED, DataConfig, TrainConfig
from blastscope.train.data_loader import CropStore, cache_crops
from blastscope.train.near_copies import NearCopy, compare_cells, find_near_copies, ids_to_join
from blastscope.train.pipeline import train_ensemble
from blastscope.train.progress import TrainingProgress
from blastscope.train.split import split_cells

CROP = TrainConfig.from_toml(SHIPPED).crop
# ids of one person that share cells, and other people whose cells are the most alike
WHOSE = {"1", "15", "16", "17", "20", "43", "44", "H14", "H24", "14", "28", "H15", "H19"}
TINY = TrainConfig.model_validate(
    {
        "crop": {"side_px": 32},
        "network": {"backbone": "test_efficientnet", "weights": "none"},
        "stage1": {"epochs": 1, "batch_size": 8},
        "stage2": {"epochs": 1, "batch_size": 8, "hidden": 16},
        "compute": {"device": "cpu", "precision": "fp32"},
    }
)


def store_of(root: Path, cache: Path) -> CropStore:
    return cache_crops(scan_dataset(root), CROP, cache)


@pytest.fixture(scope="module")
def real(cnmc: Path, tmp_path_factory: pytest.TempPathFactory) -> CropStore:
    root = tmp_path_factory.mktemp("some")
    for label in ("all", "hem"):
        (root / label).mkdir()
    for path in sorted(cnmc.rglob("*.webp")):
        if path.name.split("_")[1].upper() in WHOSE:
            (root / path.parent.name / path.name).symlink_to(path)
    return store_of(root, root / "cache")


@pytest.fixture(scope="module")
def found(real: CropStore) -> tuple[NearCopy, ...]:
    return find_near_copies(real)


def cut_anew(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The cell with a narrower rim on one side, moved, darker and redder."""
    inside = cv2.erode((image.max(axis=2) > 0).astype(np.uint8), np.ones((9, 9), np.uint8), anchor=(8, 8))
    coloured = np.clip(image.astype(np.float64) ** 0.95 * [0.85, 0.95, 1.1], 1, 255).astype(np.uint8)
    moved: NDArray[np.uint8] = np.roll(coloured * inside[:, :, None], (5, -7), axis=(0, 1))
    return moved


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Drawn cells of twelve people; H101 holds a cell of H1, cut out anew, and H109 the same one turned, which isn't found."""
    root = write_synthetic_dataset(tmp_path / "data", patients=12, cells_each=4, size_px=160)
    first = next(root.rglob("UID_H1_1_1_hem.png"))
    drawn = np.asarray(cv2.imread(str(first), cv2.IMREAD_COLOR))
    grain = cv2.GaussianBlur(np.random.default_rng(3).normal(0, 60, drawn.shape[:2]), (0, 0), 1.5)
    cell = np.where(drawn > 0, np.clip(drawn + np.asarray(grain)[:, :, None], 1, 255), 0).astype(np.uint8)
    anew = cut_anew(cell)
    for patient, image in {"H1": cell, "H101": anew, "H109": np.rot90(anew, 2)}.items():
        cv2.imwrite(str(first.with_name(f"UID_{patient}_1_1_hem.png")), image)
    return root


def test_no_two_people_of_c_nmc_seem_to_share_a_cell(real: CropStore, found: tuple[NearCopy, ...]) -> None:
    people = [(real.cells[copy.first].person, real.cells[copy.second].person) for copy in found]
    assert [pair for pair in people if pair[0] != pair[1]] == []
    assert ids_to_join(real.cells, found) == []


@pytest.mark.parametrize("twins", [{"1", "15", "16", "17", "20"}, {"43", "44"}, {"H14", "H24"}])
def test_shared_cells_alone_lead_to_the_listed_twins(
    real: CropStore, found: tuple[NearCopy, ...], twins: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(real.cells[copy.first].patient, real.cells[copy.second].patient) for copy in found]
    joined = join_ids(WHOSE, pairs)
    assert {patient for patient in WHOSE if joined[patient] == joined[min(twins)]} == twins
    assert any(twins <= set(group) for group in TWIN_PATIENTS)


def test_a_real_cell_that_is_cut_out_and_coloured_anew_is_found(cnmc: Path, tmp_path: Path) -> None:
    for label in ("all", "hem"):
        (tmp_path / label).mkdir()
        for path in sorted(cnmc.rglob(f"UID_*_{label}.webp"))[:60:3]:
            shutil.copy(path, tmp_path / label / path.name)
            image = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)
            patient = "900" if label == "all" else "H900"
            cv2.imwrite(str(tmp_path / label / path.name.replace(path.name.split("_")[1], patient, 1)), cut_anew(image))
    store = store_of(tmp_path, tmp_path / "cache")
    copies = find_near_copies(store)
    named = {frozenset(store.cells[place].path.stem.split("_", 2)[2] for place in copy[:2]) for copy in copies}
    assert len(copies) >= 38  # of 40: a rim that is narrower by 8 px moves a cell's middle
    assert all(len(names) == 1 for names in named)


def test_flat_cells_are_not_taken_for_one_another(tmp_path: Path) -> None:
    for number, (label, patient) in enumerate([("all", "101"), ("all", "102"), ("hem", "H101"), ("hem", "H102")]):
        image = np.zeros((120, 120, 3), np.uint8)
        cv2.circle(image, (60, 60), 40 + number, (120, 60, 90), -1)
        (tmp_path / label).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / label / f"UID_{patient}_1_1_{label}.bmp"), image)
    assert find_near_copies(store_of(tmp_path, tmp_path / "cache"), limit=0) == ()


def test_pairs_are_cached_and_a_damaged_cache_is_made_anew(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def counted(store: CropStore, **given: Any) -> tuple[NearCopy, ...]:
        compared.append(len(store.cells))
        return find_near_copies(store, **given)

    monkeypatch.setattr("blastscope.train.near_copies.find_near_copies", counted)
    folder = scan_dataset(copied)
    with TrainingProgress(Console(quiet=True)) as progress:
        first = compare_cells(folder, tmp_path / "cache", progress).copies
        assert compare_cells(folder, tmp_path / "cache", progress).copies == first
        assert (len(first), compared) == (1, [50])
        (kept,) = (tmp_path / "cache").glob("copies-*.json")
        assert kept.stat().st_mode & 0o077 == 0
        kept.write_text("[[5, 3, 0.9]]")
        assert compare_cells(folder, tmp_path / "cache", progress).copies == first
    assert compared == [50, 50]


def test_a_run_says_which_ids_seem_to_be_one_person_until_they_are_joined(copied: Path, tmp_path: Path) -> None:
    def notes(name: str) -> list[str]:
        run = train_ensemble(copied, TINY, tmp_path / name, cache=tmp_path / "cache", report=False)
        return [note for note in json.loads((run / "run.json").read_text())["notes"] if "seem to share" in note]

    assert [note.split(" seem")[0] for note in notes("apart")] == ["patients H1 and H101"]
    write_people(copied / "people.csv", {"H1": "H1", "H101": "H1"})
    assert notes("joined") == []
    cells = scan_dataset(copied).cells
    for seed in range(4):
        split = split_cells(cells, DataConfig(seed=seed))
        sides = [{cells[row].patient for row in rows} for rows in (split.training, split.validation)]
        assert any({"H1", "H101"} <= side for side in sides)


def test_find_copies_writes_the_table_that_joins_them(copied: Path, tmp_path: Path) -> None:
    table, sheet = copied / "people.csv", tmp_path / "pairs.png"
    options = ["--out", str(table), "--sheet", str(sheet), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(app, ["find-copies", str(copied), *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("H1 and H101: 1 cell, correlation up to 0.")
    assert table.read_text() == "patient,person\nH1,H1\nH2,H2\nH5,H2\nH7,H2\nH101,H1\n"
    assert cv2.imread(str(sheet)).shape == (192 + 24 + 8, 4 * 200 + 8, 3)
    again = CliRunner().invoke(app, ["find-copies", str(copied), "--json", "--cache", str(tmp_path / "cache")])
    assert json.loads(again.stdout) == {"cells": 50, "pairs": 0, "ids": []}


def test_people_of_the_table_are_joined_with_those_of_shared_cells(tmp_path: Path) -> None:
    root = write_synthetic_dataset(tmp_path, patients=12, cells_each=1, size_px=64)
    (root / "people.csv").write_text(
        "\ufeffpatient,person,why\r\nh5,the tall one,seen\r\nH3,the tall one,seen\r\n", encoding="utf-8"
    )
    people = scan_dataset(root).people
    assert people["H3"] == people["H5"] == people["H2"] == person_of("H2")  # H5 is H2 in C-NMC
    assert people["H1"] == "H1"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("id,person\nH1,a\n", "columns patient and person"),
        ("patient,person\nH1\n", "columns patient and person"),
        ("patient,person\nH1,\n", "empty cell"),
        ("patient,person\nH1,a\nh1,b\n", "patient 'H1' is 'a' and 'b'"),
        ("patient,person\nH1,a\n2,a\n", "labelled hem: 2, H1"),
        ("patient,person\n\x00\xff", "can't be read"),
    ],
)
def test_a_table_of_people_that_says_nothing_clear_is_refused(tmp_path: Path, table: str, problem: str) -> None:
    root = write_synthetic_dataset(tmp_path, patients=4, cells_each=1, size_px=64)
    (root / "people.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(DataError, match=problem) as caught:
        scan_dataset(root)
    assert "people.csv" in str(caught.value)
