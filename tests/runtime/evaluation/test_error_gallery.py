"""The cells that went wrong in a validation: which they are, what is drawn of each, and how the page shows them."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.evaluation import validation_report as taking
from blastscope.runtime.evaluation.labels import LabelledCell
from blastscope.runtime.evaluation.validation_report import MOST_CARDS, ErrorImages, Mistake, gallery_parts, mistakes_in
from blastscope.runtime.frames.report.templates import render_template
from blastscope.runtime.frames.report.theme import CALL_STYLES, rgb
from blastscope.runtime.frames.types import FrameCell, FrameParameters, FrameReport, SegmentedCell
from blastscope.runtime.io.slides.slide import ArraySlide
from blastscope.runtime.types import Audit, Box, ClassName, Prediction, Refusal

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
FACTS = FrameParameters(
    0.1, "red-cells", (200.0, 201.0, 199.0), (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 640, 480), (0, 0, 640, 480)
)
PATH = Path("slide <1>.png")


def box(x: int, y: int) -> Box:
    return x - 30, y - 30, x + 31, y + 31


def cell(x: int, y: int, score: float | None) -> FrameCell:
    """A round cell around (x, y), called by its `score`; None is a refused one."""
    contour = np.asarray(cv2.ellipse2Poly((x, y), (30, 30), 0, 0, 360, 1), np.int32)
    if score is None:
        return FrameCell(SegmentedCell(box(x, y), contour, contour, Refusal("clumped", 'two "nuclei"')), None)
    label: ClassName = "all" if score >= 0.5 else "hem"
    call = Prediction(label, max(score, 1 - score), score, "combined", None, box(x, y), None, AUDIT)
    return FrameCell(SegmentedCell(box(x, y), contour, contour), call)


LABELLED = (
    LabelledCell(box(60, 60), "all"),
    LabelledCell(box(160, 60), "all"),
    LabelledCell(box(260, 60), "hem"),
    LabelledCell(box(60, 180), "hem"),
    LabelledCell(box(160, 180), "all"),
)
FOUND = (cell(62, 60, 0.9), cell(160, 62, 0.1), cell(260, 60, 0.8), cell(60, 180, None), cell(300, 180, 0.7))
REPORT = FrameReport(FOUND, FACTS, path=PATH, size=(400, 260))


def test_every_cell_whose_label_is_not_its_call_went_wrong_in_one_way() -> None:
    found = list(mistakes_in(PATH, LABELLED, FOUND))
    assert [one.kind for one in found] == ["all-called-hem", "hem-called-all", "refused", "missed", "unlabelled"]
    assert [one.box for one in found] == [box(160, 60), box(260, 60), box(60, 180), box(160, 180), box(300, 180)]


def render(mistakes: list[Mistake]) -> str:
    return render_template("gallery.html", parts=gallery_parts(mistakes))


def where(picture: NDArray[np.uint8], colour: str) -> int:
    return int((np.abs(picture.astype(np.int16) - rgb(colour)).max(axis=2) < 60).sum())


def test_a_picture_shows_label_and_finding_in_their_colours() -> None:
    pictures = ErrorImages({PATH: LABELLED})
    pictures.collect(ArraySlide(np.full((260, 400, 3), (205, 190, 200), np.uint8)), REPORT)
    shown = pictures.shown(list(mistakes_in(PATH, LABELLED, FOUND)))
    for one, colours in zip(shown, (("all", "hem"), ("hem", "all"), ("hem", "refused"), ("all",), ("all",)), strict=True):
        assert one.picture is not None
        pixels = np.asarray(Image.open(BytesIO(one.picture)))
        for kind, style in CALL_STYLES.items():
            assert (where(pixels, style.colour) > 20) == (kind in colours), (one.kind, kind)
    assert [one.picture for one in pictures.shown(shown)] == [None] * 5  # kept no longer


def test_no_more_pictures_are_kept_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "MOST_PICTURES", 2)
    pictures = ErrorImages({PATH: LABELLED})
    pictures.collect(ArraySlide(np.zeros((260, 400, 3), np.uint8)), REPORT)
    shown = pictures.shown(list(mistakes_in(PATH, LABELLED, FOUND)))
    assert [one.picture is not None for one in shown] == [True, True, False, False, False]


def test_the_worst_mistakes_come_first_and_the_surest_of_them() -> None:
    page = render([Mistake(PATH, box(60, 60), "all", cell(60, 60, score)) for score in (0.4, 0.05, 0.2)])
    assert re.findall(r"<b>([^<]*)</b>", page) == ["HEM 0.95", "HEM 0.80", "HEM 0.60"]
    page = render(list(mistakes_in(PATH, LABELLED, FOUND)))
    heads = re.findall(r"<h3>([^<]*)</h3>", page)
    assert [head.rpartition(":")[0] for head in heads] == [
        "Labelled ALL, called HEM",
        "Labelled HEM, called ALL",
        "Labelled, not found",
        "Labelled and found, but not called",
        "Found where none is labelled",
    ]
    assert "slide &lt;1&gt;.png, at 130, 30" in page
    assert "two &#34;nuclei&#34;" in page
    assert render([]) == ""


def test_of_many_mistakes_the_first_are_shown_and_all_are_counted() -> None:
    one = Mistake(PATH, box(60, 60), "hem", None)
    page = render([replace(one) for _ in range(MOST_CARDS + 9)])
    assert page.count("<li") == MOST_CARDS
    assert f"Labelled, not found: {MOST_CARDS + 9}" in page
    assert f"The first {MOST_CARDS} are shown." in page
