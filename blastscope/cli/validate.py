"""`blastscope validate`: measures the calls on a site's labelled frames."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from blastscope.cli.options import (
    BundlePath,
    Json,
    PixelUm,
    SessionArguments,
    SpecPath,
    named_frames,
    opened,
    with_session_arguments,
)
from blastscope.cli.terminal import echo, say

if TYPE_CHECKING:
    from blastscope.runtime.evaluation.validation_report import FrameOutcome, PersonRow, Validation


@with_session_arguments
def validate(
    frames: Annotated[list[Path], typer.Argument(help="The site's frames and scans, and folders of them.")],
    *,
    labels: Annotated[
        Path,
        typer.Option(help="CSV, a row per cell: path,x0,y0,x1,y1,label (all or hem), patient if known; or corrections.csv."),
    ],
    site: Annotated[str, typer.Option(help="The site's name, as the record will show it.")] = "this site",
    record: Annotated[Path | None, typer.Option(help="Write the record for `examine --validation`, passed or not.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page, FILE.html.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file with one row per cell: label, call, score, refusal.")] = None,
    pixel_um: PixelUm = None,
    config: SpecPath = None,
    requirements: Annotated[Path | None, typer.Option(help="TOML file of what must be shown. Default: the house's.")] = None,
    bundle: BundlePath = None,
    engine: SessionArguments,
    as_json: Json = False,
) -> None:
    """Compare the calls on a site's own frames with its experts' labels. Exits 1 when the requirements are not met.

    Frames without a row in the table are not judged; a row with a path alone is a frame without a white cell.
    """
    from blastscope.runtime.evaluation.labels import read_labels
    from blastscope.runtime.evaluation.validation import SiteOptions
    from blastscope.runtime.evaluation.validation import validate as run
    from blastscope.runtime.evaluation.validation_record import Requirements, write_validation
    from blastscope.runtime.evaluation.validation_report import ValidationRow, render_validation_report
    from blastscope.runtime.frames.report.writers import check_places
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.runtime.io.atomic import write_content
    from blastscope.runtime.io.printable import write_table

    wanted = SiteOptions(
        name=site,
        pixel_um=pixel_um,
        spec=FrameSpecification.from_toml(config) if config else FrameSpecification(),
        requirements=Requirements.from_toml(requirements) if requirements else Requirements(),
    )
    paths = named_frames(frames)
    check_places(filter(None, (record, report, csv)), paths, others=(labels, config, requirements))
    table = read_labels(labels, paths, [path for path in frames if path.is_dir()])
    with opened(bundle, **engine.words(), workload="throughput") as scope:
        validation = _last(run(scope, table, wanted, pictures=report is not None), len(table.cells))
    if record:
        write_validation(validation.record, record)
        say(f"written: {record}")
    if report:
        page = render_validation_report(validation)
        write_content(report, page)
        say(f"written: {report}")
    if csv:
        write_table(csv, ValidationRow.columns(), (row.values() for row in validation.cells))
        say(f"written: {csv}")
    for line in [json.dumps(validation.row())] if as_json else lines(validation):
        echo(line)
    if not validation.record.passed:
        say("not passed: reports go on saying that calls on frames were not validated")
        raise typer.Exit(1)


def lines(validation: Validation) -> Iterator[str]:
    """The validation for people."""
    record = validation.record
    if record.finding:
        yield f"{'cells found':<14}{record.finding.recall:.3f}  {record.finding.found} of {record.finding.labelled}"
        yield f"{'  precision':<14}{record.finding.precision:.3f}  {record.finding.false} without a label"
    yield f"{'labelled':<14}{'called ALL':>10}{'called HEM':>12}{'refused':>9}{'missed':>8}"
    for name, counts in (("ALL", record.all), ("HEM", record.hem)):
        yield f"{name:<14}{counts.called_all:>10}{counts.called_hem:>12}{counts.refused:>9}{counts.missed:>8}"
    if record.calls:
        for name in ("sensitivity", "specificity", "auroc"):
            yield f"{name:<14}{getattr(record.calls, name):.3f}"
    yield from people_lines(validation.people)
    yield from (f"refused: {code}, {count} cells" for code, count in validation.refusals.items())
    yield from (f"drift: {alarm}" for alarm in validation.drift.alarms)
    yield from (f"note: {note}" for note in validation.notes)
    yield from (f"short: {one}" for one in record.shortfalls)
    yield f"{'passed' if record.passed else 'not passed'}: {record.frames} frames, intervals over {record.units}"


def people_lines(people: Sequence[PersonRow]) -> Iterator[str]:
    """The patients for people: how many are called right, and a line for each of the others."""
    if not people:
        return
    from blastscope.cli.classify import smear_line

    judged = [person for person in people if person.right is not None]
    right = sum(person.right is True for person in judged)
    yield f"{'patients':<14}{right} of {len(judged)} called as labelled, by all of their cells"
    for person in people:
        if person.right is not True:
            labelled = person.label.upper() if person.label else "both classes or none"
            yield f"  labelled {labelled}: {smear_line(person.patient, person.call)}"


def _last(steps: Iterator[FrameOutcome | Validation], count: int) -> Validation:
    """What comes after the `count` frames, with a bar on stderr until then."""
    from blastscope.runtime.evaluation.validation_report import Validation

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False) as progress:
        for step in progress.track(steps, count, description="validating"):
            if isinstance(step, Validation):
                return step
            if step.problem:
                say(f"{step.path}: {step.problem}")
    raise AssertionError("a validation ends with its result")


VERBS = (validate,)
