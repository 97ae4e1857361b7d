"""Review on the slide page: what a person says of the cells comes out as corrections that `validate` understands."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from waiting import wait_until

from blastscope.runtime.evaluation.labels import LabelledCell, read_labels
from blastscope.runtime.frames.corrections import COLUMNS, Correction, write_corrections
from blastscope.runtime.frames.report.html_report import render_slide_report
from blastscope.runtime.frames.report.thumbnails import Thumbnail
from blastscope.runtime.frames.types import FrameCell, FrameParameters, FrameReport, SegmentedCell
from blastscope.runtime.types import Audit, Prediction, Refusal

if TYPE_CHECKING:
    from browser import Browser

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
FACTS = FrameParameters(0.1, "given", (230.0, 225.0, 228.0), (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 90, 90), (0, 0, 90, 90))
BOXES = ((10, 10, 40, 40), (50, 10, 80, 40), (10, 50, 40, 80))


def cell(number: int, label: str | None) -> FrameCell:
    x0, y0, x1, y1 = BOXES[number]
    outline = np.asarray([(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)], np.int32)
    if label is None:
        return FrameCell(SegmentedCell(BOXES[number], outline, None, Refusal("not-lymphoid", "a lobe")), None)  # type: ignore[arg-type]
    score = 0.9 if label == "all" else 0.2
    call = Prediction(label, max(score, 1 - score), score, "a", None, None, None, AUDIT)  # type: ignore[arg-type]
    return FrameCell(SegmentedCell(BOXES[number], outline, None), call)  # type: ignore[arg-type]


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    """Two frames, the second with a name that HTML, JSON, CSV and spreadsheets each have to take care of."""
    paths = [tmp_path / "a.png", tmp_path / '=1,"<b>&.png']
    for path in paths:
        path.write_bytes(cv2.imencode(".png", np.full((90, 90, 3), 230, np.uint8))[1].tobytes())
    return paths


@pytest.fixture
def page(frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # names as somebody types them who stands in the folder
    cells = (cell(0, "all"), cell(1, "hem"), cell(2, None))
    reports = [FrameReport(cells, FACTS, path=Path(path.name), size=(90, 90)) for path in frames]
    reports[1] = replace(reports[1], cells=cells[:1])
    (tmp_path / "page.html").write_text(render_slide_report([Thumbnail(one) for one in reports], "a"), encoding="utf-8")
    return (tmp_path / "page.html").as_uri()


def choose(browser: Browser, frame: int, number: int, answer: str) -> None:
    field = f'document.querySelector(`.cell[data-frame="{frame}"][data-number="{number}"] .answer`)'
    browser.value(f"{field}.value = '{answer}', {field}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def click(browser: Browser, name: str) -> None:
    browser.value(f"document.querySelector('.review [name={name}]').click()")


@pytest.fixture
def saved(browser: Browser, tmp_path: Path) -> Callable[[], Path]:
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.ask("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def wait() -> Path:
        wait_until(lambda: any(path.stat().st_size for path in folder.glob("*.csv")))
        return next(folder.glob("*.csv"))

    return wait


def test_what_a_person_says_on_the_page_becomes_labels(
    browser: Browser, page: str, frames: list[Path], saved: Callable[[], Path]
) -> None:
    browser.open(page)
    browser.see("document.querySelector('.review .said').textContent.startsWith('0 of 4 cells reviewed')")
    assert browser.value("[...document.querySelectorAll('[name=complete]')].every((box) => box.disabled)")
    choose(browser, 0, 1, "hem")
    choose(browser, 0, 3, "other")
    choose(browser, 1, 1, "none")
    click(browser, "save")
    assert "Who are you?" in browser.value("document.querySelector('.review .said').textContent")
    browser.value("document.querySelector('[name=who]').value = ' =Dr. \"N\", MD'")
    click(browser, "confirm")
    assert "4 of 4 cells reviewed, 3 of them changed; not saved" in browser.value("document.querySelector('.said').textContent")
    browser.value("document.querySelectorAll('[name=complete]')[0].click()")
    click(browser, "save")
    path = saved()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["path"], row["number"], row["old"], row["new"]) for row in rows] == [
        ("a.png", "1", "all", "hem"),
        ('./=1,"<b>&.png', "1", "all", "none"),
        ("a.png", "2", "hem", "hem"),
        ("a.png", "3", "not-lymphoid", "other"),
        ("a.png", "", "", "complete"),
    ]
    assert {row["who"] for row in rows} == {'Dr. "N", MD'}
    assert all(row["when"].startswith("20") and row["when"].endswith("Z") for row in rows)
    labels = read_labels(path, frames, [frames[0].parent])
    assert labels.cells == {frames[0]: (LabelledCell(BOXES[0], "hem"), LabelledCell(BOXES[1], "hem")), frames[1]: ()}
    assert (labels.complete(frames[0]), labels.complete(frames[1])) == (True, False)
    assert labels.reviewed[frames[0]].others == (BOXES[2],)
    assert labels.reviewed[frames[1]].rejected == (BOXES[0],)
    assert browser.console == []


def test_a_saved_review_is_gone_on_with(browser: Browser, page: str, saved: Callable[[], Path], tmp_path: Path) -> None:
    before = [
        Correction("a.png", 1, BOXES[0], "all", "unsure", 'one, "1"', "2026-01-01T00:00:00Z"),
        Correction("elsewhere.png", 7, (0, 0, 9, 9), "hem", "all", "two", "2026-01-02T00:00:00Z"),
        Correction('=1,"<b>&.png', 1, BOXES[0], "all", "all", "two", "2026-01-02T00:00:00Z"),
        Correction('=1,"<b>&.png', None, None, "", "complete", "two", "2026-01-02T00:00:00Z"),
    ]
    write_corrections(tmp_path / "before.csv", before)
    browser.open(page)
    text = (tmp_path / "before.csv").read_text(encoding="utf-8")
    browser.value(
        f"(() => {{ const files = new DataTransfer(); files.items.add(new File([{text!r}], 'before.csv'));"
        "const field = document.querySelector('[name=load]'); field.files = files.files;"
        "field.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    browser.see(
        "document.querySelector('.said').textContent.startsWith('2 of 4 cells reviewed, 1 of them changed, and 1 rows')"
    )
    choose(browser, 0, 2, "all")
    browser.value("document.querySelector('[name=who]').value = 'three'")
    click(browser, "save")
    with saved().open(newline="", encoding="utf-8") as file:
        rows = {(row["path"], row["number"]): (row["new"], row["who"]) for row in csv.DictReader(file)}
    assert rows == {
        ("elsewhere.png", "7"): ("all", "two"),
        ("a.png", "1"): ("unsure", 'one, "1"'),
        ("a.png", "2"): ("all", "three"),
        ('./=1,"<b>&.png', "1"): ("all", "two"),
        ('./=1,"<b>&.png', ""): ("complete", "three"),
    }


def test_the_last_of_several_answers_on_a_cell_counts(frames: list[Path], tmp_path: Path) -> None:
    times = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
    rows = [
        Correction(str(frames[0]), 1, BOXES[0], "all", new, "a", when) for new, when in zip(("all", "hem"), times, strict=True)
    ]  # type: ignore[arg-type]
    write_corrections(tmp_path / "c.csv", rows)
    labels = read_labels(tmp_path / "c.csv", frames)
    assert labels.cells == {frames[0]: (LabelledCell(BOXES[0], "hem"),)}
    assert labels.unlabelled == (frames[1],)
