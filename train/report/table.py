"""Table 1 and the intervals as text for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.scores import ClassScores
from blastscope.train.report.facts import NAMES, SUBJECTS, VOTE, Report

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
        _table1(report),
        Text("with 95 % intervals by bootstrap over patients", style="bold"),
        _intervals(report),
    )


def _table1(report: Report) -> Table:
    table = Table("", "class", "precision", "recall", "F1", "support", box=SIMPLE_HEAD)
    for subject in SUBJECTS:
        for place, (key, name) in enumerate(ROWS):
            row: ClassScores = getattr(report.scores[subject].table1, key)
            figures = [f"{value:.3f}" for value in (row.precision, row.recall, row.f1)]
            table.add_row("" if place else NAMES[subject], name, *figures, f"{row.support:,}", end_section=key == "weighted")
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _intervals(report: Report) -> Table:
    table = Table("", *(NAMES[subject] for subject in SUBJECTS), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, name in FIGURES:
        found: list[Interval] = [getattr(report.scores[subject], key) for subject in SUBJECTS]
        table.add_row(name, *(f"{one.value:.3f}\n{one.low:.3f} to {one.high:.3f}" for one in found))
    return table
