"""The report on a detector: how well it finds the cells of each source when trained without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from blastscope.runtime.evaluation.detection import DetectionMetrics
from blastscope.runtime.frames.report.templates import render_template
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.train.detector.evaluation import LIMITS, SourceScores
from blastscope.train.detector.fit import FitHistory

AIMED = (0.95, 0.90)  # recall and precision of each left-out source


class DetectorReport(StrictModel):
    """What a run's detectors showed.

    Attributes
    ----------
    run : mapping of str to JsonValue
        Configuration, digests, versions.
    limit : float
        Limit of the score.
    sources : tuple of SourceScores
        How well the cells of each source were found.
    history : FitHistory
        Losses of the head that was trained on all sources.
    """

    run: dict[str, JsonValue]
    limit: float
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
    return render_template(
        "detector.html",
        title="Detector of white cells",
        report=report,
        limit=f"{report.limit:.2f}",
        limits=LIMITS,
        aimed=AIMED,
        source_columns=[("limit", ""), *((source.source, "n") for source in report.sources)],
    )


def _short_of_aim(found: DetectionMetrics | None) -> float:
    recall, precision = (found.recall.value, found.precision.value) if found else (0.0, 0.0)
    return max(AIMED[0] - recall, AIMED[1] - precision)
