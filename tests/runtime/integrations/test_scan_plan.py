"""Plans of useq's, laid out as Micro-Manager's own engine lays them out."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from blastscope.runtime.errors import UsageError
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.integrations import smart_acquisition
from blastscope.runtime.integrations.micromanager import scan_events
from blastscope.runtime.streaming.stream import Stream

useq = pytest.importorskip("useq", reason="pymmcore-plus is not installed: pip install 'blastscope[micromanager]'")
PIXEL_UM = 0.5
Place = tuple[float, float]


@pytest.fixture
def core() -> Iterator[Any]:
    from blastscope.runtime.integrations.simulated_microscope import slide_core

    core = slide_core(np.full((90, 120, 3), 230, np.uint8), pixel_um=PIXEL_UM, size=(40, 30))  # 20 x 15 um
    yield core
    core.unloadAllDevices()


def in_an_engine(core: Any, plan: Any) -> list[Place]:
    """Where the engine takes its frames when it gets the whole plan."""
    places: list[Place] = []

    def seen(_image: Any, event: Any, _metadata: Any) -> None:
        places.append((event.x_pos, event.y_pos))

    core.mda.events.frameReady.connect(seen)
    core.mda.run(plan)
    core.mda.events.frameReady.disconnect(seen)
    return places


def places_of(core: Any, plan: Any) -> list[Place]:
    return [(event.x_pos, event.y_pos) for event in scan_events(core, plan)]


def on_a_position(**words: Any) -> Any:
    return useq.MDASequence(stage_positions=[useq.Position(x=5, y=6, sequence=useq.MDASequence(**words))])


PLANS: dict[str, Callable[[], Any]] = {
    "grid": lambda: useq.MDASequence(grid_plan=useq.GridRowsColumns(rows=2, columns=3), stage_positions=[(3, 4)]),
    "overlap": lambda: useq.MDASequence(grid_plan=useq.GridRowsColumns(rows=2, columns=2, overlap=10)),
    "area": lambda: useq.MDASequence(grid_plan=useq.GridWidthHeight(width=50, height=20), stage_positions=[(0, 0)]),
    "edges": lambda: useq.MDASequence(grid_plan=useq.GridFromEdges(top=20, left=-20, bottom=-20, right=20)),
    "on a position": lambda: on_a_position(grid_plan=useq.GridRowsColumns(rows=1, columns=2)),
    "no grid": lambda: useq.MDASequence(stage_positions=[(1, 2), (3, 4)], channels=[]),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_without_field_of_view_goes_where_the_engine_takes_it(core: Any, name: str) -> None:
    wanted = in_an_engine(core, PLANS[name]())
    assert len(wanted) > 1
    assert places_of(core, PLANS[name]()) == wanted


def test_a_plan_that_was_iterated_before_is_laid_out_anew(core: Any) -> None:
    plan = PLANS["grid"]()
    assert len(list(plan)) == 6  # in steps of 1 um, which useq keeps
    assert places_of(core, plan) == in_an_engine(core, PLANS["grid"]())
    assert plan.grid_plan.fov_width is None  # the caller's plan stays as it was


def test_a_field_of_view_of_the_plans_own_holds(core: Any) -> None:
    grid = useq.GridRowsColumns(rows=1, columns=2, fov_width=8, fov_height=6)
    assert places_of(core, useq.MDASequence(grid_plan=grid)) == [(-4, 0), (4, 0)]


def test_a_bare_grid_is_laid_around_the_stages_place(core: Any) -> None:
    core.setXYPosition(100.0, 50.0)
    assert places_of(core, useq.GridRowsColumns(rows=1, columns=2)) == [(90, 50), (110, 50)]
    assert places_of(core, useq.GridFromEdges(top=15, left=0, bottom=0, right=40)) == [(10, 7.5), (30, 7.5)]


def test_wells_without_field_of_view_are_laid_out_by_the_cameras(core: Any) -> None:
    points = useq.GridRowsColumns(rows=1, columns=2)
    wells = useq.WellPlatePlan(plate=96, a1_center_xy=(0, 0), selected_wells=([0], [0]), well_points_plan=points)
    assert places_of(core, useq.MDASequence(stage_positions=wells)) == [(-10, 0), (10, 0)]


def test_the_setup_of_a_sequence_comes_before_its_grid_is_laid_out(core: Any) -> None:
    applied: list[Any] = []
    core.mda.engine.setup_event = applied.append
    scan_events(core, PLANS["grid"]().replace(setup=useq.MDAEvent(exposure=7)))
    assert [event.exposure for event in applied] == [7]


@pytest.mark.parametrize("name", ["grid", "on a position"])
def test_a_grid_is_refused_where_the_pixel_size_is_not_set(core: Any, name: str) -> None:
    core.setPixelSizeUm("slide", 0)
    with pytest.raises(UsageError, match="pixel size is not set: give the grid both"):
        scan_events(core, PLANS[name]())
    assert places_of(core, PLANS["no grid"]()) == [(1, 2), (3, 4)]  # which needs none


def test_events_that_were_made_of_an_unmeasured_grid_are_refused(core: Any) -> None:
    with pytest.raises(UsageError, match="in steps of 1 um: hand over the plan itself"):
        list(scan_events(core, list(PLANS["grid"]())))
    with pytest.raises(UsageError, match="a scan holds 'RelativePosition'"):
        list(scan_events(core, list(useq.GridRowsColumns(rows=1, columns=2))))


def test_a_grid_without_a_stage_is_refused(core: Any) -> None:
    core.setXYStageDevice("")
    with pytest.raises(UsageError, match="needs an XY stage"):
        scan_events(core, useq.GridRowsColumns(rows=1, columns=2))


def test_the_example_of_smart_acquisition_runs(core: Any) -> None:
    class Scope:
        def stream(self, frames: None, on_report: Any, queue: int, when_full: str, **_: Any) -> Stream:
            return Stream(lambda frame, metadata: FrameReport((), None), on_report, frames, queue=queue, when_full=when_full)

    text = smart_acquisition.__doc__ or ""
    example = textwrap.dedent("\n".join(line for line in text.splitlines() if line.startswith("    ")))
    names: dict[str, Any] = {**vars(smart_acquisition), "core": core, "useq": useq, "open_bundle": lambda: nullcontext(Scope())}
    exec(example, names)
    assert names["done"].frames == 16
