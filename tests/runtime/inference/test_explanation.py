"""Explanations: covering what they name changes a call more than covering anything else, and pictures are drawn of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app
from blastscope.runtime.errors import UsageError
from blastscope.runtime.inference import explanation
from blastscope.runtime.inference.explanation import Explanation, called_margins, cover
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import Scope
from blastscope.runtime.types import Audit, Prediction


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scope]:
    place = tmp_path_factory.mktemp("cache")
    with blastscope.open_bundle(precision="fp32", execution="f32", workload="throughput", cache_dir=place) as opened:
        yield opened


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger squares, and so a fifth of the inferences; elsewhere squares are as users get them."""
    monkeypatch.setattr(explanation, "PATCHES", 5)


@pytest.fixture
def four_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most nine squares, four of which share no pixel: where it doesn't matter what they show."""
    monkeypatch.setattr(explanation, "PATCHES", 2)


@pytest.mark.usefixtures("coarse")
def test_covering_the_strongest_squares_costs_more_than_random_ones(cnmc: Path, scope: Scope) -> None:
    """The deletion test, on ten real cells: the same number of squares, chosen by the explanation and at random."""
    rng = np.random.default_rng(0)
    files = [*sorted((cnmc / "fold_0" / "all").glob("*"))[::200][:6], *sorted((cnmc / "fold_0" / "hem").glob("*"))[::150][:6]]
    falls = []
    for file in files:
        image = read_image(file)
        assert isinstance(image, np.ndarray)
        if scope.classify(image).refusal:
            continue
        explained = scope.explain(image)
        count = len(explained.boxes) // 6
        chosen = [np.argsort(explained.support)[-count:], *(rng.permutation(len(explained.boxes))[:count] for _ in range(5))]
        pictures = np.repeat(explained.crop[None], len(chosen) + 1, axis=0)
        for picture, squares in zip(pictures[1:], chosen, strict=True):
            for square in squares:
                cover(picture, explained.boxes[square])
        margins = called_margins(explained.prediction, scope.infer(pictures))
        fall = margins[0] - margins[1:]
        falls.append(fall[0] - fall[1:].mean())
    assert len(falls) >= 8
    assert np.mean(np.array(falls) > 0) >= 0.8
    assert np.mean(falls) > 0.3


def test_a_refused_cell_has_nothing_to_explain(scope: Scope) -> None:
    with pytest.raises(UsageError, match="no call to explain, the cell is refused: its features lie"):
        scope.explain(blastscope.synthetic_cell(seed=7))
    with pytest.raises(UsageError, match="nothing is brighter than background"):
        scope.explain(np.zeros((300, 300, 3), np.uint8))


@pytest.mark.usefixtures("four_squares")
def test_a_path_and_bytes_and_a_pil_image_are_explained_as_arrays_are(scope: Scope, cnmc: Path, tmp_path: Path) -> None:
    file = next(one for one, call in scope.classify_files(cnmc / "fold_0" / "hem") if call.label)
    pixels = read_image(file)
    assert isinstance(pixels, np.ndarray)
    wanted = scope.explain(pixels).support
    for image in (file, str(file), file.read_bytes(), Image.fromarray(pixels)):
        assert scope.explain(image).support == pytest.approx(wanted)
    with pytest.raises(UsageError, match="the cell is refused: can't be read: No such file"):
        scope.explain(tmp_path / "gone.png")


def test_a_line_that_fills_no_square_is_explained_too(tmp_path: Path) -> None:
    line = np.zeros((450, 450, 3), np.uint8)
    cv2.line(line, (60, 60), (390, 390), (180, 120, 200), 3)
    Image.fromarray(line).save(tmp_path / "line.png")
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "line.png"), "--unlike-training", "call"])
    assert "supports the call most" in done.stdout


@pytest.mark.usefixtures("four_squares")
def test_each_cell_gets_a_picture_of_its_own_whatever_it_is_called(tmp_path: Path) -> None:
    names = ["a/x.png", "a-x.png", "b/x.png", "X.bmp", f"{'long' * 60}.png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blastscope.synthetic_cell(seed=7)).save(tmp_path / "in" / name)
    words = ["explain", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--unlike-training", "call", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    written = {json.loads(line)["picture"] for line in done.stdout.splitlines()}
    assert written == {str(path) for path in (tmp_path / "out").iterdir()}
    assert len({path.lower() for path in written}) == len(names)


def test_a_file_in_the_place_of_the_folder_for_pictures_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    Image.fromarray(blastscope.synthetic_cell(seed=7)).save(tmp_path / "cell.png")
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "cell.png"), "--out", str(tmp_path / "out")])
    assert "is a file, where a folder is asked for" in done.stderr
    assert (tmp_path / "out").read_text() == "mine"


def test_contrast_leaves_out_what_a_cover_does_by_itself() -> None:
    crop = np.zeros((40, 40, 3), np.uint8)
    crop[:, 10:] = 90
    boxes = tuple((x, y, x + 20, y + 20) for y in (0, 20) for x in (0, 20))  # the left ones hide half as much of the cell
    call = Prediction("all", 0.9, 0.9, "a", None, (0, 0, 40, 40), None, Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32"))
    assert np.abs(Explanation(call, crop, boxes, (-0.5, -1.0, -0.5, -1.0)).contrast).max() < 1e-6
    found = Explanation(call, crop, boxes, (-0.5, -1.0, -0.5, -0.25)).contrast
    assert found[30, 30] == pytest.approx(0.75)
    assert np.abs(found[:20]).max() < 1e-6


def test_the_verb_draws_a_picture_of_each_cell(tmp_path: Path) -> None:
    cell = tmp_path / "cell.png"
    Image.fromarray(blastscope.synthetic_cell(seed=7)).save(cell)
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    words = ["explain", str(tmp_path / "black.png"), str(cell), "--out", str(tmp_path / "out"), "--unlike-training", "call"]
    done = CliRunner().invoke(app, [*words, "--nearest", "0", "--json"])
    assert done.exit_code == 1, done.stderr
    assert "1 of 2 images refused" in done.stderr
    refused, row = map(json.loads, done.stdout.splitlines())
    assert (refused["refusal"], refused["picture"]) == ("empty", None)
    assert refused["detail"].startswith("nothing is brighter")
    assert row["prediction"]["label"] in ("hem", "all")
    with Image.open(row["picture"]) as picture:
        assert picture.size == (1008, 640)
        pixels = np.asarray(picture.convert("RGB"), np.int64)
    right = pixels[70:550, 512:992].reshape(-1, 3)
    assert (np.abs(right - right.mean(axis=1, keepdims=True)).max(axis=1) > 30).any()  # the map is in colour
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cell.explained.png"]
