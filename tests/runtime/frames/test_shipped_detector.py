"""The shipped detector on real frames: BCCD's that it never saw, others' that it did, single cells of known types."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope import SHIPPED_BUNDLE, Scope, open_bundle
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.evaluation.detection import match_boxes
from blastscope.runtime.types import Box

PEAK = """
import sys
from pathlib import Path
from blastscope import open_bundle
with open_bundle(device="cpu", cache_dir=sys.argv[2], threads=2) as scope:
    (report,) = scope.examine_files([Path(sys.argv[1])], pixel_um=float(sys.argv[3]))
high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(len(report.cells), int(high.split()[1]))
"""
MYELOID = ("monocyte", "neutrophil", "eosinophil", "basophil")


@pytest.fixture(scope="module")
def scope() -> Iterator[Scope]:
    if read_bundle(SHIPPED_BUNDLE).manifest.detector is None:
        pytest.skip("the shipped bundle holds no detector")
    with open_bundle() as opened:
        yield opened


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)


def recall_and_precision(scope: Scope, frames: list[tuple[Path, list[Box]]]) -> tuple[float, float]:
    hit = found = true = 0
    for path, drawn in frames:
        boxes = [cell.box for cell in scope.examine(read(path)).cells]
        hit, found, true = hit + len(match_boxes(drawn, boxes)), found + len(boxes), true + len(drawn)
    return hit / true, hit / found


def bccd_boxes(path: Path) -> list[Box]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    things = [thing for thing in ElementTree.parse(path).iter("object") if thing.findtext("name") == "WBC"]
    return [tuple(int(thing.findtext(f"bndbox/{side}", "0")) for side in sides) for thing in things]  # type: ignore[misc]


def test_of_bccds_frames_that_it_never_saw_it_finds_the_white_cells(scope: Scope, shared_data: Path) -> None:
    bccd = shared_data / "bccd"
    names = (bccd / "val.txt").read_text().split()
    frames = [(bccd / f"JPEGImages/{name}.jpg", bccd_boxes(bccd / f"Annotations/{name}.xml")) for name in names]
    recall, precision = recall_and_precision(scope, frames)
    assert recall >= 0.97
    assert precision >= 0.955


@pytest.mark.parametrize("source", ["raabin", "pbc"])
def test_a_tenth_of_the_other_sources_frames_is_found_as_before(scope: Scope, shared_data: Path, source: str) -> None:
    boxes: dict[str, list[Box]] = {}
    with (shared_data / "txl/boxes.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["path"].startswith(source):
                own = boxes.setdefault(row["path"], [])
                if row["label"] == "wbc":
                    own.append(tuple(int(row[side]) for side in ("x0", "y0", "x1", "y1")))  # type: ignore[arg-type]
    frames = [(shared_data / "txl" / name, boxes[name]) for name in sorted(boxes)[::10]]
    recall, precision = recall_and_precision(scope, frames)
    assert recall >= 0.94
    assert precision >= 0.9


@pytest.mark.parametrize("kind", MYELOID)
def test_no_granulocyte_and_no_monocyte_is_called(scope: Scope, shared_data: Path, kind: str) -> None:
    reports = [scope.examine(read(path)) for path in sorted((shared_data / "pbc" / kind).glob("*.jpg"))[::10]]
    assert [cell.label for report in reports for cell in report.cells if cell.label] == []
    groups = [cell.found.group.name for report in reports for cell in report.cells if cell.found.group]
    assert groups.count("myeloid") >= 0.7 * len(groups)


def test_lymphocytes_look_lymphoid(scope: Scope, shared_data: Path) -> None:
    reports = [scope.examine(read(path)) for path in sorted((shared_data / "pbc/lymphocyte").glob("*.jpg"))[::20]]
    middle = [report.middle_cell for report in reports]
    groups = [cell.found.group.name for cell in middle if cell and cell.found.group]
    assert groups.count("lymphoid") >= 0.9 * len(reports)


def crowd(cnmc: Path, width: int, height: int) -> NDArray[np.uint8]:
    """A glass-coloured canvas that is full of touching malignant cells, at half their size."""
    canvas = np.full((height, width, 3), 228, np.uint8)
    left = top = row = 0
    for path in sorted((cnmc / "fold_0" / "all").iterdir())[::4]:
        cell = cv2.resize(read(path), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        x, y, across, down = cv2.boundingRect(cell.max(axis=2))
        cell = cell[y : y + down, x : x + across]
        if left + across > width:
            left, top, row = 0, top + row, 0
        if top + down > height:
            return canvas
        inside = cell.max(axis=2) > 0
        canvas[top : top + down, left : left + across][inside] = cell[inside]
        left, row = left + across, max(row, down)
    raise AssertionError("too few cells to fill the canvas")


@pytest.mark.slow
@pytest.mark.parametrize("pixel_um", [0.08, 0.2])
def test_a_frame_full_of_touching_cells_takes_less_than_a_gigabyte(
    cnmc: Path, tmp_path: Path, scope: Scope, pixel_um: float
) -> None:
    """Of the whole process, the libraries too. It was 3 GB when seeds shared a region by a map each."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells the peak of a process's memory")
    assert scope.bundle.manifest.detector
    frame = tmp_path / "crowd.png"
    cv2.imwrite(str(frame), crowd(cnmc, 2600, 2900)[..., ::-1])
    command = [sys.executable, "-c", PEAK, str(frame), str(tmp_path / "cache"), str(pixel_um)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cells, peak_kb = map(int, done.stdout.split())
    assert cells > 300
    assert peak_kb < 1_000_000
