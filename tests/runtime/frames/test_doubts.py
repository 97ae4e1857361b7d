"""Frames that may not have been understood: what says so, and that frames which were understood stay without a word."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.frames.doubts import doubt_sentences, doubts_about, scale_doubts
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.report.html_report import render_slide_report
from blastscope.runtime.frames.report.thumbnails import Thumbnail
from blastscope.runtime.frames.types import DOUBTS, FrameParameters, FrameReport
from blastscope.runtime.io.slides.slide import ArraySlide
from blastscope.runtime.types import Audit, Prediction, Refusal

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
FACTS = FrameParameters(0.1, "given", (230.0, 225.0, 228.0), (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 640, 480), (0, 0, 640, 480))
GLASS, RED, NUCLEUS, PLATELET = (230, 225, 228), (205, 150, 160), (105, 60, 150), (150, 110, 180)


def refused(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
    return [Prediction(None, None, None, None, None, None, Refusal("unlike-training", ""), AUDIT) for _ in cells]


def smear(*discs: tuple[int, int, int, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Discs (x, y, radius, colour) on glass."""
    frame = np.full((480, 640, 3), GLASS, np.uint8)
    for x, y, radius, colour in discs:
        cv2.circle(frame, (x, y), radius, colour, -1, cv2.LINE_AA)
    return frame


RED_CELLS = [(60 + 90 * column, 60 + 90 * row, 37, RED) for row in range(5) for column in range(6)]


def codes(
    frame: NDArray[np.uint8], cells: Sequence[Any] = (), parameters: FrameParameters = FACTS, whole: int = 8_000_000
) -> list[str]:
    return [doubt.code for doubt in doubts_about(ArraySlide(frame), parameters, cells, whole)]


@pytest.mark.parametrize("whole_pixels", [8_000_000, 1000])  # looked at as a whole, and by windows
def test_dark_purple_objects_where_nothing_was_found_are_told_of(whole_pixels: int) -> None:
    red = smear(*RED_CELLS)
    assert codes(red, whole=whole_pixels) == []
    assert codes(smear(*RED_CELLS, (320, 240, 35, NUCLEUS)), whole=whole_pixels) == ["nothing-found"]
    assert codes(smear(*RED_CELLS, (320, 240, 11, PLATELET), (100, 105, 11, PLATELET)), whole=whole_pixels) == []
    assert codes(smear(), whole=whole_pixels) == []


def test_cells_of_real_smears_that_were_not_found_are_told_of(shared_data: Path) -> None:
    """As if the finder had missed them; the boxes are those of the data."""
    with (shared_data / "txl" / "boxes.csv").open(newline="", encoding="utf-8") as file:
        white = {row["path"] for row in csv.DictReader(file) if row["label"] == "wbc"}
    told = {}
    for source in ("pbc", "raabin"):
        names = sorted(name for name in white if name.startswith(source))[:12]
        reports = Examiner(refused).examine_files([shared_data / "txl" / name for name in names])
        frames = [(cv2.imread(str(report.path))[..., ::-1], report.parameters) for report in reports]
        told[source] = sum(
            "nothing-found" in codes(np.asarray(frame, np.uint8), parameters=parameters)
            for frame, parameters in frames
            if parameters
        )
    assert told["pbc"] == 12
    assert told["raabin"] >= 7


def test_frames_that_are_understood_raise_no_doubt(shared_data: Path) -> None:
    frames = sorted((shared_data / "bccd" / "JPEGImages").iterdir())[:8]
    for report in Examiner(refused).examine_files(frames):
        assert report.cells
        assert report.doubts == ()


def test_red_cells_that_were_taken_for_white_ones_raise_a_doubt(shared_data: Path) -> None:
    (report,) = Examiner(refused).examine_files([sorted((shared_data / "bccd" / "JPEGImages").iterdir())[0]])
    one = report.cells[0]
    circle = np.stack([37 * np.cos(np.linspace(0, 6.2, 90)), 37 * np.sin(np.linspace(0, 6.2, 90))], 1)

    def taken(count: int) -> list[Any]:
        made = []
        for x, y, radius, _ in RED_CELLS[:count]:
            found = replace(
                one.found,
                box=(x - radius, y - radius, x + radius, y + radius),
                contour=np.asarray(circle + np.asarray((x, y)), np.int32),
            )
            made.append(replace(one, found=found))
        return made

    frame = smear(*RED_CELLS)
    assert codes(frame, taken(30)) == ["many-white-cells"]
    assert codes(frame, taken(16)) == ["many-white-cells"]
    assert codes(frame, taken(10)) == []
    assert codes(smear(*RED_CELLS[:3]), taken(3)) == []  # a picture cut out around some white cells
    assert codes(frame, taken(30), whole=1000) == ["many-white-cells"]


def test_a_scale_that_is_assumed_or_disputed_is_doubtful() -> None:
    def told(cells: bool, **changes: Any) -> list[str]:
        return [doubt.code for doubt in scale_doubts(replace(FACTS, **changes), cells=cells)]

    assert told(True) == []
    assert told(True, scale_source="assumed") == ["scale-assumed"]
    assert told(False, scale_source="assumed") == []  # nothing there that may be a cell
    assert told(False, scale_source="assumed", scale_note="too few red cells") == ["scale-assumed"]
    assert told(False, scale_source="red-cells", scale_note="the file says") == ["scale-disputed"]
    assert told(True, scale_source="red-cells") == []


def test_every_kind_of_doubt_has_its_sentence() -> None:
    for code in DOUBTS:
        (sentence,) = doubt_sentences({code: 3})
        assert "3 of the frames" in sentence
    assert doubt_sentences({}) == []


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    path = tmp_path / "doubtful.png"
    cv2.imwrite(str(path), smear(*RED_CELLS)[..., ::-1])
    return path


def test_a_doubt_stands_in_text_json_and_page_and_ends_a_strict_run_with_1(
    doubtful: Path, tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["examine", str(doubtful), "--bundle", str(tiny_bundle.make("fp32")), "--pixel-um", "0.3"]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, [*words, "--json", "--report", str(page)])
    row = json.loads(result.stdout)
    assert (result.exit_code, row["doubts"]) == (0, ["scale-disputed"])
    assert any("0.3 micrometres a pixel were given, the red cells say" in note for note in row["notes"])
    assert "in 1 of the frames the scale that was given and the red cells differ" in result.stderr
    text = page.read_text(encoding="utf-8")
    assert "the red cells say" in text
    assert '<p class="warning">in 1 of the frames the scale' in text
    strict = CliRunner().invoke(app, [*words, "--strict"])
    assert strict.exit_code == 1
    assert "1 of 1 frames may not have been understood" in strict.stderr
    assert "the red cells say" in strict.stdout
    words[-1] = "0.1"
    assert CliRunner().invoke(app, [*words, "--strict"]).exit_code == 0


def test_a_page_tells_how_many_cells_look_lymphoid(shared_data: Path) -> None:
    (report,) = Examiner(refused).examine_files([sorted((shared_data / "bccd" / "JPEGImages").iterdir())[0]])
    refusals = [Refusal(code, "") for code in ("not-lymphoid", "not-lymphoid", "touches-border")]  # type: ignore[arg-type]
    cells = [replace(report.cells[0], found=replace(report.cells[0].found, refusal=refusal)) for refusal in refusals]
    one = Prediction("hem", 0.9, 0.1, "a", None, None, None, AUDIT)
    lymphoid = replace(report.cells[0], found=replace(report.cells[0].found, refusal=None), prediction=one)
    whole = FrameReport((*cells, lymphoid), report.parameters, path=report.path, size=report.size)
    assert whole.groups == {"lymphoid": 1, "not_lymphoid": 2, "not_judged": 1}
    assert "1 lymphoid, 2 not lymphoid, 1 not judged" in render_slide_report([Thumbnail(whole)], "a")
