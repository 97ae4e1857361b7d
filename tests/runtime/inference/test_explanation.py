"""Explanations: covering what they name changes a call more than covering anything else, and pictures are drawn of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app
from blastscope.runtime.errors import UsageError
from blastscope.runtime.inference.explanation import called_margins, cover
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import Scope


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scope]:
    place = tmp_path_factory.mktemp("cache")
    with blastscope.open_bundle(precision="fp32", execution="f32", workload="throughput", cache_dir=place) as opened:
        yield opened


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


def test_the_verb_draws_a_picture_of_each_cell(tmp_path: Path) -> None:
    cell = tmp_path / "cell.png"
    Image.fromarray(blastscope.synthetic_cell(seed=7)).save(cell)
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    words = ["explain", str(tmp_path / "black.png"), str(cell), "--out", str(tmp_path / "out"), "--unlike-training", "call"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 1, done.stderr
    assert "1 of 2 images refused" in done.stderr
    refused, row = map(json.loads, done.stdout.splitlines())
    assert refused["refusal"].startswith("empty: ")
    assert row["prediction"]["label"] in ("hem", "all")
    with Image.open(row["picture"]) as picture:
        assert picture.size == (1008, 582)
        pixels = np.asarray(picture.convert("RGB"), np.int64)
    right = pixels[44:524, 512:992].reshape(-1, 3)
    assert (np.abs(right - right.mean(axis=1, keepdims=True)).max(axis=1) > 30).any()  # the map is in colour
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cell.png.explained.png"]
