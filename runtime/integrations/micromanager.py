"""Acquisitions with pymmcore-plus: `CameraListener` examines their frames, `scan_events` lays out what they scan.

    with open_bundle() as scope, CameraListener(scope, on_report) as listener:
        core.mda.run(events, output=listener)

or, for a core's whole life, `core.mda.events.frameReady.connect(listener.frameReady)`: the core holds it weakly, so keep it.
Closing either of the two, in any order, tells of the frames that wait, and the acquisition isn't delayed. Neither this file nor
the listener needs the library itself; `pip install 'blastscope[micromanager]'` brings it.

An engine that runs a whole `useq.MDASequence` lays out its grids by the camera's field of view; one that gets single events
never sees the plan, and useq counts in steps of 1 um where a grid says no field of view: hence `scan_events`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.io.slides.metadata import LEAST_UM, MOST_UM
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.streaming.frame_queue import StreamStats
from blastscope.runtime.streaming.stream import Stream
from blastscope.runtime.types import Box, Refusal

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus
    from useq import AbsolutePosition, MDAEvent, MDASequence, MultiPointPlan

    ScanPlan = MDASequence | MultiPointPlan | Iterable[MDAEvent]

Place = tuple[float, float]  # x and y of the stage, in micrometres


class StreamFactory(Protocol):
    """Makes streams, as `Scope` does. Closing it first reports the frames that wait."""

    def stream(
        self,
        frames: None,
        on_report: Callable[[FrameReport], object],
        queue: int = 4,
        when_full: str = "drop-oldest",
        *,
        spec: FrameSpecification | None = None,
    ) -> Stream:
        """A stream whose frames are given to `put`, with their scale as 'pixel_um' in the metadata."""
        ...


class CameraFormat(StrictModel):
    """What the arrays of a camera mean, where they don't say it themselves.

    Attributes
    ----------
    channels : {'rgb', 'bgr', 'rgba', 'bgra', 'packed-bgra'}
        Order of the colours; 'packed-bgra' are (H, W) uint32 or uint64.
    bits : int or None
        Bits that a 16-bit channel uses: 10, 12, 14, 16; the top 8 are kept.
    """

    channels: Literal["rgb", "bgr", "rgba", "bgra", "packed-bgra"] = "rgb"  # packed: (H, W) uint32 or uint64
    bits: int | None = Field(default=None, ge=9, le=16)


def to_rgb(image: object, camera: CameraFormat | None = None) -> NDArray[np.uint8] | Refusal:
    """The frame (H, W, 3) uint8 RGB that `image` shows, or why it shows none. It may be a view of `image`."""
    camera = camera or CameraFormat()
    if not isinstance(image, np.ndarray):
        return _refused(f"a camera's frame must be a numpy array, not '{type(image).__name__}'")
    order = camera.channels.removeprefix("packed-")
    if camera.channels == "packed-bgra" and image.ndim == 2 and image.dtype in (np.uint32, np.uint64):
        image = _unpacked(image)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        return _refused(f"the camera gives {image.dtype} of shape {image.shape}: only a colour camera shows the stain")
    if image.shape[2] != len(order):
        return _refused(f"the camera gives {image.shape[2]} channels, its format says '{order}': say which in CameraFormat")
    return _eight_bits(image[..., :3] if order.startswith("rgb") else image[..., 2::-1], camera.bits)


def _unpacked(image: NDArray[np.uint32] | NDArray[np.uint64]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Packed pixels (H, W) as (H, W, 4), blue first, whatever this machine's order of bytes."""
    step = image.dtype.itemsize // 4
    packed = np.ascontiguousarray(image, dtype=f"<u{image.dtype.itemsize}")
    channels = packed.view(f"<u{step}").reshape(*image.shape, 4)
    return channels.astype(f"u{step}", copy=False)


def _eight_bits(image: NDArray[np.generic], bits: int | None) -> NDArray[np.uint8] | Refusal:
    if image.dtype == np.uint8:
        return image.view(np.uint8)
    if image.dtype != np.uint16:
        return _refused(f"the camera's channels are {image.dtype}: they must be uint8, or uint16 with CameraFormat.bits")
    if bits is None:
        return _refused("the camera's channels are uint16: say in CameraFormat.bits how many bits of them it uses")
    shifted = np.minimum(image.view(np.uint16) >> (bits - 8), 255)
    return np.asarray(shifted, dtype=np.uint8)


def _refused(detail: str) -> Refusal:
    return Refusal("not-8-bit-rgb", detail)


class CameraListener:
    """Examines each frame of an acquisition and reports it. If frames come faster, the oldest waiting one is dropped.

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
        """Waits until every frame is reported; False after the timeout."""
        return self._stream.wait(timeout)

    def close(self) -> None:
        """Reports the frames that wait, and ends."""
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


class StageMap(StrictModel):
    """The stage's axes in terms of the camera's: the steps that bring what is right of the middle, or below it, to the middle.

    The default is that of useq's grids, whose first row has the largest y: to see what lies below, y falls. Every mix of
    camera, mirrors and stage exists; whether this one is right shows in `Visit.offset_um` of a first, small scan.

    Attributes
    ----------
    right : Place
        Step of the stage, in x and y, for one to the right in the picture.
    down : Place
        Step of the stage, in x and y, for one downwards in the picture.
    """

    right: Place = (1.0, 0.0)
    down: Place = (0.0, -1.0)

    @model_validator(mode="after")
    def _spans_the_plane(self) -> Self:
        (a, b), (c, d) = self.right, self.down
        if abs(a * d - b * c) < 0.1:
            raise ValueError(f"right {self.right} and down {self.down} must be two directions, of about one micrometre each")
        return self

    def place_of(self, box: Box, size: tuple[int, int], stage_um: Place, pixel_um: float) -> Place:
        """Where the stage must go to bring a cell to the middle of the frame.

        Parameters
        ----------
        box : (x0, y0, x1, y1)
            The cell's, in pixels of the frame.
        size : (int, int)
            Width and height of the frame.
        stage_um : (float, float)
            Where the stage was when the frame was taken, in micrometres.
        pixel_um : float
            Micrometres per pixel.

        Returns
        -------
        (float, float)
            In micrometres.
        """
        right, down = offset_um(box, size, pixel_um)
        return (
            stage_um[0] + right * self.right[0] + down * self.down[0],
            stage_um[1] + right * self.right[1] + down * self.down[1],
        )


def offset_um(box: Box, size: tuple[int, int], pixel_um: float) -> tuple[float, float]:
    """How far the centre of `box` is right of the frame's centre, and below it."""
    x0, y0, x1, y1 = box
    return (x0 + x1 - size[0]) / 2 * pixel_um, (y0 + y1 - size[1]) / 2 * pixel_um


def scan_events(core: CMMCorePlus, scan: ScanPlan) -> Iterator[MDAEvent]:
    """The events of `scan`, in its order.

    Parameters
    ----------
    core
        Its region of interest and pixel size are the field of view of every grid in `scan` that states none.
    scan
        A sequence, a grid or other plan of several points, or single events. A relative grid is laid around the place where the
        stage is now; in a sequence it is laid around the sequence's own positions. A sequence's `setup` is applied first.

    Raises
    ------
    UsageError
        A grid states no field of view and the core's pixel size is not set; or `scan` holds what is no event, or events that
        were made of such a grid. Of single events it is raised at their turn.
    """
    from useq import MDASequence

    if hasattr(scan, "is_relative"):
        grid: Any = scan
        scan = MDASequence(grid_plan=grid, stage_positions=(_place(core),) if grid.is_relative else ())
    if not isinstance(scan, MDASequence):
        return _single_events(scan)
    if scan.setup is not None:
        _apply(core, scan.setup)
    return iter(_with_field_of_view(core, scan) if any(map(_needs_field_of_view, _grids(scan))) else scan.replace())


def gives_frame(event: MDAEvent) -> bool:
    """Whether the engine takes a picture for `event`; for others, such as autofocus, it doesn't."""
    return getattr(event.action, "type", "acquire_image") == "acquire_image"


def _single_events(events: Iterable[Any]) -> Iterator[MDAEvent]:
    from useq import MDAEvent

    for event in events:
        if not isinstance(event, MDAEvent):
            raise UsageError(f"a scan holds '{type(event).__name__}': hand over a plan of useq's, or single events")
        if event.sequence is not None and any(map(_needs_field_of_view, _grids(event.sequence))):
            raise UsageError(
                "events were made of a grid without fov_width and fov_height, in steps of 1 um: hand over the plan itself"
            )
        yield event


def _with_field_of_view(core: CMMCorePlus, scan: MDASequence) -> MDASequence:
    """A new sequence: one that was iterated before keeps its places, whatever its grid says by now."""
    pixel_um = core.getPixelSizeUm()
    if not pixel_um:
        raise UsageError(
            "the scan's grid has no fov_width and fov_height, and the microscope's pixel size is not set: give the grid both, "
            "in micrometres, or set the pixel size in Micro-Manager's configuration"
        )
    *_, width, height = core.getROI()

    def filled(grid: Any) -> Any:
        if grid is None or not _needs_field_of_view(grid):
            return grid
        return grid.model_copy(
            update={"fov_width": grid.fov_width or width * pixel_um, "fov_height": grid.fov_height or height * pixel_um}
        )

    places: Any = scan.stage_positions
    if hasattr(places, "well_points_plan"):
        places = places.replace(well_points_plan=filled(places.well_points_plan))
    else:
        inner = [place.sequence and place.sequence.replace(grid_plan=filled(place.sequence.grid_plan)) for place in places]
        places = tuple(place.replace(sequence=one) for place, one in zip(places, inner, strict=True))
    return scan.replace(grid_plan=filled(scan.grid_plan), stage_positions=places)


def _grids(scan: MDASequence) -> Iterator[Any]:
    """Every plan of several points in `scan`."""
    places: Any = scan.stage_positions
    inner = [place.sequence.grid_plan for place in places if place.sequence] if isinstance(places, tuple) else []
    yield from (grid for grid in (scan.grid_plan, getattr(places, "well_points_plan", None), *inner) if grid is not None)


def _needs_field_of_view(grid: Any) -> bool:
    """Whether the places of `grid` depend on a field of view that it doesn't state."""
    depends = hasattr(grid, "overlap") or not getattr(grid, "allow_overlap", True)
    return depends and not (grid.fov_width and grid.fov_height)


def _place(core: CMMCorePlus) -> AbsolutePosition:
    from useq import AbsolutePosition

    if not core.getXYStageDevice():
        raise UsageError("a grid needs an XY stage, and the microscope has none: name it in Micro-Manager's configuration")
    x, y = core.getXYPosition()
    return AbsolutePosition(x=x, y=y)


def _apply(core: CMMCorePlus, setup: MDAEvent) -> None:
    """As the engine does before a whole sequence: region of interest and camera tell the field of view."""
    if core.isSequenceRunning():
        core.stopSequenceAcquisition()
    if core.mda.engine is not None:
        core.mda.engine.setup_event(setup)
