"""The shipped detector on real frames: BCCD's that it never saw, others' that it did, single cells of known types."""

from __future__ import annotations

import csv
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
