"""Pictures of one cell with its background: the cell in the middle is cut out, put on black and called or refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app


@pytest.fixture(scope="module")
def pbc(shared_data: Path) -> Path:
    folder = shared_data / "pbc"
    if not folder.is_dir():
        pytest.skip(f"pictures of single cells with background are not at hand: no '{folder}'")
    return folder


def some(folder: Path, kind: str, count: int) -> list[Path]:
    return sorted(path for path in folder.rglob("*.jpg") if path.parent.name == kind)[:count]


def test_no_cell_of_another_kind_is_called_in_pictures_of_another_scanner(pbc: Path, tmp_path: Path) -> None:
    kinds = ("monocyte", "neutrophil", "eosinophil", "basophil", "ig", "erythroblast", "platelet")
    files = [path for kind in kinds for path in some(pbc, kind, 6)]
    assert len(files) == 42
    with blastscope.open_bundle(workload="throughput", cache_dir=tmp_path) as scope:
        answers = list(scope.classify_pictures(files, pixel_um=0.1))
    assert [path for path, _ in answers] == files
    assert [path for path, answer in answers if answer.label is not None] == []


def test_the_cell_in_the_middle_is_the_one_that_is_called(pbc: Path, tmp_path: Path) -> None:
    (file,) = some(pbc, "lymphocyte", 1)
    picture = cv2.cvtColor(np.asarray(cv2.imread(str(file)), np.uint8), cv2.COLOR_BGR2RGB)
    with blastscope.open_bundle(cache_dir=tmp_path, unlike_training="call") as scope:
        ((_, alone),) = scope.classify_pictures([file], pixel_um=0.1)
        report = scope.examine(picture, pixel_um=0.1)
    assert alone.label is not None
    middle = report.middle_cell
    assert middle is not None
    x0, y0, x1, y1 = middle.box
    assert x0 < picture.shape[1] / 2 < x1
    assert y0 < picture.shape[0] / 2 < y1
    assert middle.prediction is not None
    assert middle.prediction.score == pytest.approx(alone.score, abs=1e-5)


def test_a_picture_without_a_cell_is_refused_and_the_rest_go_on(pbc: Path, tmp_path: Path) -> None:
    empty, broken = tmp_path / "glass.png", tmp_path / "broken.png"
    cv2.imwrite(str(empty), np.full((300, 300, 3), 235, np.uint8))
    broken.write_bytes(b"no picture")
    (cell,) = some(pbc, "lymphocyte", 1)
    words = ["classify", str(empty), str(broken), str(cell), "--on-black", "--pixel-um", "0.1", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["refusal"] for row in rows] == ["empty", "undecodable", "unlike-training"]


def test_a_scale_without_on_black_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["classify", str(tmp_path), "--pixel-um", "0.1"])
    assert done.exit_code == 2
    assert "--pixel-um goes with --on-black" in done.stderr
