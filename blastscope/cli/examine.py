"""`blastscope examine`: finds and calls the white cells of frames and slides."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from blastscope.cli.classify import print_smears
from blastscope.cli.options import (
    BackendName,
    BundlePath,
    DeviceName,
    Json,
    LayoutName,
    PixelUm,
    PrecisionName,
    RequireSignature,
    SpecPath,
    Threads,
    UnlikeTraining,
    ValidationPath,
)
from blastscope.cli.session import opened
from blastscope.cli.terminal import echo, say
from blastscope.runtime.io.printable import printable

if TYPE_CHECKING:
    from blastscope.runtime.frames.types import FrameReport
    from blastscope.runtime.types import Prediction

FrameGroups = Literal["none", "frame", "folder"]

HEAD = f"{'cells':>6}{'ALL':>6}{'HEM':>6}{'refused':>9}  {'um/pixel':<19}frame"


def examine(
    frames: Annotated[list[Path], typer.Argument(help="Stained bright-field frames and scans, and folders of them.")],
    *,
    bundle: BundlePath = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    backend: BackendName = "auto",
    threads: Threads = None,
    layout: LayoutName = "auto",
    unlike_training: UnlikeTraining = "refuse",
    require_signature: RequireSignature = None,
    pixel_um: PixelUm = None,
    config: SpecPath = None,
    as_json: Json = False,
    overlay: Annotated[Path | None, typer.Option(help="Folder for a picture a frame, its cells drawn in.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG or JPEG of all cells, the likeliest ALL first.")] = None,
    report: Annotated[Path | None, typer.Option(help="FILE.html for one page, else a folder of a page a frame.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file of a row a cell.")] = None,
    validation: ValidationPath = None,
    group_by: Annotated[
        FrameGroups,
        typer.Option(help="Call each person too: whose cells are in one frame or scan, or in the frames of one folder."),
    ] = "none",
) -> None:
    """Find the white cells in whole frames and call each, in the order given. Exits 1 when a frame couldn't be examined.

    A cell that gets no call (cut off, clumped, blurred, not lymphoid) is a finding, not a failure: it stands in the result with
    its reason.
    """
    from blastscope.runtime.evaluation.drift import Drift
    from blastscope.runtime.frames.report.theme import caution, doubts, title_of, without_scale
    from blastscope.runtime.frames.report.writers import OutputOptions, ReportWriter
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.runtime.inference.smear import smear_model
    from blastscope.runtime.io.paths import PassedOver, left_out
    from blastscope.runtime.io.slides.slide import find_frames

    spec = FrameSpecification.from_toml(config) if config else None
    wanted = OutputOptions(overlay=overlay, sheet=sheet, report=report, csv=csv)
    passed = PassedOver()
    paths = find_frames(frames, passed=passed)
    for told in left_out(passed):
        say(told)
    papers, drift = ReportWriter(wanted, paths, others=(config, validation)), Drift()
    refused, unscaled, validated = 0, 0, True
    engine: dict[str, object] = {
        "device": device,
        "precision": precision,
        "backend": backend,
        "threads": threads,
        "layout": layout,
    }
    engine |= {"unlike_training": unlike_training, "require_signature": require_signature}
    with opened(bundle, **engine, workload="throughput", validation=validation) as scope:
        smears = smear_model(scope.bundle) if group_by != "none" else None
        groups: dict[str, list[Prediction]] = {}
        reports = scope.examine_files(paths, pixel_um=pixel_um, spec=spec, look=papers.album.look)
        if not as_json:
            echo(HEAD)
        for done in _told(reports, len(paths)):
            refused += done.refusal is not None
            validated &= done.validated
            unscaled += without_scale(done)
            drift.add(done)
            echo(json.dumps(done.row()) if as_json else line(done))
            papers.add(done, scope.audit)
            if smears is not None and done.path is not None:
                called = (cell.prediction for cell in done.cells if cell.prediction)
                groups.setdefault(str(done.path if group_by == "frame" else done.path.parent), []).extend(called)
        if smears is not None:
            print_smears(groups, smears, as_json=as_json)
        alarms = drift.state().alarms
        written = papers.finish(title_of(paths), scope.audit, alarms=alarms)
    for path in written:
        say(f"written: {path}")
    for told in (*(f"drift: {alarm}" for alarm in alarms), *doubts(unscaled)):
        say(told)
    say(caution(validated=validated))
    if refused:
        echo(f"{refused} of {len(paths)} frames could not be examined", err=True)
        raise typer.Exit(1)


def _told(reports: Iterator[FrameReport], count: int) -> Iterator[FrameReport]:
    """`reports` themselves, with a bar on stderr where the results don't run down the same screen."""
    bar = sys.stderr.isatty() and not sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=not bar, redirect_stdout=False) as progress:
        yield from progress.track(reports, count, description="examining")


def line(report: FrameReport) -> str:
    """One frame for people: counts, scale, path, and what there is to say."""
    path = printable(report.path)
    if report.refusal or report.facts is None:
        code, detail = (report.refusal.code, f"  ({printable(report.refusal.detail)})") if report.refusal else ("", "")
        return f"{'--':>6}  {code:<40}{path}{detail}"
    counts, facts = report.counts, report.facts
    scale = f"{facts.pixel_um:.4f} {facts.scale_source}"
    notes = f"  ({printable('; '.join(report.notes))})" if report.notes else ""
    return f"{counts['cells']:>6}{counts['all']:>6}{counts['hem']:>6}{counts['refused']:>9}  {scale:<19}{path}{notes}"


VERBS = (examine,)
