"""Large scans: glass is passed over by smaller copies, parts are told as they are done, and a killed run is gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.frames import pipeline
from blastscope.runtime.frames.journal import Journal, cell_from_row, cell_to_row
from blastscope.runtime.frames.pipeline import Examiner, TileProgress
from blastscope.runtime.frames.tiling import foreground_map
from blastscope.runtime.frames.types import CellGroup, FrameReport, SegmentedCell
from blastscope.runtime.io.slides.slide import ArraySlide
from blastscope.runtime.types import Audit, Box, Prediction

PIXEL_UM = 0.25
GLASS = (232, 226, 222)
AUDIT = Audit("b", "e", "openvino", "cpu", "fp32", "f32")


def by_colour(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
    scores = [float(cell[cell.max(axis=2) > 0].mean()) / 255 for cell in cells]
    table = ((0.25, 0.75), (0.5, 0.5), (float("nan"), float("nan")))
    return [Prediction("all", score, score, "a", table, (0, 0, 1, 1), None, AUDIT, novelty=0.5) for score in scores]


def smear(side: int, cells: Sequence[tuple[int, int]], stained: Box) -> NDArray[np.uint8]:
    """Glass of `side` pixels, red cells in `stained`, and a white cell at each of `cells`."""
    rng = np.random.default_rng(3)
    frame = np.full((side, side, 3), GLASS, np.uint8)
    x0, y0, x1, y1 = stained
    for x, y in rng.integers((x0, y0), (x1, y1), ((x1 - x0) * (y1 - y0) // 2500, 2)).tolist():
        cv2.circle(frame, (x, y), 15, (206, 160, 158), -1, cv2.LINE_AA)
    for x, y in cells:
        cv2.circle(frame, (x, y), 26, (188, 172, 212), -1, cv2.LINE_AA)
        cv2.circle(frame, (x, y), 21, (122, 84, 172), -1, cv2.LINE_AA)
    noise = rng.integers(-3, 4, frame.shape, np.int16)
    return np.asarray(np.clip(frame + noise, 0, 255), np.uint8)


def write_pyramid(path: Path, frame: NDArray[np.uint8], levels: int) -> None:
    options: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(frame, subifds=levels, resolution=(40_000, 40_000), resolutionunit="CENTIMETER", **options)
        for level in range(1, levels + 1):
            small = cv2.resize(frame, None, fx=0.5**level, fy=0.5**level, interpolation=cv2.INTER_AREA)
            tiff.write(small, subfiletype=1, **options)


def told(report: FrameReport) -> dict[str, Any]:
    nuclei = [cell.found.nucleus.tolist() for cell in report.cells]
    return {**report.row(), "facts": report.parameters, "nuclei": nuclei, "looks": [cell.appearance for cell in report.cells]}


class Copied(ArraySlide):
    """A frame in memory with a smaller copy, which remembers what was read of it."""

    def __init__(self, frame: NDArray[np.uint8], step: int) -> None:
        super().__init__(frame, PIXEL_UM)
        self.reduced = (ArraySlide(cv2.resize(frame, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)),)
        self.boxes: list[Box] = []

    def read(self, box: Box) -> NDArray[np.uint8]:
        self.boxes.append(box)
        return super().read(box)


CELLS = [(180, 200), (420, 300), (511, 512), (640, 210), (300, 640)]  # one where four tiles meet


@pytest.fixture(scope="module")
def frame() -> NDArray[np.uint8]:
    """A smear in the first quarter of a large pane of glass, and one white cell far from it."""
    return smear(2048, [*CELLS, (1700, 1500)], (60, 60, 800, 800))


@pytest.fixture
def tiled() -> Examiner:
    return Examiner(by_colour, pixel_um=PIXEL_UM, whole_pixels=0, tile_px=512, threads=2)


# ---- glass


@pytest.mark.parametrize("step", [2, 4])
def test_glass_is_passed_over_and_no_cell_with_it(
    frame: NDArray[np.uint8], tiled: Examiner, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Copied(frame, step)
    sparing = tiled.examine_scan(copied)
    tiles = [box for box in copied.boxes if box[2] - box[0] <= 512 + 400]  # and not the windows of the survey
    read = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in tiles)
    assert 0 < read < frame.shape[0] * frame.shape[1] / 2
    assert len(sparing.cells) == len(CELLS) + 1
    monkeypatch.setattr(pipeline, "foreground_map", lambda *_: None)
    assert repr(told(tiled.examine_scan(copied))) == repr(told(sparing))


def test_a_copy_too_small_to_show_a_nucleus_tells_nothing(frame: NDArray[np.uint8], tiled: Examiner) -> None:
    report = tiled.examine_scan(ArraySlide(frame, PIXEL_UM))
    assert report.parameters
    assert foreground_map(Copied(frame, 4), report.parameters) is not None
    assert foreground_map(Copied(frame, 8), report.parameters) is None  # 2 um a pixel
    assert foreground_map(ArraySlide(frame), report.parameters) is None


def test_the_map_of_glass_holds_all_that_is_none(frame: NDArray[np.uint8], tiled: Examiner) -> None:
    report = tiled.examine_scan(ArraySlide(frame, PIXEL_UM))
    assert report.parameters
    glass = foreground_map(Copied(frame, 4), report.parameters)
    assert glass
    content = glass.content((1200, 1000, 2048, 2048))  # of the cell that stands alone, which is 52 pixels across
    assert content
    assert content[0] <= 1674
    assert content[1] <= 1474
    assert content[2] >= 1726
    assert content[3] >= 1526
    assert content[2] - content[0] < 300
    assert glass.content((1000, 0, 1600, 700)) is None


def test_a_damaged_smaller_copy_hides_nothing(frame: NDArray[np.uint8], tiled: Examiner, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_pyramid(path, frame, 2)
    whole = next(tiled.examine_files([path]))
    assert len(whole.cells) == len(CELLS) + 1
    with tifffile.TiffFile(path) as tiff:
        level = tiff.series[0].levels[2].keyframe
        places = list(zip(level.dataoffsets, level.databytecounts, strict=True))
    with path.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(bytes(count))
    damaged = next(tiled.examine_files([path]))
    assert damaged.refusal is None or damaged.refusal.code == "undecodable"
    if damaged.refusal is None:
        assert [cell.box for cell in damaged.cells] == [cell.box for cell in whole.cells]


# ---- parts


def test_each_part_is_told_with_its_cells_before_the_report(frame: NDArray[np.uint8], tiled: Examiner, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "slide.tif", frame, 2)
    cv2.imwrite(str(tmp_path / "small.png"), frame[:500, :500, ::-1])
    parts: list[TileProgress] = []
    paths = [tmp_path / "slide.tif", tmp_path / "small.png"]
    examiner = replace(tiled, whole_pixels=300_000)
    reports = list(examiner.examine_files(paths, on_tile=parts.append))
    for path, report in zip(paths, reports, strict=True):
        own = [part for part in parts if part.path == path]
        assert sorted(part.done for part in own) == list(range(1, own[0].total + 1))
        boxes = sorted(cell.box for part in own for cell in part.cells)
        assert boxes == sorted(cell.box for cell in report.cells)
    assert {part.total for part in parts} == {16, 1}


# ---- a run that is gone on with


def test_a_cell_comes_back_from_its_record_to_the_last_digit(frame: NDArray[np.uint8], tiled: Examiner) -> None:
    report = tiled.examine(frame)
    assert {cell.refusal is None for cell in report.cells} == {True}
    known = {"box", "contour", "core", "refusal", "score", "group"}
    assert {one.name for one in fields(SegmentedCell)} == known, "the record of a cell lacks what is new"
    by_detector = replace(report.cells[0].found, score=0.75, group=CellGroup("lymphoid", 0.5))
    for cell in (*report.cells, replace(report.cells[0], found=by_detector)):
        back = cell_from_row(json.loads(json.dumps(cell_to_row(cell))))
        assert (back.found.score, back.found.group) == (cell.found.score, cell.found.group)
        assert repr(back.prediction) == repr(cell.prediction)  # a voter that was not run has no equal
        assert back.appearance == cell.appearance
        assert back.box == cell.box
        assert np.array_equal(back.contour, cell.contour)
        assert np.array_equal(back.found.nucleus, cell.found.nucleus)


def test_what_a_journal_holds_is_not_examined_again(frame: NDArray[np.uint8], tiled: Examiner, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "slide.tif", frame, 2)
    cv2.imwrite(str(tmp_path / "small.png"), frame[:500, :500, ::-1])
    paths, journal = [tmp_path / "slide.tif", tmp_path / "small.png"], tmp_path / "run.jsonl"
    plain = list(map(told, tiled.examine_files(paths)))
    first = list(map(told, tiled.examine_files(paths, journal=journal)))

    def never(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        raise AssertionError("examined again")

    again = list(map(told, replace(tiled, classify=never).examine_files(paths, journal=journal)))
    assert repr(plain) == repr(first) == repr(again)


def test_a_frame_that_changed_is_examined_again(frame: NDArray[np.uint8], tiled: Examiner, tmp_path: Path) -> None:
    path, journal = tmp_path / "small.png", tmp_path / "run.jsonl"
    cv2.imwrite(str(path), frame[:500, :500, ::-1])
    (before,) = tiled.examine_files([path], journal=journal)
    cv2.imwrite(str(path), frame[:300, :300, ::-1])
    (after,) = tiled.examine_files([path], journal=journal)
    assert (before.size, after.size) == ((500, 500), (300, 300))
    assert len(after.cells) < len(before.cells)


@pytest.mark.parametrize("cut", [1, 400])
def test_a_line_that_a_kill_broke_off_is_passed_over(
    frame: NDArray[np.uint8], tiled: Examiner, tmp_path: Path, cut: int
) -> None:
    path, journal = tmp_path / "slide.tif", tmp_path / "run.jsonl"
    write_pyramid(path, frame, 2)
    (whole,) = tiled.examine_files([path], journal=journal)
    journal.write_bytes(journal.read_bytes()[:-cut])
    (again,) = tiled.examine_files([path], journal=journal)
    assert repr(told(again)) == repr(told(whole))
    rows = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert sorted(row["tile"] for row in rows if "tile" in row) == list(range(16))


def test_a_journal_goes_with_one_way_of_examining(frame: NDArray[np.uint8], tiled: Examiner, tmp_path: Path) -> None:
    path, journal = tmp_path / "small.png", tmp_path / "run.jsonl"
    cv2.imwrite(str(path), frame[:300, :300, ::-1])
    list(tiled.examine_files([path], journal=journal, origin={"bundle": "a"}))
    with pytest.raises(UsageError, match="another bundle and pixel size"):
        replace(tiled, pixel_um=0.3).examine_files([path], journal=journal, origin={"bundle": "b"})
    other = tmp_path / "notes.txt"
    other.write_text("cells of Tuesday\n", encoding="utf-8")
    with pytest.raises(DataError, match="no journal"):
        tiled.examine_files([path], journal=other)
    assert other.read_text(encoding="utf-8") == "cells of Tuesday\n"
    with Journal(tmp_path / "busy.jsonl", {}), pytest.raises(DataError, match="another process"):
        Journal(tmp_path / "busy.jsonl", {})


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_scans import Examiner, PIXEL_UM, by_colour
tiles = iter(range(7))
def watch(part):
    if next(tiles) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
examiner = Examiner(by_colour, pixel_um=PIXEL_UM, whole_pixels=0, tile_px=512, threads=2)
list(examiner.examine_files([Path({path!r})], on_tile=watch, journal=Path({journal!r})))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_a_killed_run_is_gone_on_with(frame: NDArray[np.uint8], tiled: Examiner, tmp_path: Path) -> None:
    path, journal = tmp_path / "slide.tif", tmp_path / "run.jsonl"
    write_pyramid(path, frame, 2)
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(path), journal=str(journal))
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = sum('"tile"' in line for line in journal.read_text(encoding="utf-8").splitlines())
    assert 5 <= kept < 16
    (again,) = tiled.examine_files([path], journal=journal)
    (plain,) = tiled.examine_files([path])
    assert repr(told(again)) == repr(told(plain))
