"""The benchmark of the lymphoid filter: its table, perturbations and composites, and what it counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from blastscope.benchmarks.lymphoid_filter import __main__ as command
from blastscope.benchmarks.lymphoid_filter.composites import BACKGROUNDS, PERTURBATIONS, UNCHANGED, compose_frames
from blastscope.benchmarks.lymphoid_filter.scoring import OutcomeCounts, benchmark_cells, cell_outcomes, count_frame_outcomes
from blastscope.runtime.io.synthetic import write_synthetic_dataset


def test_each_labelled_cell_lies_once_in_a_frame_of_its_own_part(shared_data: Path) -> None:
    cells = benchmark_cells()
    assert len({(cell.frame, cell.box) for cell in cells}) == len(cells)
    for part in ("train", "val"):
        names = (shared_data / "bccd" / f"{part}.txt").read_text().split()
        assert {cell.frame for cell in cells if cell.part == part} <= set(names)
        assert {cell.kind for cell in cells if cell.part == part} >= {"lymphoid", "myeloid"}
    for x0, y0, x1, y1 in (cell.box for cell in cells):
        assert 0 <= x0 < x1 <= 640
        assert 0 <= y0 < y1 <= 480


def test_an_unknown_kind_in_the_table_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    table.write_text("part,frame,x0,y0,x1,y1,kind\ntrain,a,0,0,9,9,lymphatic\n")
    with pytest.raises(ValueError, match="lymphatic"):
        benchmark_cells(table)


def test_every_perturbation_gives_a_frame_and_the_same_each_time() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for name, perturbation in PERTURBATIONS.items():
        perturbed = perturbation(frame)
        assert perturbed.dtype == np.uint8, name
        assert perturbed.shape[2:] == (3,), name
        assert np.array_equal(perturbed, perturbation(frame)), name
        assert (name == UNCHANGED) == np.array_equal(perturbed, frame), name


def test_cells_of_a_composite_are_found_in_their_boxes(tmp_path: Path) -> None:
    paths = sorted(write_synthetic_dataset(tmp_path, patients=2, cells_each=2, seed=1).rglob("*.png"))[:3]
    (composite,) = compose_frames(BACKGROUNDS["bright background, size 0.5"], paths)
    assert len(composite.boxes) == 3
    assert "not-found" not in cell_outcomes(composite.frame, composite.boxes, composite.pixel_um)


def test_outcomes_of_labelled_cells_are_counted(shared_data: Path) -> None:
    cells = [cell for cell in benchmark_cells() if cell.frame[-3:] in ("070", "034", "055")]
    found = count_frame_outcomes("plain", PERTURBATIONS[UNCHANGED], cells, shared_data / "bccd" / "JPEGImages")
    assert found == [
        OutcomeCounts("plain", "train", "lymphoid", called=1),
        OutcomeCounts("plain", "train", "myeloid", not_lymphoid=2),  # 034 has a doubtful one too
        OutcomeCounts("plain", "val", "lymphoid", called=1),
        OutcomeCounts("plain", "val", "myeloid"),
    ]


def test_the_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [
        OutcomeCounts("plain", "train", "lymphoid", 3, 1),
        OutcomeCounts("plain", "train", "myeloid", 2, 8, other_refusal=1),
        OutcomeCounts("plain", "val", "lymphoid", 1),
        OutcomeCounts("plain", "val", "myeloid", 0, 1),
        OutcomeCounts("dim", "C-NMC", "lymphoid", 7, 1),
    ]
    monkeypatch.setattr(command, "count_outcomes", lambda data, every: iter(rows))
    for name in ("bccd", "cnmc"):
        (tmp_path / name).mkdir()
    assert command.main([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "1 of 4" in printed.out
    assert "2 of 10 (1)" in printed.out
    assert "1 of 8" in printed.out
    assert printed.err.count("\n") == len(rows)
    assert command.main([str(tmp_path), "--json"]) == 0
    assert [row["part"] for row in json.loads(capsys.readouterr().out)] == ["train", "train", "val", "val", "C-NMC"]
