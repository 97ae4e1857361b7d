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


def test_both_protocols_are_measured_beside_the_runtime(
    tiny_bundle: Any, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rounds", "2", "--clients", "2", "--images", "2", "--bundle", str(tiny_bundle.make("fp32"))]
    main([str(cells), *words, "--output", str(tmp_path / "served.json")])
    result = read_result(tmp_path / "served.json")
    assert {(row.scope, row.name.rpartition("/")[2], row.batch, row.calls) for row in result.rows} == {
        *(("served", name, 7, 2) for name in ("classify_many", "grpc", "http")),
        *(("request", name, 2, 8) for name in ("grpc", "http")),  # four and three cells, two requests each, twice
    }
    assert {row.notes for row in result.rows} == {("2 clients, 2 images a request",)}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == served_lines(result.rows)
    assert [line["name"].rpartition("/")[2] for line in lines] == ["grpc", "http"]
    for line in lines:
        assert line["ratio"] == pytest.approx(line["served_per_s"] / line["classify_many_per_s"], rel=0.02)
        assert 0 < line["p50_ms"] <= line["p99_ms"]
        assert min(line["classify_many_cpu_ms"], line["server_cpu_ms"], line["clients_cpu_ms"]) > 0


def test_a_folder_without_cells_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no image of a cell" in capsys.readouterr().err
