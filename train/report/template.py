"""The report as one HTML page with embedded plots.

Table 1 and the intervals as text for a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.evaluation.metrics import ClassScores
from blastscope.runtime.frames.report.templates import render_template
from blastscope.train.report.data import NAMES, SUBJECTS, VOTE, Part, Report
from blastscope.train.report.plots import Picture


def render_training_report(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole page as HTML."""
    key_figures = [(name, getattr(report.scores[VOTE], key)) for key, name in FIGURES[:4]] if report.scores else []
    return render_template(
        "training.html",
        title=report.title,
        report=report,
        plots={picture.name: picture.svg for picture in pictures},
        figures=[(name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", "") for name, one in key_figures],
        classes=ROWS,
        scores=FIGURES,
        names={subject: NAMES[subject] for subject in SUBJECTS},
        subjects=[("", ""), *((NAMES[subject], "") for subject in SUBJECTS)],
        parts=[
            *(_part("training", report.training) if report.provenance.patients.training else ()),
            *_part("validation", report.validation),
        ],
        config=json.dumps(report.provenance.config, indent=2, ensure_ascii=False, default=str),
    )


def _part(name: str, part: Part) -> list[tuple[str, str, tuple[str, ...]]]:
    """A row a class: the part's name in the first, the class, who is in it."""
    groups = [("ALL", part.all), ("HEM", part.hem), ("not known", part.unknown)]
    filled = [(label, names) for label, names in groups if names] or [("", ())]
    return [("" if place else name, label, names) for place, (label, names) in enumerate(filled)]


ROWS = (("hem", "HEM"), ("all", "ALL"), ("weighted", "weighted"))
FIGURES = (
    ("weighted_f1", "weighted F1"),
    ("auroc", "AUROC"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("accuracy", "accuracy"),
)


def render_table(report: Report) -> Group:
    """Both tables and the report's notes, for `rich.print`."""
    notes = [Text(f"! {note}", style="yellow") for note in report.notes]
    if not report.scores:
        return Group(*notes)
    patients, cells = len(report.scores[VOTE].patients), report.scores[VOTE].cells
    return Group(
        *notes,
        Text(f"{cells:,} validation cells of {patients} patients", style="bold"),
        _table1_text(report),
        Text("with 95 % intervals by bootstrap over patients", style="bold"),
        _intervals_text(report),
    )


def _table1_text(report: Report) -> Table:
    table = Table("", "class", "precision", "recall", "F1", "support", box=SIMPLE_HEAD)
    for subject in SUBJECTS:
        for place, (key, name) in enumerate(ROWS):
            row: ClassScores = getattr(report.scores[subject].table1, key)
            figures = [f"{value:.3f}" for value in (row.precision, row.recall, row.f1)]
            table.add_row("" if place else NAMES[subject], name, *figures, f"{row.support:,}", end_section=key == "weighted")
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _intervals_text(report: Report) -> Table:
    table = Table("", *(NAMES[subject] for subject in SUBJECTS), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, name in FIGURES:
        found: list[Interval] = [getattr(report.scores[subject], key) for subject in SUBJECTS]
        table.add_row(name, *(f"{one.value:.3f}\n{one.low:.3f} to {one.high:.3f}" for one in found))
    return table
