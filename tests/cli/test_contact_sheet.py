"""The demonstration's contact sheet shows each cell with its call, and the expert's label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blastscope.demo import Called, demo_summary, draw
from blastscope.runtime.frames.report.contact_sheet import GAP_PX, HEADER_PX, MARGIN_PX
from blastscope.runtime.frames.report.theme import CALL_STYLES
from blastscope.runtime.frames.report.thumbnails import THUMB_PX
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import write_synthetic_dataset
from blastscope.runtime.types import Audit, ClassName, Prediction, Refusal

AUDIT = Audit("b", "e", "openvino", "cpu", "fp32", "f32")
SHARES = ((0.1, 0.9), (0.2, 0.8), (0.4, 0.6))
MALIGNANT = Prediction("all", 0.9, 0.9, "a", SHARES, (1, 2, 3, 4), None, AUDIT)
REFUSED = Prediction(None, None, None, None, None, None, Refusal("empty", "nothing"), AUDIT)


@pytest.fixture
def cells(tmp_path: Path) -> dict[ClassName, Called]:
    """A cell of each class, both called ALL."""
    data = write_synthetic_dataset(tmp_path / "cells", patients=2, cells_each=1)
    return {cell.label: Called(cell, MALIGNANT) for cell in scan_dataset(data).cells}


def test_a_cell_is_shown_in_a_frame_of_its_calls_colour(cells: dict[ClassName, Called], tmp_path: Path) -> None:
    shown = [cells["all"], Called(cells["hem"].cell, REFUSED)]
    path = draw(shown, "two", tmp_path / "deep" / "sheet.png")
    assert [item.name for item in path.parent.iterdir()] == ["sheet.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        sheet = np.asarray(picture)
    corners = [(MARGIN_PX + index * (THUMB_PX + GAP_PX), HEADER_PX) for index in range(2)]
    frames = [f"#{''.join(f'{value:02x}' for value in sheet[y - 1, x + 40])}" for x, y in corners]
    assert frames == [CALL_STYLES["all"].colour, CALL_STYLES["refused"].colour]
    for item, (x, y) in zip(shown, corners, strict=True):
        image = read_image(item.cell.path)
        assert not isinstance(image, Refusal)
        wanted = Image.fromarray(image).resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
        assert np.array_equal(sheet[y : y + THUMB_PX, x : x + THUMB_PX], np.asarray(wanted))


def test_a_call_that_is_not_the_experts_has_a_note_in_colour(cells: dict[ClassName, Called], tmp_path: Path) -> None:
    with Image.open(draw([cells["all"], cells["hem"]], "two", tmp_path / "sheet.png")) as picture:
        sheet = np.asarray(picture)
    vermilion = np.array([int(CALL_STYLES["all"].colour[at : at + 2], 16) for at in (1, 3, 5)])
    notes = sheet[HEADER_PX + THUMB_PX + 24 : HEADER_PX + THUMB_PX + 38]
    coloured = [(notes[:, x : x + THUMB_PX] == vermilion).all(axis=2).any() for x in (MARGIN_PX, MARGIN_PX + THUMB_PX + GAP_PX)]
    assert coloured == [False, True]


def test_the_summary_counts_calls_and_agreement(cells: dict[ClassName, Called]) -> None:
    calls = [cells["all"], cells["hem"], Called(cells["hem"].cell, REFUSED)]
    assert demo_summary(calls) == "2 called ALL, 0 called HEM, 1 refused; 1 of 2 calls agree with the label"
