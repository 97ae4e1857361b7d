"""The report on a detector: how well it finds the cells of each source when trained without it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template

from pydantic import JsonValue

from blastscope.runtime.evaluation.detection import DetectionMetrics
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.detector.evaluation import LIMITS, SourceScores
from blastscope.train.detector.fit import FitHistory
from blastscope.train.report.markup import STYLE, Cell, Row, interval, number, table

AIMED = (0.95, 0.90)  # recall and precision of each left-out source

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Detector of white cells</title><style>$style</style></head><body>
<h1>Detector of white cells</h1>
<p>How well white cells are found, at an overlap (IoU) of 0.5, with 95 % intervals over frames. The first rows are of detectors
that were trained <b>without</b> any picture of that source. The scale of each frame is measured, not told. A score of at least
$limit counts as a cell: of those tried, the limit at which the worst left-out source comes nearest to a recall of 0.95 and a
precision of 0.90, or goes furthest beyond.</p>
$scores
<h2>At each limit of the score</h2>
<p>Recall and precision.</p>
$limits
<h2>Scale</h2>
<p>Share of frames whose scale, measured without labels, is off by more than a factor of 1.3, before and after the detector has
looked at the red cells.</p>
$scales
<h2>Training</h2>
<p>Losses of the head that was trained on all sources.</p>
$history
<p class="quiet">$origin</p>
</body></html>
""")


class DetectorReport(StrictModel):
    """What a run's detectors showed."""

    run: dict[str, JsonValue]  # configuration, digests, versions
    limit: float  # of the score
    sources: tuple[SourceScores, ...]
    history: FitHistory


def best_limit(scores: Sequence[SourceScores]) -> float:
    """The limit of the score at which no left-out source falls further short of `AIMED` than at others."""

    def short(limit: float) -> float:
        return max(_short_of_aim(source.at(limit)) for source in scores if source.left_out)

    return min(LIMITS, key=short)


def write_report(folder: Path, report: DetectorReport) -> None:
    """Writes report.json and index.html."""
    folder.mkdir(parents=True, exist_ok=True)
    write_content(folder / "report.json", json.dumps(report.model_dump(mode="json"), indent=1) + "\n")
    write_content(folder / "index.html", render(report))


def render(report: DetectorReport) -> str:
    """The page, which loads nothing from anywhere."""
    head = ["source", "frames", "recall", "precision", "without detector: recall", "precision"]
    rows: list[Row] = []
    for one in report.sources:
        found = one.at(report.limit)
        name = f"{html.escape(one.source)}, {'left out' if one.left_out else 'trained with its training part'}"
        cells: list[Cell] = [name, number(str(one.frames)), *_pair(found), *_pair(one.by_stain)]
        rows.append(("", cells))
    limits: list[Row] = [("", [f"{limit:.2f}", *(_short(one.at(limit)) for one in report.sources)]) for limit in LIMITS]
    scales: list[Row] = [
        ("", [html.escape(one.source), number(f"{one.wrong_scale_before:.1%}"), number(f"{one.wrong_scale:.1%}")])
        for one in report.sources
    ]
    history: list[Row] = [
        ("", [str(row.epoch), *(number(f"{value:.3f}") for value in (row.heat, row.box, row.group))])
        for row in report.history.epochs
    ]
    return PAGE.substitute(
        style=STYLE,
        limit=f"{report.limit:.2f}",
        scores=table(head, rows),
        limits=table(["limit", *(html.escape(one.source) for one in report.sources)], limits),
        scales=table(["source", "before", "after"], scales),
        history=table(["epoch", "heat", "box", "group"], history),
        origin=html.escape(f"Trunk: {report.run.get('weights')}. Versions: {report.run.get('versions')}."),
    )


def _pair(found: DetectionMetrics | None) -> list[tuple[str, str]]:
    return [number(interval(found.recall)), number(interval(found.precision))] if found else [number("0"), number("")]


def _short(found: DetectionMetrics | None) -> tuple[str, str]:
    return number(f"{found.recall.value:.3f} / {found.precision.value:.3f}" if found else "0")


def _short_of_aim(found: DetectionMetrics | None) -> float:
    recall, precision = (found.recall.value, found.precision.value) if found else (0.0, 0.0)
    return max(AIMED[0] - recall, AIMED[1] - precision)
