"""The HTML report of a validation, one file."""

from __future__ import annotations

from collections.abc import Sequence

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.evaluation.drift import WORDS
from blastscope.runtime.evaluation.error_gallery import render_gallery
from blastscope.runtime.evaluation.validation import FrameFate, Validation
from blastscope.runtime.evaluation.validation_record import ValidationRecord
from blastscope.runtime.frames.report.html_report import REASONS
from blastscope.runtime.frames.report.markup import Cell, Tile, digits, safe, table, tiles, warning, whole_page

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
    title = f"Validation of {record.bundle_name} at {record.site}"
    sections = [
        f"<h1>{safe(title)}</h1>",
        _verdict(record),
        *map(warning, validation.notes),
        _tiles(record),
        _fates(record),
        _figures(record),
        _refusals(validation),
        render_gallery(validation.mistakes, [frame.path for frame in validation.frames]),
        _drift(validation),
        _frames(validation.frames),
        _origin(record),
    ]
    return whole_page(title, sections)


def _verdict(record: ValidationRecord) -> str:
    if record.passed:
        return (
            f"<p><b>Passed.</b> With this record reports of bundle {safe(record.bundle_name)} say that their calls on frames "
            "were validated here. For research use, not a medical device.</p>"
        )
    items = "".join(f"<li>{safe(one)}</li>" for one in record.shortfalls)
    return (
        '<div class="warning"><b>Not passed.</b> Reports go on saying that calls on frames were not validated. What fell short:'
        f"<ul>{items}</ul></div>"
    )


def _tiles(record: ValidationRecord) -> str:
    figures: list[tuple[str, Interval | None]] = [
        ("cells found", record.finding.recall if record.finding else None),
        ("found ones with a label", record.finding.precision if record.finding else None),
        ("sensitivity", record.calls.sensitivity if record.calls else None),
        ("specificity", record.calls.specificity if record.calls else None),
        ("AUROC", record.calls.auroc if record.calls else None),
    ]
    shown = tiles(
        Tile(name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}") for name, one in figures if one is not None
    )
    who = f"{record.patients} patients" if record.patients is not None else "patients unknown"
    return (
        f'{shown}<p class="quiet">{record.frames} frames, {who}; 95 % intervals by bootstrap over '
        f"{record.units}. Sensitivity, specificity and AUROC are of the cells that were found and called.</p>"
    )


def _fates(record: ValidationRecord) -> str:
    rows = [
        [name, *(digits(count) for count in (fate.called_all, fate.called_hem, fate.refused, fate.missed))]
        for name, fate in (("ALL", record.all), ("HEM", record.hem))
    ]
    false = f"{record.finding.false} cells were found where none is labelled." if record.finding else ""
    heads: list[Cell] = ["labelled", digits("called ALL"), digits("called HEM"), digits("refused"), digits("not found")]
    return (
        f"<h2>What became of the labelled cells</h2>{table(heads, rows)}"
        f'<p class="quiet">A found cell is a labelled one where their boxes overlap by half of their union. {false}</p>'
    )


def _figures(record: ValidationRecord) -> str:
    if record.calls is None:
        return ""
    names = {"sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy", "weighted_f1": "weighted F1"}
    rows = [[name, _interval(getattr(record.calls, key))] for key, name in {**names, "auroc": "AUROC"}.items()]
    return f"<h2>The vote on {record.calls.cells} cells</h2>{table(['figure', digits('value, 95 % interval')], rows)}"


def _refusals(validation: Validation) -> str:
    if not validation.refusals:
        return ""
    rows = [[code, digits(count), REASONS[code]] for code, count in validation.refusals.items()]
    return f"<h2>Refused cells</h2>{table(['reason', digits('labelled cells'), ''], rows)}"


def _drift(validation: Validation) -> str:
    drift = validation.drift
    alarms = "".join(map(warning, drift.alarms))
    calm = "" if drift.alarms or not drift.enough else "<p>No alarm: the cells look like the training's.</p>"
    few = "" if drift.enough else "<p>Too few cells to judge.</p>"
    rows = [
        [
            WORDS[shift.feature].name,
            digits(f"{shift.session:.3g}{WORDS[shift.feature].unit}"),
            digits(f"{shift.training:.3g}{WORDS[shift.feature].unit}"),
            (f"{shift.shift:+.1f}", "n all" if shift.alarm else "n"),
            digits(f"{shift.limit:.1f}"),
        ]
        for shift in drift.shifts
    ]
    heads: list[Cell] = ["figure", digits("these cells"), digits("training"), digits("shift, in spreads"), digits("limit")]
    told = f'<p class="quiet">Medians of {drift.cells} cells as the networks saw them, against {safe(drift.reference)}.</p>'
    return f"<h2>Do the cells look like the training's?</h2>{alarms}{calm}{few}{told}{table(heads, rows)}"


def _frames(frames: Sequence[FrameFate]) -> str:
    heads: list[Cell] = ["frame", *map(digits, ("labelled", "found", "no label", "right", "wrong", "refused")), ""]
    rows = [
        [
            (str(frame.path), "name"),
            *(digits(one) for one in (frame.labelled, frame.found, frame.false, frame.right, frame.wrong, frame.refused)),
            frame.problem or "",
        ]
        for frame in frames[:MOST_FRAMES]
    ]
    more = f'<p class="quiet">The first {MOST_FRAMES} of {len(frames)}.</p>' if len(frames) > MOST_FRAMES else ""
    return f"<h2>Frames</h2>{table(heads, rows)}{more}"


def _origin(record: ValidationRecord) -> str:
    facts = {
        "bundle": f"{record.bundle_name}, {record.bundle}",
        "labels": record.labels_sha256,
        "made": record.created,
        "scale": f"{record.pixel_um} micrometres a pixel, given for all frames"
        if record.pixel_um
        else "the specification's, or each file's own, or that of the red cells",
        "specification": record.spec.model_dump_json(),
        "requirements": record.requirements.model_dump_json(),
    }
    rows: list[list[Cell]] = [[name, (value, "name")] for name, value in facts.items()]
    return f"<h2>Where this comes from</h2>{table([], rows)}"


def _interval(figure: Interval) -> Cell:
    return digits(f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")
