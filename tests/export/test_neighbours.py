"""`add-neighbours` puts the training's cells into a bundle, rounded so that the nearest stay the nearest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from typer.testing import CliRunner

import blastscope
from blastscope import SHIPPED_BUNDLE
from blastscope.cli import app
from blastscope.export import neighbours
from blastscope.runtime.bundle import read_bundle, update_bundle
from blastscope.runtime.bundle.neighbour_index import read_index, rounded_features
from blastscope.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from conftest import TinyBundle

EVERY = 60


@pytest.fixture(scope="module")
def cells(cnmc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every sixtieth cell, in the archive's own folders."""
    place = tmp_path_factory.mktemp("cells")
    for label in ("all", "hem"):
        (place / label).mkdir()
        for file in sorted(cnmc.rglob(f"*_{label}.webp"))[::EVERY]:
            shutil.copyfile(file, place / label / file.name)
    return place


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The shipped bundle without its index."""
    shutil.copytree(SHIPPED_BUNDLE, tmp_path / "bundle")
    found = read_bundle(tmp_path / "bundle")
    update_bundle(found, found.manifest.model_copy(update={"neighbours": None}), {})
    return tmp_path / "bundle"


def test_the_index_holds_the_features_of_the_trainings_cells(bundle: Path, cells: Path, tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = CliRunner(env=environment).invoke(app, ["add-neighbours", str(bundle), "--data", str(cells), "--json"])
    assert done.exit_code == 0, done.stderr
    told, found = json.loads(done.stdout), read_bundle(bundle)
    index, entry = read_index(found), found.manifest.neighbours
    assert index is not None
    assert entry is not None
    assert told["neighbours"] == json.loads(entry.model_dump_json())
    assert "the index keeps" in done.stderr
    with blastscope.open_bundle(bundle, cache_dir=tmp_path / "cache") as scope, scope.open_archive(cells) as exact:
        names = {cell.file: row for row, cell in enumerate(exact.cells)}
        rows = [names[file] for file in index.files]
        assert sorted(rows) == list(range(len(exact.cells)))
        assert np.array_equal(index.features, rounded_features(exact.features)[rows])
        with scope.open_archive() as own:
            nearest = own.nearest(next(iter(sorted(cells.rglob("*_all.webp")))), 3)
        assert [one.cell.path for one in nearest] == [None] * 3
        assert nearest[0].distance < 0.02 < nearest[1].distance
    oracle = [NearestNeighbors(n_neighbors=6).fit(some).kneighbors(exact.features) for some in (exact.features, index.features)]
    kept = [len({*one[1:]} & {*other[1:]}) / 5 for one, other in zip(oracle[0][1], oracle[1][1], strict=True)]
    assert np.mean(kept) > 0.95  # 0.99 over all 5,691 cells
    assert neighbours.nearest_kept(exact.features, index.features) == pytest.approx(np.mean(kept), abs=0.02)


def test_cells_of_people_who_were_held_out_are_no_neighbours(bundle: Path, cells: Path, tmp_path: Path) -> None:
    found = read_bundle(bundle)
    patients = found.manifest.training.patients
    trained = tuple(patient for patient in patients.training if not patient.startswith("H1"))
    training = found.manifest.training.model_copy(update={"patients": patients.model_copy(update={"training": trained})})
    update_bundle(found, found.manifest.model_copy(update={"training": training}), {})
    index = read_index(neighbours.add_neighbours(bundle, cells, cache_dir=tmp_path / "cache"))
    assert index is not None
    assert not any(patient.startswith("H1") for patient in index.patients)
    assert any(patient.startswith("H2") for patient in index.patients)


def test_data_without_the_trainings_people_are_told(bundle: Path, cells: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for label, name in (("all", "UID_901_1_1_all.webp"), ("hem", "UID_H901_1_1_hem.webp")):
        (others / label).mkdir(parents=True)
        shutil.copyfile(min((cells / label).iterdir()), others / label / name)
    with pytest.raises(DataError, match="holds no cell of a patient that the bundle was trained on"):
        neighbours.add_neighbours(bundle, others, cache_dir=tmp_path)


def test_a_bundle_of_random_weights_has_no_neighbours(tiny_bundle: TinyBundle, cells: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="random weights"):
        neighbours.add_neighbours(tiny_bundle.make("fp32"), cells, cache_dir=tmp_path)


def test_inspect_tells_of_an_index(bundle: Path) -> None:
    shipped = CliRunner().invoke(app, ["inspect"]).stdout
    assert "5691 cells of 35 people" in shipped
    assert "neighbours" not in CliRunner().invoke(app, ["inspect", str(bundle)]).stdout
