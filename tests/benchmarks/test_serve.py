"""Calls through the server beside `classify_many`: what the rows hold, and what a run refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
from served import png

from blastscope.benchmarks.results import read_result
from blastscope.benchmarks.serve import main, served_lines


@pytest.fixture
def cells(tiny_bundle: Any, tmp_path: Path) -> Path:
    """A folder of seven cells."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for seed in range(7):
        (folder / f"{seed}.png").write_bytes(png(tiny_bundle.cell(seed)))
    return folder


def test_each_way_of_asking_is_measured_beside_the_runtime(
    tiny_bundle: Any, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rounds", "2", "--clients", "2", "--images", "1", "3", "--bundle", str(tiny_bundle.make("fp32"))]
    main([str(cells), *words, "--output", str(tmp_path / "served.json")])
    result = read_result(tmp_path / "served.json")
    ways = ("grpc", "http", "grpc-3", "http-3", "grpc-3-pixels", "http-3-pixels")
    assert (
        {(row.scope, row.name.rpartition("/")[2], row.batch, row.calls) for row in result.rows}
        == {
            *(("served", name, 7, 2) for name in ("classify_many", "classify_many-pixels", *ways)),
            *(("request", name, 1, 14) for name in ways[:2]),  # four and three cells, in two rounds
            *(("request", name, 3, 6) for name in ways[2:]),  # of the four cells one comes alone
        }
    )
    notes = {row.name.rpartition("/")[2]: row.notes for row in result.rows}
    assert notes["grpc-3-pixels"] == ("2 clients, 3 images a request, as pixels",)
    assert (notes["http"], notes["classify_many"]) == (("2 clients, 1 image a request",), ())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == served_lines(result.rows)
    assert tuple(line["name"].rpartition("/")[2] for line in lines) == ways
    for line in lines:
        assert line["ratio"] == pytest.approx(line["served_per_s"] / line["classify_many_per_s"], rel=0.02)
        assert 0 < line["p50_ms"] <= line["p99_ms"]
        spent_ms = line["server_cpu_ms"] + line["clients_cpu_ms"]
        assert line["cpu_ratio"] == pytest.approx(line["classify_many_cpu_ms"] / spent_ms, rel=0.05)
        assert min(line["classify_many_cpu_ms"], line["server_cpu_ms"], line["clients_cpu_ms"]) > 0


def test_a_folder_without_cells_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no image of a cell" in capsys.readouterr().err
