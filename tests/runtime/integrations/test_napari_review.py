"""Review in napari: answers on the cells, saved as corrections and taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_examiner import StainExaminer
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.evaluation.labels import LabelledCell, read_labels
from blastscope.runtime.integrations.napari_layers import examine_layer
from blastscope.runtime.integrations.napari_review import (
    accept_calls,
    answer_cells,
    cells_layer,
    corrections_in,
    restore_answers,
    review_state,
    save_corrections,
)

pytest.importorskip("napari", reason="napari is not installed: pip install 'blastscope[napari]'", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # napari's own


def test_what_is_said_of_selected_cells_is_saved_as_corrections(viewer: Any, frame: NDArray[np.uint8], tmp_path: Path) -> None:
    layer = viewer.add_image(frame, name="smear")
    report = examine_layer(viewer, layer, StainExaminer())
    shapes = cells_layer(viewer, layer)
    assert len(report.cells) >= 2
    with pytest.raises(UsageError, match="nothing was answered"):
        corrections_in(shapes, "a.png", "me", whole=False)
    assert answer_cells(shapes, {0}, "hem") == 1
    assert shapes.features["text"][0].startswith("ALL 0.90 ")
    assert answer_cells(shapes, {0, 1}, "other") == 2  # a second answer takes the first one's place
    shapes.add_rectangles(np.array([[[9.5, 19.5], [9.5, 49.5], [39.5, 49.5], [39.5, 19.5]]]))
    drawn = len(shapes.data) - 1
    with pytest.raises(UsageError, match="have no answer yet"):
        corrections_in(shapes, "a.png", "me", whole=True)
    answer_cells(shapes, set(range(2, drawn)), "unsure")
    answer_cells(shapes, {drawn}, "all")
    with pytest.raises(UsageError, match="who are you"):
        corrections_in(shapes, "a.png", " =", whole=True)
    rows = corrections_in(shapes, "a.png", "me", whole=True)
    assert [row.box for row in rows[:drawn]] == [cell.box for cell in report.cells]
    assert [(row.number, row.old, row.new) for row in rows[:2]] == [(1, "all", "other"), (2, "clumped", "other")]
    assert (rows[drawn].number, rows[drawn].box, rows[drawn].old, rows[drawn].new) == (None, (20, 10, 50, 40), "", "all")
    assert (rows[-1].box, rows[-1].new, rows[-1].who) == (None, "complete", "me")
    assert save_corrections(tmp_path / "c.csv", rows) == len(rows)
    assert save_corrections(tmp_path / "c.csv", rows[:1]) == len(rows) + 1
    Image.fromarray(frame).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "c.csv", [tmp_path / "a.png"])
    assert labels.cells == {tmp_path / "a.png": (LabelledCell((20, 10, 50, 40), "all"),)}
    assert labels.complete(tmp_path / "a.png")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="is no table of corrections"):
        save_corrections(tmp_path / "other.csv", rows)


def test_accepting_calls_leaves_out_what_was_not_called(viewer: Any, frame: NDArray[np.uint8], tmp_path: Path) -> None:
    layer = viewer.add_image(frame, name="smear")
    report = examine_layer(viewer, layer, StainExaminer())
    shapes = cells_layer(viewer, layer)
    shapes.add_rectangles(np.array([[[9.5, 19.5], [9.5, 49.5], [39.5, 49.5], [39.5, 19.5]]]))
    called = sum(cell.label is not None for cell in report.cells)
    every = range(len(shapes.data))
    assert accept_calls(shapes, every) == (called, len(every) - called)
    assert review_state(shapes) == f"{called} of {len(every)} cells reviewed, 0 of them changed"
    rows = corrections_in(shapes, "a.png", "me", whole=False)
    assert [(row.old, row.new) for row in rows] == [("all", "all")] * called
    answer_cells(shapes, [0, 1], "hem")
    assert review_state(shapes).endswith(f"{called + 1} of {len(every)} cells reviewed, 2 of them changed")
    answer_cells(shapes, [0, 1], "")  # taken back
    assert shapes.features["text"][0] == "ALL 0.90"
    assert review_state(shapes) == f"{called - 1} of {len(every)} cells reviewed, 0 of them changed"


def test_a_saved_review_is_gone_on_with(viewer: Any, frame: NDArray[np.uint8], tmp_path: Path) -> None:
    layer = viewer.add_image(frame, name="smear")
    examine_layer(viewer, layer, StainExaminer())
    shapes = cells_layer(viewer, layer)
    drawn = np.array([[9.5, 19.5], [9.5, 49.5], [39.5, 49.5], [39.5, 19.5]])
    shapes.add_rectangles(drawn[None])
    answer_cells(shapes, [0, len(shapes.data) - 1], "hem")
    accept_calls(shapes, [0])
    path, table = tmp_path / "a.png", tmp_path / "c.csv"
    kept = corrections_in(shapes, "a.png", "me", whole=False)
    save_corrections(table, [*corrections_in(shapes, "b.png", "me", whole=False), *kept, replace(kept[0], new="unsure")])
    examine_layer(viewer, layer, StainExaminer())
    again = cells_layer(viewer, layer)
    assert again is not shapes
    assert set(again.features["answer"]) == {""}
    assert restore_answers(again, str(path), table) == 2  # of the frame beside the table, not of b.png
    assert list(again.features["answer"][[0, len(again.data) - 1]]) == ["unsure", "hem"]
    assert again.features["text"].iloc[-1].startswith("by hand ")
    assert np.array_equal(np.sort(again.data[-1], axis=0), np.sort(drawn, axis=0))
    rows = corrections_in(again, "a.png", "me", whole=False)
    assert [(row.number, row.box, row.old, row.new) for row in rows] == [
        (1, kept[0].box, "all", "unsure"),
        (None, (20, 10, 50, 40), "", "hem"),
    ]
    assert restore_answers(again, str(path), table) == 2  # a second time nothing is drawn twice
    assert len(again.data) == len(shapes.data)
    save_corrections(table, [replace(kept[0], new="perhaps")])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"says 'perhaps' of the box .*: the answers are hem, all"):
        restore_answers(again, str(path), table)
