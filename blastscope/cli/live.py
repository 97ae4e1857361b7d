"""`blastscope live`: examines frames as they come, on a web page."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from blastscope.cli.options import (
    BundlePath,
    Json,
    PixelUm,
    SessionArguments,
    SpecPath,
    ValidationPath,
    opened,
    with_session_arguments,
)
from blastscope.cli.terminal import say

if TYPE_CHECKING:
    from blastscope.runtime.frames.types import FrameReport
    from blastscope.runtime.streaming.dashboard import LivePage
    from blastscope.runtime.streaming.frame_queue import FrameId, StreamFailure, StreamStats
    from blastscope.runtime.streaming.stream import Stream

GLANCE_S = 0.5  # a wait without a limit can't be interrupted on Windows


@with_session_arguments
def live(
    *,
    source: Annotated[str, typer.Option(help="camera, camera:N, folder:PATH, or a folder, an image or a video.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on with the files that come into the folder later.")] = False,
    fps: Annotated[float | None, typer.Option(min=0.01, max=1000.0, help="Frames a second at most. Default: no limit.")] = None,
    queue: Annotated[int, typer.Option(min=1, max=256, help="Frames that may wait. A camera's oldest is dropped then.")] = 4,
    pixel_um: PixelUm = None,
    config: SpecPath = None,
    validation: ValidationPath = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 for any free one.")] = 8420,
    host: Annotated[str, typer.Option(help="Another one shows the page to other machines, without a password.")] = "127.0.0.1",
    until_end: Annotated[bool, typer.Option("--until-end", help="Exit when the source is at its end.")] = False,
    bundle: BundlePath = None,
    engine: SessionArguments,
    as_json: Json = False,
) -> None:
    """Show the frames of a camera or a folder in the browser as they are examined, until Ctrl-C; --json prints lines too."""
    from blastscope.runtime.frames.types import FrameSpecification
    from blastscope.runtime.streaming.dashboard import LivePage
    from blastscope.runtime.streaming.sources import open_source, paced

    spec = FrameSpecification.from_toml(config) if config else None
    stopped = threading.Event()
    frames = open_source(source, watch=watch, stopped=stopped)
    with (
        opened(bundle, **engine.words(validation=validation)) as scope,
        LivePage(frames.name, host=host, port=port) as page,
    ):
        show = Show(page, as_json=as_json)
        stream = scope.stream(
            paced(frames, fps, stopped) if fps else frames,
            show.report,
            queue,
            "drop-oldest" if frames.live else "block",
            on_error=show.failure,
            pixel_um=pixel_um,
            spec=spec,
            keep_pixels=True,
        )
        page.watch(stream)
        say(f"the page is at {page.url} (Ctrl-C ends it)")
        if not page.private:
            say(f"whoever can reach this machine can look at it, without a password: '{host}' is not for this machine alone")
        try:
            stats = follow(stream, show)
            page.refresh()
            say(
                f"the source is at its end: {stats.reported} frames reported, {stats.refused} could not be examined, "
                f"{stats.dropped} dropped, {stats.failed} failures"
            )
            while not until_end:
                stopped.wait(GLANCE_S)  # the page goes on showing the last frame
        finally:
            stopped.set()
            stream.stop(drain=False)
    if stats.refused or stats.failed:
        raise typer.Exit(1)


def follow(stream: Stream, show: Show) -> StreamStats:
    """How the stream went, once it has ended. Raises what a report's showing raised."""
    over = False
    while not over:
        over = stream.wait(GLANCE_S)
        if show.error:
            raise show.error
        show.warn()
    return stream.stats


class Show:
    """What becomes of reports: onto the page, and as lines to stdout. What went wrong goes to stderr."""

    def __init__(self, page: LivePage, *, as_json: bool) -> None:
        self._page, self._as_json = page, as_json
        self.error: BaseException | None = None  # of the showing, which can't go on: a closed pipe, say
        self._caution: str | None = None
        self._told = ""
        self._drifted: set[str] = set()

    def report(self, report: FrameReport) -> None:
        """The stream's `on_report`."""
        from blastscope.runtime.frames.report.theme import caution

        report = replace(report, path=report.metadata.get("path"))
        if self._caution is None and report.refusal is None:
            self._caution = caution(validated=report.validated)
            say(self._caution)
        self._page.show(report)
        if report.refusal and report.refusal.code != "failed":  # of that `failure` tells
            self._tell(report.id, f"{report.refusal.code}: {report.refusal.detail}")
        if self._as_json:
            typer.echo(json.dumps({"id": report.id, **report.row()}))

    def failure(self, failure: StreamFailure) -> None:
        """The stream's `on_error`."""
        if failure.where == "on_report":
            self.error = failure.error
            return
        self._tell(failure.id, f"{failure.where}: {failure.error}")

    def warn(self) -> None:
        """Tells of a drift, once for each figure that drifts."""
        from blastscope.runtime.evaluation.drift import describe_drift

        for shift in self._page.drift.state().shifts:
            if shift.alarm and shift.feature not in self._drifted:
                self._drifted.add(shift.feature)
                say(f"drift: {describe_drift(shift)}")

    def _tell(self, frame: FrameId | None, text: str) -> None:
        """Says what happened to a frame; not again where the one before had the same."""
        if text != self._told:
            self._told = text
            say(f"frame {frame}, {text}" if frame is not None else text)


VERBS = (live,)
