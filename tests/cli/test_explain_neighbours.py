"""`blastscope explain` shows labelled cells that are like a cell."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from few_cells import copy_few_cells
from PIL import Image
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app
from blastscope.runtime.bundle import read_bundle, update_bundle
from blastscope.runtime.errors import MissingLibrary, UsageError
from blastscope.runtime.session import Scope

if TYPE_CHECKING:
    pass


@pytest.fixture(scope="module")
def folder(cnmc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_few_cells(cnmc, tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_verb_shows_the_nearest_in_json_text_and_picture(folder: Path, cache: Path, tmp_path: Path) -> None:
    logging.getLogger("blastscope").setLevel(logging.WARNING)
    cell = sorted((folder / "all").iterdir())[4]
    environment = {"XDG_CACHE_HOME": str(cache)}
    words = ["explain", str(cell), "--archive", str(folder), "--nearest", "9", "--unlike-training", "call"]
    done = CliRunner(env=environment).invoke(app, [*words, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)
    assert [set(one) for one in row["nearest"]] == [{"path", "box", "file", "label", "patient", "person", "distance"}] * 9
    assert row["nearest"][0]["path"] == str(cell)
    assert row["nearest"][0]["distance"] < 1e-4
    assert row["nearest"][0]["patient"] == cell.name.split("_")[1]
    distances = [one["distance"] for one in row["nearest"]]
    assert distances == sorted(distances)
    with Image.open(row["picture"]) as picture:
        assert picture.width == 1008
        assert picture.height > 640 + 2 * 128  # two rows of cells below
        below = np.asarray(picture.convert("RGB"))[640:]
    assert (below.max(axis=2) == 0).mean() > 0.1  # black around the cells
    plain = CliRunner(env=environment).invoke(app, words)
    assert "; labelled cells most like it: " in plain.stdout
    assert f"(ALL of patient {cell.name.split('_')[1]} at 0.00; " in plain.stdout


def explained(*words: str, cache: Path) -> dict[str, object]:
    """What `explain` prints of one image, as JSON."""
    environment = {"XDG_CACHE_HOME": str(cache)}
    done = CliRunner(env=environment).invoke(app, ["explain", *words, "--unlike-training", "call", "--json"])
    assert done.exit_code == 0, done.stderr
    row: dict[str, object] = json.loads(done.stdout)
    return row


def test_without_an_archive_the_bundles_index_tells_the_nearest(folder: Path, cache: Path, tmp_path: Path) -> None:
    cell = sorted((folder / "all").iterdir())[4]
    row = explained(str(cell), "--out", str(tmp_path), cache=cache)
    assert isinstance(row["nearest"], list)
    first = row["nearest"][0]
    patient = cell.name.split("_")[1]
    assert [first[key] for key in ("path", "box", "file", "label", "patient")] == [None, None, cell.name, "all", patient]
    assert 0 < first["distance"] < 0.02 < row["nearest"][1]["distance"]
    assert len(row["nearest"]) == 5
    with Image.open(tmp_path / f"{cell.stem}.explained.png") as picture:
        assert 640 < picture.height < 640 + 10 * 18  # lines of text, no pictures
    assert "nearest" not in explained(str(cell), "--nearest", "0", cache=cache)


def test_a_bundle_without_an_index_tells_no_cells(folder: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(blastscope.SHIPPED_BUNDLE, tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    update_bundle(bundle, bundle.manifest.model_copy(update={"neighbours": None, "format": "1.4"}), {})
    cell = sorted((folder / "all").iterdir())[4]
    assert "nearest" not in explained(str(cell), "--bundle", str(tmp_path / "bundle"), cache=cache)
    why = r"no index of the training's cells.*add-neighbours"
    with blastscope.open_bundle(tmp_path / "bundle", cache_dir=cache) as scope, pytest.raises(UsageError, match=why):
        scope.open_archive()


def test_an_image_that_is_refused_opens_no_archive(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (300, 300)).save(tmp_path / "black.png")
    monkeypatch.setattr(Scope, "open_archive", lambda *_: pytest.fail("the archive was opened"))
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "black.png"), "--archive", str(folder)])
    assert done.exit_code == 1
    assert "nothing is brighter" in done.stdout
    gone = CliRunner().invoke(app, ["explain", str(tmp_path / "black.png"), "--archive", str(tmp_path / "gone")])
    assert gone.exit_code == 2
    assert "no such folder or table" in gone.stderr


def test_a_machine_without_openvino_explains_all_the_same(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> None:
        raise MissingLibrary("openvino", "cpu")

    monkeypatch.setattr(Scope, "open_archive", lacking)
    cell = sorted((folder / "all").iterdir())[4]
    assert explained(str(cell), cache=cache)["nearest"] == []


def test_an_archive_alone_is_no_reason_to_examine(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["examine", str(tmp_path), "--archive", str(tmp_path)])
    assert done.exit_code == 2
    assert "--archive goes with --explain" in done.stderr
