"""`blastscope examine`: finds and calls the white cells of frames and slides.

How far a long examination is, is told on stderr: a bar with cells found and time left, out of the way of what is printed.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from blastscope import __version__
from blastscope.cli.classify import print_smears
from blastscope.cli.cluster import ClusterJob, RayAddress, Results, run_on_cluster
from blastscope.cli.explain import nearest_in
from blastscope.cli.options import (
    Archive,
    BundlePath,
    Json,
    LayoutName,
    NearestCount,
    PixelUm,
    ResumeFile,
    SessionArguments,
    SpecPath,
    ValidationPath,
    named_frames,
    opened,
    with_session_arguments,
)
from blastscope.cli.terminal import echo, say
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.printable import printable

if TYPE_CHECKING:
    from blastscope.runtime.evaluation.drift import Drift
    from blastscope.runtime.frames.pipeline import FrameCallback, TileProgress
    from blastscope.runtime.frames.types import DoubtCode, FrameReport
    from blastscope.runtime.io.slides.slide import Slide
    from blastscope.runtime.types import Prediction

STEPS = 1000  # of the bar, a frame
FrameGroups = Literal["none", "frame", "folder"]
GroupBy = Annotated[
    FrameGroups,
    typer.Option(help="Call each person too: whose cells are in one frame or scan, or in the frames of one folder."),
]
GeoJson = Annotated[
    Path | None, typer.Option("--geojson", help="Folder for one GeoJSON file per frame, for QuPath; FILE.geojson for one.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit 1 too where a frame may not have been understood, as its notes say.")
]
Coco = Annotated[Path | None, typer.Option("--coco", help="JSON file of all frames' boxes and outlines, in COCO's format.")]
Yolo = Annotated[Path | None, typer.Option("--yolo", help="Folder for YOLO's labels, one text file per frame.")]
OmeTiff = Annotated[Path | None, typer.Option("--ome", help="Folder for one OME-TIFF per frame, its cells as ROIs.")]
Explain = Annotated[
    int,
    typer.Option(
        min=0, help="In --report, what the calls on so many cells a frame rest on, likeliest ALL first. Takes seconds a cell."
    ),
]
Dicom = Annotated[Path | None, typer.Option("--dicom", help="Folder of Microscopy Bulk Simple Annotations, one a DICOM slide.")]

HEAD = f"{'cells':>6}{'ALL':>6}{'HEM':>6}{'refused':>9}  {'um/pixel':<19}frame"


class ExamineProgress:
    """A bar over frames and the tiles of scans, where stderr is a terminal. With `cells` each cell's JSON as it is found.

    `watch` and `told` are for `Scope.examine_files`: the one takes each part, from many threads, the other passes reports on.
    """

    def __init__(self, frames: int, *, cells: bool = False, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[cells]} cells"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._frames, self._rows, self._lock = frames, cells, threading.Lock()
        self._shares: dict[str, float] = {}  # of each frame at work
        self._done = self._cells = 0
        self._task = self._bar.add_task("examining", total=frames * STEPS, cells=0)

    def watch(self, part: TileProgress) -> None:
        """Takes a part of a frame that is done."""
        with self._lock:
            self._shares[str(part.path)] = part.done / part.total
            self._cells += len(part.cells)
            self._show(f"tile {part.done} of {part.total}" if part.total > 1 else "")
            if self._rows and part.cells:
                self._bar.stop()
                for cell in part.cells:
                    echo(json.dumps({"path": str(part.path), "cell": cell.row()}))
                self._bar.start()

    def told(self, reports: Iterator[FrameReport]) -> Iterator[FrameReport]:
        """The reports themselves. The bar is away while whoever takes them prints."""
        for report in reports:
            with self._lock:
                self._shares.pop(str(report.path), None)
                self._done += 1
                self._show("")
                self._bar.stop()
                yield report
                self._bar.start()

    def _show(self, part: str) -> None:
        completed = STEPS * (self._done + sum(self._shares.values()))
        where = f"frame {min(self._done + 1, self._frames)} of {self._frames}" if self._frames > 1 else ""
        description = ", ".join(filter(None, ("examining", where, part)))
        self._bar.update(self._task, completed=completed, cells=self._cells, description=description)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()


@with_session_arguments
def examine(
    frames: Annotated[list[Path], typer.Argument(help="Stained bright-field frames and scans, and folders of them.")],
    *,
    bundle: BundlePath = None,
    engine: SessionArguments,
    layout: LayoutName = "auto",
    pixel_um: PixelUm = None,
    config: SpecPath = None,
    as_json: Json = False,
    overlay: Annotated[Path | None, typer.Option(help="Folder for one picture per frame, its cells drawn in.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG or JPEG of all cells, the likeliest ALL first.")] = None,
    report: Annotated[Path | None, typer.Option(help="FILE.html for one page, else a folder for one page per frame.")] = None,
    explain: Explain = 0,
    archive: Archive = None,
    nearest: NearestCount = 3,
    csv: Annotated[Path | None, typer.Option(help="CSV file with one row per cell.")] = None,
    geojson: GeoJson = None,
    coco: Coco = None,
    yolo: Yolo = None,
    ome: OmeTiff = None,
    dicom: Dicom = None,
    strict: Strict = False,
    validation: ValidationPath = None,
    group_by: GroupBy = "none",
    cells: Annotated[bool, typer.Option("--cells", help="Print a line of JSON a cell too, as soon as it is found.")] = False,
    resume: ResumeFile = None,
    ray: RayAddress = None,
    results: Results = None,
) -> None:
    """Find the white cells in whole frames and call each, in the order given. Exits 1 when a frame couldn't be examined.

    A cell that gets no call (cut off, clumped, blurred, not lymphoid) is a finding, not a failure: it stands in the result with
    its reason.
    """
    from blastscope.runtime.evaluation.drift import Drift
    from blastscope.runtime.frames.annotations.writer import AnnotationOptions, AnnotationWriter
    from blastscope.runtime.frames.report.theme import title_of
    from blastscope.runtime.frames.report.writers import OutputOptions, ReportWriter
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.runtime.inference.voting import smear_model

    spec, as_json = FrameSpecification.from_toml(config) if config else None, as_json or cells
    wanted = OutputOptions(overlay=overlay, sheet=sheet, report=report, csv=csv)
    _check_explained(explain, report, archive)
    paths = named_frames(frames)
    words = engine.words(layout=layout, validation=validation)
    formats = AnnotationOptions(geojson=geojson, coco=coco, yolo=yolo, ome=ome, dicom=dicom)
    if ray:
        given = (cells, resume, strict, explain, archive, group_by != "none", *vars(wanted).values(), *vars(formats).values())
        job = ClusterJob("examine", ray, results, bundle, words, pixel_um, spec)
        return run_on_cluster(job, paths, alone=not any(given), as_json=as_json)
    writer, drift = ReportWriter(wanted, paths, others=(config, validation, resume)), Drift()
    others, beside = (config, validation, resume), (csv, sheet, wanted.report_page)
    annotations = AnnotationWriter(formats, paths, others=others, beside=beside, version=__version__)
    seen = _Tally(drift, group_by)
    with (
        opened(bundle, **words, workload="throughput") as scope,
        nearest_in(scope, archive, nearest if explain else 0, at_once=True) as alike,
        ExamineProgress(len(paths), cells=cells) as progress,
    ):
        smears = smear_model(scope.bundle) if group_by != "none" else None
        writer.album.explain_with(scope.explain, spec, explain, nearest=alike)
        on_frame = partial(_each, (writer.album.collect, annotations.collect))
        reports = scope.examine_files(
            paths, pixel_um=pixel_um, spec=spec, on_frame=on_frame, on_tile=progress.watch, resume=resume
        )
        for done in _printed(progress.told(reports), as_json=as_json):
            seen.add(done)
            writer.add(done, scope.audit)
            for told in annotations.add(done, scope.audit):
                say(told)
        if smears is not None:
            print_smears(seen.groups, smears, as_json=as_json)
        written = [*writer.finish(title_of(paths), scope.audit, alarms=drift.state().alarms), *annotations.finish()]
    _tell_end(seen, written, len(paths), strict=strict)


def _check_explained(explain: int, report: Path | None, archive: Path | None) -> None:
    """Raises `UsageError` for options that say nothing without another one."""
    if explain and report is None:
        raise UsageError("--explain draws into a page: name it with --report")
    if archive and not explain:
        raise UsageError("--archive goes with --explain, which says how many cells of each frame are compared")


def _printed(reports: Iterable[FrameReport], *, as_json: bool) -> Iterator[FrameReport]:
    """The reports themselves, each once its line is printed."""
    if not as_json:
        echo(HEAD)
    for report in reports:
        echo(json.dumps(report.row()) if as_json else frame_line(report))
        yield report


@dataclass
class _Tally:
    """What is counted over all frames, for the lines at the end.

    Attributes
    ----------
    drift : Drift
        Of the cells of all frames.
    group_by : FrameGroups
        How frames become persons; 'none' without calls on persons.
    refused, doubted : int
        Frames that couldn't be examined; frames with a doubt.
    doubts : Counter of DoubtCode
        Frames with each doubt.
    validated : bool
        Whether every report was validated.
    groups : dict of str to list of Prediction
        The calls of each person.
    grouped : set of Path
        Frames whose calls are in `groups`.
    """

    drift: Drift
    group_by: FrameGroups
    refused: int = 0
    doubted: int = 0
    doubts: Counter[DoubtCode] = field(default_factory=Counter)
    validated: bool = True
    groups: dict[str, list[Prediction]] = field(default_factory=dict)
    grouped: set[Path] = field(default_factory=set)

    def add(self, report: FrameReport) -> None:
        from blastscope.runtime.io.paths import resolved

        self.refused += report.refusal is not None
        self.validated &= report.validated
        self.doubts.update(report.doubt_codes)
        self.doubted += bool(report.doubts)
        self.drift.add(report)
        if self.group_by != "none" and report.path is not None and (place := resolved(report.path)) not in self.grouped:
            self.grouped.add(place)  # a frame that is given twice shows a person's cells once
            called = (cell.prediction for cell in report.cells if cell.prediction)
            self.groups.setdefault(str(report.path if self.group_by == "frame" else report.path.parent), []).extend(called)


def _tell_end(seen: _Tally, written: Iterable[Path], count: int, *, strict: bool) -> None:
    """What is to be said after the last frame. Exits with 1 where a frame was refused or, with `strict`, is doubtful."""
    from blastscope.runtime.frames.doubts import doubt_sentences
    from blastscope.runtime.frames.report.theme import caution

    for path in written:
        say(f"written: {path}")
    for told in (*(f"drift: {alarm}" for alarm in seen.drift.state().alarms), *doubt_sentences(seen.doubts)):
        say(told)
    say(caution(validated=seen.validated))
    if seen.refused:
        echo(f"{seen.refused} of {count} frames could not be examined", err=True)
    if strict and seen.doubted:
        echo(f"{seen.doubted} of {count} frames may not have been understood", err=True)
    if seen.refused or (strict and seen.doubted):
        raise typer.Exit(1)


def _each(callbacks: Iterable[FrameCallback], scan: Slide, report: FrameReport) -> None:
    for callback in callbacks:
        callback(scan, report)


def frame_line(report: FrameReport) -> str:
    """One frame for people: counts, scale, path, and what there is to say."""
    path = printable(report.path)
    if report.refusal or report.parameters is None:
        code, detail = (report.refusal.code, f"  ({printable(report.refusal.detail)})") if report.refusal else ("", "")
        return f"{'--':>6}  {code:<40}{path}{detail}"
    counts, parameters = report.counts, report.parameters
    scale = f"{parameters.pixel_um:.4f} {parameters.scale_source}"
    notes = f"  ({printable('; '.join(report.notes))})" if report.notes else ""
    return f"{counts['cells']:>6}{counts['all']:>6}{counts['hem']:>6}{counts['refused']:>9}  {scale:<19}{path}{notes}"


VERBS = (examine,)
