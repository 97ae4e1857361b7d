"""Corrections as a validation's labels: what was said counts, and what nobody said anything of doesn't."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.errors import DataError
from blastscope.runtime.evaluation.labels import read_labels
from blastscope.runtime.evaluation.validation import SiteOptions, validate
from blastscope.runtime.evaluation.validation_report import Validation
from blastscope.runtime.frames.corrections import Correction, read_corrections, write_corrections
from blastscope.runtime.frames.types import FrameCell, FrameParameters, FrameReport, SegmentedCell
from blastscope.runtime.types import Audit, Box, Prediction, Refusal

if TYPE_CHECKING:
    from conftest import TinyBundle

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
FACTS = FrameParameters(0.1, "given", (230.0, 225.0, 228.0), (0.4, 0.5, -0.7), 0.3, 0.06, (0, 0, 90, 90), (0, 0, 90, 90))
BOXES: tuple[Box, ...] = ((0, 0, 30, 30), (40, 0, 70, 30), (0, 40, 30, 70), (40, 40, 70, 70))


def cell(box: Box, label: str | None) -> FrameCell:
    x0, y0, x1, y1 = box
    outline = np.asarray([(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)], np.int32)
    found: Any = SegmentedCell(box, outline, None, None if label else Refusal("clumped", ""))  # type: ignore[arg-type]
    score = 0.9 if label == "all" else 0.2
    return FrameCell(found, Prediction(label, 0.8, score, "a", None, None, None, AUDIT) if label else None)  # type: ignore[arg-type]


class Site:
    """Frames whose cells are found again as they were; called ALL, HEM, ALL and refused."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def examine_files(self, paths: Iterable[Path | str], **_: Any) -> Iterator[FrameReport]:
        cells = tuple(map(cell, BOXES, ("all", "hem", "all", None)))
        return (FrameReport(cells, FACTS, path=Path(path), size=(90, 90)) for path in paths)


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(cv2.imencode(".png", np.full((90, 90, 3), 230, np.uint8))[1].tobytes())
    return paths


def said(frame: Path, *answers: str, complete: bool = False) -> list[Correction]:
    """An answer for each of the first cells; '' for none."""
    rows = [
        Correction(frame.name, number, box, "all", answer, "me", "2026-01-01")  # type: ignore[arg-type]
        for number, (box, answer) in enumerate(zip(BOXES, answers, strict=False), 1)
        if answer
    ]
    return [*rows, Correction(frame.name, None, None, "", "complete", "me", "2026-01-01")] if complete else rows


def validated(frames: list[Path], rows: list[Correction], bundle: Path) -> Validation:
    write_corrections(frames[0].with_name("c.csv"), rows)
    labels = read_labels(frames[0].with_name("c.csv"), frames)
    *_, last = validate(Site(read_bundle(bundle)), labels, SiteOptions("x"))
    assert isinstance(last, Validation)
    return last


def test_only_what_was_answered_is_judged(frames: list[Path], tiny_bundle: TinyBundle) -> None:
    rows = [*said(frames[0], "hem", "other", "none", "all", complete=True), *said(frames[1], "all", "", "none")]
    result = validated(frames, rows, tiny_bundle.make("fp32"))
    record = result.record
    assert (record.hem.called_all, record.hem.called_hem) == (1, 0)
    assert (record.all.called_all, record.all.refused, record.all.missed) == (1, 1, 0)
    assert record.finding is not None
    # of the frame that was looked at as a whole alone: two labelled, both found, and one that is no cell
    assert (record.finding.labelled, record.finding.found, record.finding.false) == (2, 2, 1)
    assert [(frame.labelled, frame.found, frame.false) for frame in result.frames] == [(2, 2, 1), (1, 1, 1)]
    assert len(result.cells) == 5
    assert any("single cells were reviewed" in note for note in result.notes)


def test_without_a_frame_reviewed_as_a_whole_finding_is_not_measured(frames: list[Path], tiny_bundle: TinyBundle) -> None:
    result = validated(frames, [*said(frames[0], "all", "hem"), *said(frames[1], "all")], tiny_bundle.make("fp32"))
    assert result.record.finding is None
    assert not result.record.passed
    assert "how well cells are found wasn't measured: no frame was reviewed as a whole" in result.record.shortfalls
    assert result.record.calls is not None
    assert result.record.calls.cells == 3


def test_patients_may_be_added_to_corrections(frames: list[Path]) -> None:
    table = frames[0].with_name("c.csv")
    write_corrections(table, [*said(frames[0], "all"), *said(frames[1], "hem")])
    head, *lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([f"{head},patient", f"{lines[0]},P1", f"{lines[1]},P2"]), encoding="utf-8")
    assert read_labels(table, frames).patients == {frames[0]: "P1", frames[1]: "P2"}


def test_an_answer_that_is_none_is_named_with_its_line(frames: list[Path]) -> None:
    rows = said(frames[0], "all")
    write_corrections(frames[0].with_name("c.csv"), [replace(rows[0], new="blast")])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="line 2: the label is 'blast', it must be one of hem, all, other, unsure, none"):
        read_labels(frames[0].with_name("c.csv"), frames)


def test_corrections_are_read_as_they_were_written(frames: list[Path], tmp_path: Path) -> None:
    rows = [*said(frames[0], "hem", "", "none", complete=True), replace(said(frames[1], "all")[0], number=None, old="")]
    write_corrections(tmp_path / "c.csv", rows)
    assert read_corrections(tmp_path / "c.csv") == rows
