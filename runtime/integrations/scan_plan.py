"""`scan_events`: the events of a plan, with grids laid out by the camera's field of view.

An engine that runs a whole `useq.MDASequence` does this by itself; one that gets single events never sees the plan, and useq
counts in steps of 1 um where a grid says no field of view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Box

if TYPE_CHECKING:
    from pymmcore_plus import CMMCorePlus
    from useq import AbsolutePosition, MDAEvent, MDASequence, MultiPointPlan

    ScanPlan = MDASequence | MultiPointPlan | Iterable[MDAEvent]

Place = tuple[float, float]  # x and y of the stage, in micrometres


class StageMap(StrictModel):
    """How the stage's axes lie to the camera's: the step that brings what lies right of the middle, or below it, to the middle.

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
        """The place that brings the middle of `box` to the middle of a frame of `size` (width, height) seen at `stage_um`."""
        right, down = offset_um(box, size, pixel_um)
        return (
            stage_um[0] + right * self.right[0] + down * self.down[0],
            stage_um[1] + right * self.right[1] + down * self.down[1],
        )


def offset_um(box: Box, size: tuple[int, int], pixel_um: float) -> tuple[float, float]:
    """How far right of the frame's middle and below it the middle of `box` lies."""
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
