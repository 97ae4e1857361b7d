"""Smart acquisition: a coarse scan, then a visit to each cell with a high score, highest first.

    with open_bundle() as scope:
        done = scan_and_revisit(core, scope, useq.GridRowsColumns(rows=4, columns=4), plan=RevisitPlan(most=12))
        for visit in done.visits:
            print(visit.suspect.score, visit.suspect.stage_um, visit.offset_um, visit.report.counts)

The engine takes its events from a queue, so that the next event may depend on what was seen. The scan is paced: its next event
waits until there is room for its frame, so none is dropped, and no event is ever held up in its middle.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING

from pydantic import Field

from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification
from blastscope.runtime.integrations.micromanager import (
    CameraFormat,
    CameraListener,
    Place,
    StageMap,
    StreamFactory,
    gives_frame,
    offset_um,
    scan_events,
)
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Box, RefusalCode

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus
    from useq import MDAEvent

    from blastscope.runtime.integrations.micromanager import ScanPlan

VISIT = "blastscope-visit"  # the key in an event's metadata that tells a visit from the scan
LOOK_S = 0.002  # between two looks at what came; a stage takes a hundred times as long


class RevisitPlan(StrictModel):
    """Which cells are worth a second look, and how it is taken.

    Attributes
    ----------
    least_score : float
        The vote's probability of ALL from which a cell is suspicious.
    also : tuple of RefusalCode
        Cells refused for this are visited too, after the others: ('touches-border',).
    most : int
        Visits, of the highest scores.
    same_um : float
        Suspects nearer than this, in micrometres, are one cell, seen in two frames that overlap.
    exposure_ms : float or None
        Exposure of a visit in milliseconds; None: as the scan left it.
    z_um : float or None
        Focus of a visit in micrometres; None: that at which the suspect was seen.
    queue : int
        Frames of the scan that may be on their way.
    patience_s : float
        How long a frame that the camera owes is waited for, in seconds.
    stage : StageMap
        How the stage's axes lie to the camera's.
    camera : CameraFormat
        What the camera's arrays mean.
    frames : FrameSpecification
        What is assumed of frames and cells.
    """

    least_score: float = Field(default=0.5, ge=0, le=1)
    also: tuple[RefusalCode, ...] = ()
    most: int = Field(default=20, ge=1, le=10_000)
    same_um: float = Field(default=6.0, ge=0)
    exposure_ms: float | None = Field(default=None, gt=0)
    z_um: float | None = None
    queue: int = Field(default=4, ge=1, le=64)
    patience_s: float = Field(default=10.0, gt=0)
    stage: StageMap = StageMap()
    camera: CameraFormat = CameraFormat()
    frames: FrameSpecification = FrameSpecification()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cell worth a second look: where it was seen, and where the stage must go to have it in the middle.

    Attributes
    ----------
    frame : int or str or None
        The id of the report that it stands in.
    box : (x0, y0, x1, y1)
        In pixels, half-open.
    score : float or None
        The vote's probability of ALL; None of a refused cell.
    stage_um : Place
        x and y of the stage, in micrometres, that bring it to the middle.
    z_um : float or None
        Focus at which it was seen, in micrometres.
    """

    frame: int | str | None
    box: Box
    score: float | None
    stage_um: Place
    z_um: float | None


@dataclass(frozen=True, slots=True)
class Visit:
    """The second look at a suspect.

    Attributes
    ----------
    suspect : Candidate
        The cell that was visited.
    report : FrameReport
        What the second frame shows.
    cell : int or None
        Of the report's cells the one that lies nearest to the middle; None where there is no cell.
    offset_um : float or None
        Its distance from the middle in micrometres: much more than the stage's error means a wrong `StageMap` or
        pixel size.
    """

    suspect: Candidate
    report: FrameReport
    cell: int | None
    offset_um: float | None


@dataclass(frozen=True, slots=True)
class SmartScan:
    """What a smart acquisition did. The reports of the scan itself went to `on_report`.

    Attributes
    ----------
    frames : int
        Frames of the scan that were examined.
    suspects : int
        At or above the plan's score, each counted once.
    unplaced : int
        Of the scan's frames those with suspects, but without a stage position.
    visits : tuple of Visit
        In the order in which they were made: the highest score first.
    missing : int
        Events that gave no frame.
    cancelled : bool
        Whether it ended early.
    """

    frames: int
    suspects: int
    unplaced: int
    visits: tuple[Visit, ...]
    missing: int
    cancelled: bool


def scan_and_revisit(
    core: CMMCorePlus,
    scope: StreamFactory,
    scan: ScanPlan,
    *,
    plan: RevisitPlan | None = None,
    on_report: Callable[[FrameReport], object] | None = None,
) -> SmartScan:
    """Runs a scan, examines its frames, and visits the suspicious cells. Returns when all of it is done.

    `core.mda.cancel()` ends it.

    Parameters
    ----------
    core : CMMCorePlus
        The microscope.
    scope : StreamFactory
        What examines; a `Scope` does.
    scan : useq.MDASequence, grid plan of useq, or events
        A grid is laid around the place where the stage is; one that states no field of view gets the camera's.
    plan : RevisitPlan, optional
        What is visited, and how.
    on_report : callable, optional
        Is told of each frame of the scan and of each visit; what it raises stops nothing.

    Returns
    -------
    SmartScan

    Raises
    ------
    UsageError
        The places of the scan can't be known (`micromanager.scan_events`).
    Exception
        What the acquisition's engine raised, once it has ended.
    """
    plan = plan or RevisitPlan()
    events = scan_events(core, scan)
    seen, chosen = _ReportedCells(plan, on_report), list[Candidate]()
    with CameraListener(scope, seen.take, camera=plan.camera, spec=plan.frames, queue=plan.queue) as listener:
        core.mda.events.frameReady.connect(listener.frameReady)
        feed = _Feed(core, listener, plan)
        try:
            feed.put_all(events)
            chosen += seen.chosen()
            feed.put_all(visit_event(suspect, number, plan) for number, suspect in enumerate(chosen))
        finally:
            core.mda.events.frameReady.disconnect(listener.frameReady)
            feed.end()
    return seen.result(chosen, missing=feed.missing, cancelled=feed.cancelled)


def visit_event(suspect: Candidate, number: int, plan: RevisitPlan) -> MDAEvent:
    """The event that brings `suspect` into the middle of the frame."""
    from useq import MDAEvent

    return MDAEvent(
        index={"p": number},  # type: ignore[arg-type]  # pydantic makes its read-only mapping of it
        x_pos=suspect.stage_um[0],
        y_pos=suspect.stage_um[1],
        z_pos=suspect.z_um if plan.z_um is None else plan.z_um,
        exposure=plan.exposure_ms,
        metadata={VISIT: number},
    )


def candidates_of(report: FrameReport, plan: RevisitPlan) -> list[Candidate]:
    """The cells of `report` that deserve a visit. Empty where nobody knows where the frame was taken."""
    stage_um = report.metadata.get("stage_um")
    if stage_um is None or report.size is None or report.parameters is None:
        return []
    return [
        Candidate(
            frame=report.id,
            box=cell.box,
            score=cell.score,
            stage_um=plan.stage.place_of(cell.box, report.size, stage_um, report.parameters.pixel_um),
            z_um=report.metadata.get("z_um"),
        )
        for cell in report.cells
        if _is_suspicious(cell, plan)
    ]


def merge_candidates(suspects: Iterable[Candidate], same_um: float) -> list[Candidate]:
    """`suspects` by falling score, each cell once: of those nearer than `same_um` the one with the highest score."""
    kept: list[Candidate] = []
    for suspect in sorted(suspects, key=lambda one: 1.0 if one.score is None else -one.score):
        if all(math.dist(suspect.stage_um, other.stage_um) >= same_um for other in kept):
            kept.append(suspect)
    return kept


def _is_suspicious(cell: FrameCell, plan: RevisitPlan) -> bool:
    return cell.score >= plan.least_score if cell.score is not None else bool(cell.refusal and cell.refusal.code in plan.also)


@dataclass
class _ReportedCells:
    """What the reports said so far. `take` is called in the stream's thread.

    Attributes
    ----------
    plan : RevisitPlan
        What is visited.
    on_report : callable or None
        Is called with each report.
    frames : int
        Frames of the scan.
    unplaced : int
        Frames with a suspicious cell whose place on the stage isn't known.
    suspects : list of Candidate
        Cells of the scan.
    visits : dict of int to FrameReport
        The reports of the visits, by the candidate's number.
    """

    plan: RevisitPlan
    on_report: Callable[[FrameReport], object] | None
    frames: int = 0
    unplaced: int = 0
    suspects: list[Candidate] = field(default_factory=list)
    visits: dict[int, FrameReport] = field(default_factory=dict)

    def take(self, report: FrameReport) -> None:
        number = report.metadata.get("event", {}).get(VISIT)
        if number is not None:
            self.visits[number] = report
        else:
            self.frames += 1
            self.suspects += candidates_of(report, self.plan)
            if "stage_um" not in report.metadata:
                self.unplaced += any(_is_suspicious(cell, self.plan) for cell in report.cells)
        if self.on_report:
            self.on_report(report)

    def chosen(self) -> list[Candidate]:
        self.suspects = merge_candidates(self.suspects, self.plan.same_um)
        return self.suspects[: self.plan.most]

    def result(self, chosen: list[Candidate], *, missing: int, cancelled: bool) -> SmartScan:
        visits = tuple(_visit(chosen[number], report) for number, report in sorted(self.visits.items()))
        return SmartScan(self.frames, len(self.suspects), self.unplaced, visits, missing, cancelled)


def _visit(suspect: Candidate, report: FrameReport) -> Visit:
    if not report.cells or report.size is None or report.parameters is None:
        return Visit(suspect, report, None, None)
    offsets = [math.hypot(*offset_um(cell.box, report.size, report.parameters.pixel_um)) for cell in report.cells]
    nearest = min(range(len(offsets)), key=offsets.__getitem__)
    return Visit(suspect, report, nearest, offsets[nearest])


class _Feed:
    """The queue from which the engine takes its events. `end` it always: the engine waits for the next event otherwise."""

    def __init__(self, core: CMMCorePlus, listener: CameraListener, plan: RevisitPlan) -> None:
        self.missing, self.cancelled = 0, False
        self._core, self._listener, self._plan = core, listener, plan
        self._asked = 0
        self._events: Queue[MDAEvent | None] = Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="blastscope-acquisition", daemon=True)
        self._thread.start()

    def put_all(self, events: Iterable[MDAEvent]) -> None:
        """Queues each event once there is room for its frame, and waits until the last frame is reported."""
        for event in events:
            self._wait(lambda: self._on_the_way() < self._plan.queue)
            if self.cancelled:
                return
            self._asked += gives_frame(event)
            self._events.put(event)
        self._wait(lambda: self._on_the_way() == 0)

    def end(self) -> None:
        """Lets the engine finish. Raises what it raised."""
        self._events.put(None)
        self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            self._core.mda.run(iter(self._events.get, None))
        except BaseException as error:  # noqa: BLE001 raised again in `end`, where somebody listens
            self._error = error

    def _on_the_way(self) -> int:
        stats = self._listener.stats
        return max(0, self._asked - self.missing - stats.taken) + stats.waiting

    def _wait(self, ready: Callable[[], bool]) -> None:
        taken, since = -1, time.monotonic()
        while not ready() and not self.cancelled:
            stats = self._listener.stats
            if stats.taken != taken or stats.waiting:
                taken, since = stats.taken, time.monotonic()
            elif time.monotonic() - since > self._plan.patience_s:
                self.missing = self._asked - stats.taken  # the camera gave nothing: a snap that failed
                return
            # after `cancel` the engine still waits for an event, that it won't execute
            self.cancelled = self._core.mda.status.phase == "finishing" or not self._thread.is_alive()
            time.sleep(LOOK_S)
