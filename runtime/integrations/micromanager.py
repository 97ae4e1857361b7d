"""`CameraListener`: examines the frames of a pymmcore-plus acquisition without delaying it.

    with open_bundle() as scope, CameraListener(scope, on_report) as listener:
        core.mda.run(events, output=listener)

or, for a core's whole life, `core.mda.events.frameReady.connect(listener.frameReady)`: the core holds it weakly, so keep it.
Closing either of the two, in any order, tells of the frames that wait. Neither this file nor the listener needs the library
itself; `pip install 'blastscope[micromanager]'` brings it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from blastscope.runtime.errors import Closed
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.integrations.camera_format import CameraFormat, to_rgb
from blastscope.runtime.integrations.protocols import StreamFactory
from blastscope.runtime.io.slides.pixel_size_metadata import LEAST_UM, MOST_UM
from blastscope.runtime.streaming.stats import StreamStats


class CameraListener:
    """Takes each frame as it is ready, and tells of it once it was examined. Where frames come faster, the oldest give way.

    The report's `id` counts the frames of this listener from 0; its `metadata` holds

        index       of the event: {'t': 0, 'p': 3}
        stage_um    (x, y) where the frame was taken, or was asked for; absent without a stage
        z_um        the same of the focus
        pixel_um    as Micro-Manager's pixel size says, and counts where `spec` says none; absent where none is set either,
                    and the red cells tell the scale
        camera, exposure_ms, runner_ms
        event       what the event itself carried as metadata

    Raises `Closed` where the handle is closed already.
    """

    def __init__(
        self,
        scope: StreamFactory,
        on_report: Callable[[FrameReport], object],
        *,
        camera: CameraFormat | None = None,
        spec: FrameSpecification | None = None,
        queue: int = 4,
    ) -> None:
        self._camera = camera or CameraFormat()
        self._count, self._counting = 0, threading.Lock()
        self._stream = scope.stream(None, on_report, queue, "drop-oldest", spec=spec)

    @property
    def stats(self) -> StreamStats:
        """How it goes: frames taken, reported, dropped and waiting, and how long a report takes."""
        return self._stream.stats

    def frameReady(self, image: Any, event: Any = None, metadata: Mapping[str, Any] | None = None) -> None:  # noqa: N802
        """Called by the acquisition for each frame. Takes as long as a copy of it. Once it or the handle is closed, nothing."""
        with self._counting:
            number, self._count = self._count, self._count + 1
        with suppress(Closed):
            self._stream.put(to_rgb(image, self._camera), id=number, metadata=facts_of(event, metadata or {}))

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until every frame that came has been told of; False when time was up."""
        return self._stream.wait(timeout)

    def close(self) -> None:
        """Tells of the frames that wait, and ends."""
        self._stream.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def facts_of(event: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a report keeps of an event and its frame, in plain values; what is not known is left out."""
    place = metadata.get("position") or {}
    x, y, z = (place.get(axis, getattr(event, f"{axis}_pos", None)) for axis in "xyz")
    pixel_um = metadata.get("pixel_size_um") or 0.0
    facts = {
        "index": {str(getattr(axis, "value", axis)): step for axis, step in getattr(event, "index", {}).items()},
        "stage_um": None if x is None or y is None else (float(x), float(y)),
        "z_um": z,
        "pixel_um": float(pixel_um) if LEAST_UM < pixel_um < MOST_UM else None,  # Micro-Manager says 0 where none is set
        "camera": metadata.get("camera_device"),
        "exposure_ms": metadata.get("exposure_ms"),
        "runner_ms": metadata.get("runner_time_ms"),
        "event": dict(getattr(event, "metadata", {})) or None,
    }
    return {name: value for name, value in facts.items() if value is not None}
