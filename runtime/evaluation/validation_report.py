"""The HTML report of a validation, one file."""

from __future__ import annotations

from blastscope.runtime.evaluation.drift import WORDS
from blastscope.runtime.evaluation.error_gallery import gallery_parts
from blastscope.runtime.evaluation.validation import Validation
from blastscope.runtime.evaluation.validation_record import ValidationRecord
from blastscope.runtime.frames.report.html_report import REASONS
from blastscope.runtime.frames.report.templates import render_template

MOST_FRAMES = 2000


def render_validation_report(validation: Validation) -> str:
    """The page of a validation: HTML that needs nothing beside it.

    Parameters
    ----------
    validation : Validation
        As `validate` gives it last.

    Returns
    -------
    str
    """
    record = validation.record
    return render_template(
        "validation.html",
        title=f"Validation of {record.bundle_name} at {record.site}",
        validation=validation,
        record=record,
        figures=_key_figures(record),
        reasons=REASONS,
        parts=gallery_parts(validation.mistakes, [frame.path for frame in validation.frames]),
        features=WORDS,
        most_frames=MOST_FRAMES,
    )


def _key_figures(record: ValidationRecord) -> list[tuple[str, str, str, str]]:
    """Names, values, intervals and kinds, of what was measured."""
    figures = {
        "cells found": record.finding and record.finding.recall,
        "found ones with a label": record.finding and record.finding.precision,
        "sensitivity": record.calls and record.calls.sensitivity,
        "specificity": record.calls and record.calls.specificity,
        "AUROC": record.calls and record.calls.auroc,
    }
    return [(name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", "") for name, one in figures.items() if one]
