"""A validation as one page that needs nothing beside it, for the people of the site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.frames.pages.look import PAGE, STYLE
from blastscope.runtime.site.drift import WORDS
from blastscope.runtime.site.proof import ValidationRecord
from blastscope.runtime.site.validate import FrameFate, Validation

MOST_FRAMES = 2000
Cell = str | tuple[str, str]  # text, or text with its class


def compose(validation: Validation) -> str:
    """The whole page as HTML."""
    record = validation.record
    title = f"Validation of {record.bundle_name} at {record.site}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        _verdict(record),
        *(f'<p class="warning">{escape(note)}</p>' for note in validation.notes),
        _tiles(record),
        _fates(record),
        _figures(record),
        _refusals(validation),
        _drift(validation),
        _frames(validation.frames),
        _origin(record),
    ]
    return PAGE.substitute(title=escape(title), style=STYLE, script="", body="\n".join(filter(None, sections)))


def _verdict(record: ValidationRecord) -> str:
    if record.passed:
        return (
            f"<p><b>Passed.</b> With this record reports of bundle {escape(record.bundle_name)} say that their calls on frames "
            "were validated here. For research use, not a medical device.</p>"
        )
    items = "".join(f"<li>{escape(one)}</li>" for one in record.shortfalls)
    return (
        '<div class="warning"><b>Not passed.</b> Reports go on saying that calls on frames were not validated. What fell short:'
        f"<ul>{items}</ul></div>"
    )


def _tiles(record: ValidationRecord) -> str:
    figures: list[tuple[str, Interval | None]] = [
        ("cells found", record.finding.recall if record.finding else None),
        ("of them labelled", record.finding.precision if record.finding else None),
        ("sensitivity", record.calls.sensitivity if record.calls else None),
        ("specificity", record.calls.specificity if record.calls else None),
        ("AUROC", record.calls.auroc if record.calls else None),
    ]
    tiles = "".join(
        f'<div class="tile"><span>{name}</span><b>{one.value:.3f}</b><span>{one.low:.3f} to {one.high:.3f}</span></div>'
        for name, one in figures
        if one is not None
    )
    who = f"{record.patients} patients" if record.patients is not None else "patients unknown"
    return (
        f'<div class="tiles">{tiles}</div><p class="quiet">{record.frames} frames, {who}; 95 % intervals by bootstrap over '
        f"{record.units}. Sensitivity, specificity and AUROC are of the cells that were found and called.</p>"
    )


def _fates(record: ValidationRecord) -> str:
    rows = [
        [name, *(_n(count) for count in (fate.called_all, fate.called_hem, fate.refused, fate.missed))]
        for name, fate in (("ALL", record.all), ("HEM", record.hem))
    ]
    false = f"{record.finding.false} cells were found where none is labelled." if record.finding else ""
    heads: list[Cell] = ["labelled", _n("called ALL"), _n("called HEM"), _n("refused"), _n("not found")]
    return (
        f"<h2>What became of the labelled cells</h2>{_table(heads, rows)}"
        f'<p class="quiet">A found cell is a labelled one where their boxes overlap by half of their union. {false}</p>'
    )


def _figures(record: ValidationRecord) -> str:
    if record.calls is None:
        return ""
    names = {"sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy", "weighted_f1": "weighted F1"}
    rows = [[name, _interval(getattr(record.calls, key))] for key, name in {**names, "auroc": "AUROC"}.items()]
    return f"<h2>The vote on {record.calls.cells} cells</h2>{_table(['figure', _n('value, 95 % interval')], rows)}"


def _refusals(validation: Validation) -> str:
    if not validation.refusals:
        return ""
    rows = [[code, _n(count)] for code, count in validation.refusals.items()]
    return f"<h2>Refused cells</h2>{_table(['reason', _n('labelled cells')], rows)}"


def _drift(validation: Validation) -> str:
    drift = validation.drift
    alarms = "".join(f'<p class="warning">{escape(alarm)}</p>' for alarm in drift.alarms)
    calm = "" if drift.alarms or not drift.enough else "<p>No alarm: the cells look like the training's.</p>"
    few = "" if drift.enough else "<p>Too few cells to judge.</p>"
    rows = [
        [
            WORDS[shift.feature].name,
            _n(f"{shift.session:.3g}{WORDS[shift.feature].unit}"),
            _n(f"{shift.training:.3g}{WORDS[shift.feature].unit}"),
            _n(f"{shift.shift:+.1f}"),
            _n(f"{shift.limit:.1f}"),
        ]
        for shift in drift.shifts
    ]
    heads: list[Cell] = ["figure", _n("these cells"), _n("training"), _n("shift, in spreads"), _n("limit")]
    told = f'<p class="quiet">Medians of {drift.cells} cells as the networks saw them, against {escape(drift.reference)}.</p>'
    return f"<h2>Do the cells look like the training's?</h2>{alarms}{calm}{few}{told}{_table(heads, rows)}"


def _frames(frames: Sequence[FrameFate]) -> str:
    heads: list[Cell] = ["frame", *map(_n, ("labelled", "found", "no label", "right", "wrong", "refused")), ""]
    rows = [
        [
            (str(frame.path), "name"),
            *(_n(one) for one in (frame.labelled, frame.found, frame.false, frame.right, frame.wrong, frame.refused)),
            frame.problem or "",
        ]
        for frame in frames[:MOST_FRAMES]
    ]
    more = f'<p class="quiet">The first {MOST_FRAMES} of {len(frames)}.</p>' if len(frames) > MOST_FRAMES else ""
    return f"<h2>Frames</h2>{_table(heads, rows)}{more}"


def _origin(record: ValidationRecord) -> str:
    facts = {
        "bundle": f"{record.bundle_name}, {record.bundle}",
        "labels": record.labels_sha256,
        "made": record.created,
        "specification": record.spec.model_dump_json(),
        "requirements": record.requirements.model_dump_json(),
    }
    rows: list[list[Cell]] = [[name, (value, "name")] for name, value in facts.items()]
    return f"<h2>Where this comes from</h2>{_table([], rows)}"


def _interval(figure: Interval) -> Cell:
    return _n(f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")


def _n(value: object) -> Cell:
    return str(value), "n"


def _table(heads: Iterable[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    head = "".join(_cell(cell, "th") for cell in heads)
    body = "".join(f"<tr>{''.join(_cell(cell, 'td') for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{f"<thead><tr>{head}</tr></thead>" if head else ""}<tbody>{body}</tbody></table></div>'


def _cell(cell: Cell, tag: str) -> str:
    text, kind = (cell, "") if isinstance(cell, str) else cell
    return f"<{tag}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(text)}</{tag}>"
