"""The report as one HTML page with embedded plots.

Table 1 and the intervals as text for a terminal.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.bundle.uncertainty import Uncertainty
from blastscope.runtime.evaluation.metrics import CallScores, ClassScores
from blastscope.train.report.data import NAMES, SUBJECTS, VOTE, Comparison, Part, Report
from blastscope.train.report.markup import FRAME, STYLE, Cell, Row, body, interval, number, table
from blastscope.train.report.plots import Picture


def render_training_report(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole page as HTML."""
    drawn = {picture.name: picture for picture in pictures}
    sections = [
        _head(report),
        _table1(report) if report.scores else "",
        _intervals(report) if report.scores else "",
        _groups(report),
        _uncertainty(report.uncertainty) if report.uncertainty else "",
        _compared(report.comparison) if report.comparison else "",
        _patients(report.scores[VOTE], drawn) if report.scores else "",
        _thresholds(report, drawn) if report.scores else "",
        _training(drawn),
        _parts(report),
        _provenance(report),
    ]
    return FRAME.substitute(title=escape(report.title), style=STYLE, body="\n".join(filter(None, sections)))


def _head(report: Report) -> str:
    parts = [f"<h1>{escape(report.title)}</h1>"]
    if report.scores:
        scores = report.scores[VOTE]
        parts.append(
            f'<p class="quiet">The vote on {scores.cells:,} validation cells of {_patients_of(len(scores.patients))}, '
            "with 95 % intervals by bootstrap over patients.</p>"
        )
    parts += [f'<p class="warning">{escape(_sentence(note))}</p>' for note in report.notes]
    if report.scores:
        tiles = [
            f'<div class="tile"><span>{name}</span><b>{one.value:.3f}</b><span>{one.low:.3f} to {one.high:.3f}</span></div>'
            for key, name in FIGURES[:4]
            for one in [getattr(report.scores[VOTE], key)]
        ]
        parts.append(f'<div class="tiles">{"".join(tiles)}</div>')
    return "\n".join(parts)


def _table1(report: Report) -> str:
    top = "".join(f'<th colspan="3" class="group">{NAMES[subject]}</th>' for subject in SUBJECTS)
    head = "".join('<th class="n group">precision</th><th class="n">recall</th><th class="n">F1</th>' for _ in SUBJECTS)
    rows: list[Row] = []
    for key, name in ROWS:
        cells: list[Cell] = [name, number(f"{getattr(report.scores[VOTE].table1, key).support:,}")]
        for subject in SUBJECTS:
            row: ClassScores = getattr(report.scores[subject].table1, key)
            cells += [(f"{row.precision:.3f}", "n group"), *(number(f"{value:.3f}") for value in (row.recall, row.f1))]
        rows.append(("strong" if key == "weighted" else "", cells))
    return (
        "<h2>Precision, recall and F1</h2>"
        '<p class="quiet">As Table 1 of the paper. Weighted: the mean of both classes by their support.</p>'
        f'<div class="scroll"><table class="wide"><thead><tr class="over"><th></th><th></th>{top}</tr>'
        f'<tr><th></th><th class="n">support</th>{head}</tr></thead><tbody>{body(rows)}</tbody></table></div>'
    )


def _intervals(report: Report) -> str:
    rows: list[Row] = [
        ("", [name, *(interval(getattr(report.scores[subject], key)) for subject in SUBJECTS)]) for key, name in FIGURES
    ]
    decided = ", ".join(f"{NAMES[voter]} in {count:,}" for voter, count in report.deciding.items())
    return (
        "<h2>Intervals</h2>"
        '<p class="quiet">Patients are drawn again 1,000 times within their class, each with all of their cells, since the '
        "cells of one patient resemble each other.</p>"
        + table(["", *(NAMES[subject] for subject in SUBJECTS)], rows)
        + f"<p>The vote was decided by {decided} cells.</p>"
    )


def _groups(report: Report) -> str:
    if not report.shares:
        return ""
    rows: list[Row] = [
        ("", [row.name, *map(number, (f"{row.cells:,}", str(row.people))), interval(row.right)]) for row in report.groups
    ]
    shares: list[Row] = [
        (
            "",
            [number(f"{row.all_share:.0%}"), "as those of ALL" if row.same_sizes else "as they are", interval(row.weighted_f1)],
        )
        for row in report.shares
    ]
    groups = (
        '<p class="quiet">Size is the side of a square as large as the cell\'s box. Large normal cells and small blasts are '
        "where networks fail that take size for malignancy.</p>"
        + table(["cells", number("cells"), number("people"), "called right"], rows)
    )
    return (
        "<h2>Sizes, stains and shares</h2>"
        + (groups if rows else "")
        + "<p>If ALL were another share of the cells, and if normal cells were as large as malignant ones, so that size told "
        "nothing:</p>" + table([number("share of ALL"), "sizes of HEM", "weighted F1"], shares)
    )


def _uncertainty(found: Uncertainty) -> str:
    sets, rows = found.sets, []
    rows.append(("temperature of the margins", f"{found.temperature:.3f}"))
    rows.append(("expected calibration error, persons alike", f"{found.calibration_error:.3f}"))
    rows.append(
        (
            f"cells with their class in the set, {sets.level:.0%} wanted",
            f"HEM {sets.hem_coverage:.3f}, ALL {sets.all_coverage:.3f}",
        )
    )
    rows.append(("cells with both classes in the set", f"{sets.both:.3f}"))
    if found.novelty:
        rows.append(
            (f"held-out cells refused as unlike-training, above {found.novelty.limit:.2f}", f"{found.novelty.refused:.3f}")
        )
    if found.smear:
        rows.append(("people called right from all of their cells", f"{found.smear.right} of {found.smear.people}"))
    return (
        "<h2>Uncertainty</h2>"
        '<p class="quiet">Each figure is of people that had no part in choosing what it judges: thresholds and temperatures '
        "are those that the other nine tenths of the people give.</p>"
        + table(["of held-out people", ""], [("", [name, value]) for name, value in rows])
    )


def _compared(comparison: Comparison) -> str:
    keys = ("weighted_f1", "auroc", "sensitivity", "specificity")
    rows: list[Row] = [
        ("", [escape(row.name), *(interval(getattr(row, key)) for key in keys), escape(row.note)]) for row in comparison.rows
    ]
    head = ["recipe", *(dict(FIGURES)[key] for key in keys), "note" if any(row.note for row in comparison.rows) else ""]
    note = f'<p class="quiet">{escape(comparison.note)}</p>' if comparison.note else ""
    return f"<h2>{escape(comparison.title)}</h2>{note}{table(head, rows)}"


def _patients(scores: CallScores, drawn: dict[str, Picture]) -> str:
    rows: list[Row] = [
        (
            "" if row.call == row.label else "wrong",
            [
                escape(row.patient),
                row.label.upper(),
                row.call.upper(),
                row.call_by_score.upper(),
                *(number(text) for text in (f"{row.cells:,}", f"{row.accuracy:.3f}", f"{row.score:.3f}")),
            ],
        )
        for row in scores.patients
    ]
    numbers = [number(name) for name in ("cells", "called right", "mean score")]
    return (
        "<h2>Patients</h2>"
        "<p>A patient is called what most of the cells are called, ALL where the halves are equal.</p>"
        + _picture(
            drawn,
            "patients",
            "Share of each patient's cells that the vote calls right. A bar that ends before the dashed line: called wrong.",
        )
        + "<details><summary>The same as a table, with the call by mean score</summary>"
        + table(["patient", "label", "call", "by mean score", *numbers], rows)
        + "</details>"
    )


def _thresholds(report: Report, drawn: dict[str, Picture]) -> str:
    rows: list[Row] = [
        (
            "",
            [
                number(f"{figure:.{digits}g}" if digits == 4 else f"{figure:.{digits}f}")
                for figure, digits in (
                    (point.sensitivity_wanted, 2),
                    (point.threshold, 4),
                    (point.sensitivity, 3),
                    (point.specificity, 3),
                )
            ],
        )
        for point in report.operating_points
    ]
    head = [number(name) for name in ("wanted", "threshold", "sensitivity", "specificity")]
    return (
        "<h2>Calls and thresholds</h2>"
        + _picture(drawn, "confusion", "Cells by label and call, with the share of the label's cells.")
        + '<div class="pair">'
        + _picture(drawn, "roc", "Circle: the vote as it stands. Diamond: the threshold for a sensitivity of 0.95.")
        + _picture(drawn, "scores", "The vote's score in each class; right of the dashed line cells are called ALL.")
        + "</div>"
        + '<div class="pair">'
        + _picture(drawn, "reliability", "On the dashed line a score of 0.8 would be right in 8 of 10 cells.")
        + "<div><h3>Thresholds on the vote's score</h3>"
        + table(head, rows)
        + '<p class="quiet">Chosen and measured on the same validation cells, so on new patients they will do a little '
        "worse. The default is the paper's vote, without a threshold.</p></div></div>"
    )


def _training(drawn: dict[str, Picture]) -> str:
    if "curves" not in drawn:
        return ""
    return "<h2>Training</h2>" + _picture(drawn, "curves", "Loss and accuracy by epoch, as Fig. 4 of the paper.")


def _parts(report: Report) -> str:
    rows = [_part("training", report.training)] if report.provenance.patients.training else []
    rows.append(_part("validation", report.validation))
    split = {
        "patient": "Split by patient: no patient stands in both parts.",
        "image": "Split by image, as in the paper: it leaks patients, since cells of one patient stand in both parts.",
        "none": "Not split: every patient was trained on.",
    }[report.provenance.split]
    if not report.provenance.patients.training:
        split = "Cross-validated: every patient was held out once, and scored by networks that trained on the others."
    style = ' class="warning"' if report.provenance.split == "image" else ""
    head: list[Cell] = ["part", "class", number("patients"), "who"]
    return f"<h2>Who is in which part</h2><p{style}>{split}</p>" + table(head, [row for part in rows for row in part])


def _part(name: str, part: Part) -> list[Row]:
    groups = [("ALL", part.all), ("HEM", part.hem), ("not known", part.unknown)]
    filled = [(label, names) for label, names in groups if names] or [("", ())]
    return [
        (
            "" if place else "first",
            ["" if place else name, label, number(str(len(names))), (escape(", ".join(names)) or "nobody", "names")],
        )
        for place, (label, names) in enumerate(filled)
    ]


def _provenance(report: Report) -> str:
    origin = report.provenance
    rows: list[Row] = [
        ("", ["data's sha256", f"<code>{escape(origin.data_sha256 or 'none: random weights')}</code>"]),
        ("", ["seed", str(origin.seed)]),
        *(_pair(name, value) for name, value in report.circumstances.items()),
        *(_pair(library, version) for library, version in sorted(origin.versions.items())),
    ]
    config = json.dumps(origin.config, indent=2, ensure_ascii=False, default=str)
    return (
        "<h2>Where it comes from</h2>"
        + table(["", ""], rows)
        + f"<details><summary>The whole configuration</summary><pre>{escape(config)}</pre></details>"
    )


def _pair(name: str, value: str) -> Row:
    return "", [escape(name), escape(value)]


def _picture(drawn: dict[str, Picture], name: str, caption: str) -> str:
    if name not in drawn:
        return ""
    data = b64encode(drawn[name].svg).decode("ascii")
    alt = escape(caption, quote=True)
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{alt}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _patients_of(count: int) -> str:
    return f"{count} patient" + "s" * (count != 1)


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")


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
