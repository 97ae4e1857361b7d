"""The contact sheet shows each cell with its call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from blastscope.demo import COLOURS, GAP_PX, HEADER_PX, MARGIN_PX, TILE_PX, Tile, draw_sheet, save_sheet, summary
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import Audit, Prediction, Refusal

AUDIT = Audit("b", "e", "openvino", "cpu", "fp32", "f32")
SHARES = ((0.1, 0.9), (0.2, 0.8), (0.4, 0.6))
MALIGNANT = Prediction("all", 0.9, 0.9, "a", SHARES, (1, 2, 3, 4), None, AUDIT)
REFUSED = Prediction(None, None, None, None, None, None, Refusal("empty", "nothing"), AUDIT)


def test_a_tile_shows_its_cell_in_a_frame_of_the_calls_colour() -> None:
    image = synthetic_cell(3)
    sheet = np.asarray(draw_sheet([Tile(image, MALIGNANT, "all"), Tile(image, REFUSED)], "two", columns=2))
    corners = [(MARGIN_PX + index * (TILE_PX + GAP_PX), HEADER_PX) for index in range(2)]
    frames = [f"#{''.join(f'{value:02x}' for value in sheet[y, x + 40])}" for x, y in corners]
    assert frames == [COLOURS["all"], COLOURS[None]]
    inside = sheet[HEADER_PX + 8 : HEADER_PX + TILE_PX - 8, MARGIN_PX + 8 : MARGIN_PX + TILE_PX - 8]
    wanted = np.asarray(Image.fromarray(image).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS))[8:-8, 8:-8]
    assert np.array_equal(inside, wanted)


def test_the_summary_counts_calls_and_agreement_where_the_truth_is_known() -> None:
    image = synthetic_cell(3)
    tiles = [Tile(image, MALIGNANT, "all"), Tile(image, MALIGNANT, "hem"), Tile(image, MALIGNANT), Tile(image, REFUSED, "hem")]
    assert summary(tiles) == "3 called ALL, 0 called HEM, 1 refused; 1 of 2 calls agree with the expert"


def test_a_sheet_is_written_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sheet.png"
    save_sheet(draw_sheet([Tile(synthetic_cell(1), MALIGNANT)], "one"), path)
    assert [item.name for item in path.parent.iterdir()] == ["sheet.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
