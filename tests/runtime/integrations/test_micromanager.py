"""pymmcore-plus itself, with a camera and a stage in Python over real frames, and with Micro-Manager's own simulated camera."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.frames.estimation.frame_parameters import estimate_frame_parameters
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification, SegmentedCell
from blastscope.runtime.integrations import simulated_microscope as rehearsal
from blastscope.runtime.integrations.micromanager import CameraListener, StageMap
from blastscope.runtime.integrations.simulated_microscope import mosaic, run_simulation
from blastscope.runtime.integrations.smart_acquisition import Candidate, RevisitPlan, merge_candidates, scan_and_revisit
from blastscope.runtime.io.image import read_image
from blastscope.runtime.session import open_bundle
from blastscope.runtime.streaming.stream import Stream
from blastscope.runtime.types import Audit, Prediction

useq = pytest.importorskip("useq", reason="pymmcore-plus is not installed: pip install 'blastscope[micromanager]'")
PIXEL_UM = 0.07
AUDIT = Audit("b", "e", "openvino", "cpu", "fp32", "f32")


def called(cell: SegmentedCell) -> FrameCell:
    """Larger is more malignant: any call does here, if it differs from cell to cell, and granulocytes do for lymphocytes."""
    if cell.refusal and cell.refusal.code != "not-lymphoid":
        return FrameCell(cell, None)
    x0, y0, x1, y1 = cell.box
    score = min(1.0, (x1 - x0) * (y1 - y0) / 90_000)
    prediction = Prediction("all" if score >= 0.5 else "hem", max(score, 1 - score), score, "a", None, None, None, AUDIT)
    return FrameCell(replace(cell, refusal=None), prediction)


class Eyes:
    """The finder on real frames, with calls that need no network."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.before = before  # each frame
        self.scales: list[float | None] = []

    def examine(
        self,
        frame: NDArray[np.uint8],
        *,
        pixel_um: float | None = None,
        spec: FrameSpecification | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        self.before()
        self.scales.append(pixel_um)
        parameters = estimate_frame_parameters(frame, spec or FrameSpecification(), pixel_um=pixel_um)
        cells = tuple(called(cell) for cell in segment_cells(frame, parameters, spec or FrameSpecification()))
        return FrameReport(cells, parameters, metadata=metadata or {}, size=(frame.shape[1], frame.shape[0]))

    def stream(
        self, frames: None, on_report: Callable[[FrameReport], object], queue: int = 4, when_full: str = "", **_: Any
    ) -> Stream:
        """As a handle's, which takes the scale from the frame's metadata too."""

        def examine(frame: NDArray[np.uint8], *, metadata: Mapping[str, Any]) -> FrameReport:
            return self.examine(frame, pixel_um=metadata.get("pixel_um"), metadata=metadata)

        return Stream(examine, on_report, frames, queue=queue, when_full=when_full)


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[NDArray[np.uint8]]:
    """Six real fields of view."""
    bccd = shared_data / "bccd"
    names = (bccd / "train.txt").read_text().split()[:6]
    images = [read_image(bccd / "JPEGImages" / f"{name}.jpg") for name in names]
    return [image for image in images if isinstance(image, np.ndarray)]


@pytest.fixture
def core(frames: list[NDArray[np.uint8]]) -> Iterator[Any]:
    from blastscope.runtime.integrations.simulated_microscope import slide_core

    core = slide_core(mosaic(frames), pixel_um=PIXEL_UM)
    yield core
    core.unloadAllDevices()


def grid(x: float = 0, y: float = 0) -> Any:
    plan = useq.GridRowsColumns(rows=2, columns=3, fov_width=640 * PIXEL_UM, fov_height=480 * PIXEL_UM)
    return useq.MDASequence(grid_plan=plan, stage_positions=(useq.AbsolutePosition(x=x, y=y),))


def test_each_frame_of_an_acquisition_has_its_index_place_and_scale(core: Any, frames: Sequence[NDArray[np.uint8]]) -> None:
    eyes, reports = Eyes(), list[FrameReport]()
    with CameraListener(eyes, reports.append, queue=6) as listener:
        core.mda.run(grid(), output=listener)
    assert [report.id for report in reports] == list(range(6))
    assert [report.metadata["index"] for report in reports] == [{"p": 0, "g": number} for number in range(6)]
    assert eyes.scales == [PIXEL_UM] * 6
    assert reports[0].metadata["camera"] == "Camera"
    # the snake's way over the slide, and the very pixels of each frame: the same cells as without a microscope
    order = [0, 1, 2, 5, 4, 3]
    for report, number in zip(reports, order, strict=True):
        alone = Eyes().examine(frames[number], pixel_um=PIXEL_UM)
        assert [cell.box for cell in report.cells] == [cell.box for cell in alone.cells]
        x, y = report.metadata["stage_um"]
        assert (x, y) == pytest.approx(((number % 3 - 1) * 640 * PIXEL_UM, (0.5 - number // 3) * 480 * PIXEL_UM))


def test_an_acquisition_never_waits_for_the_networks(core: Any) -> None:
    reports: list[FrameReport] = []
    events = [useq.MDAEvent(x_pos=0, y_pos=0) for _ in range(40)]
    taken = threading.Event()  # all frames, before the networks are through with one
    with CameraListener(Eyes(lambda: taken.wait(60)), reports.append, queue=2) as listener:
        core.mda.events.frameReady.connect(listener.frameReady)
        core.mda.run(iter(events))
        stats = listener.stats
        assert reports == []
        taken.set()
    assert stats.taken == 40
    assert listener.stats.dropped >= 30
    assert reports[-1].id == 39  # the newest is never the one that gives way
    listener.frameReady(np.zeros((4, 4, 3), np.uint8))  # closed: it does nothing


def test_a_handle_that_closes_first_tells_of_the_frames_that_wait(tiny_bundle: Any, tmp_path: Path) -> None:
    reports: list[FrameReport] = []
    words: dict[str, Any] = {"device": "cpu", "precision": "fp32", "backend": "onnxruntime", "cache_dir": tmp_path}
    with open_bundle(tiny_bundle.make(), **words) as scope:
        listener = CameraListener(scope, reports.append, spec=FrameSpecification(stain="none"))
        for _ in range(4):
            listener.frameReady(np.full((60, 80, 3), 230, np.uint8), None, {"pixel_size_um": PIXEL_UM})
    assert [report.refusal for report in reports] == [None] * 4
    assert {report.parameters.pixel_um for report in reports if report.parameters} == {PIXEL_UM}
    listener.frameReady(np.full((60, 80, 3), 230, np.uint8))  # the handle is closed: it does nothing
    listener.close()
    assert (listener.stats.state, listener.stats.taken) == ("stopped", 4)
    with pytest.raises(Closed):
        CameraListener(scope, reports.append)


def test_a_frame_that_is_no_colour_picture_is_refused_and_the_rest_goes_on() -> None:
    reports: list[FrameReport] = []
    with CameraListener(Eyes(), reports.append, queue=4) as listener:
        listener.frameReady(np.zeros((60, 80), np.uint16), None, {"pixel_size_um": 0.0})
        listener.frameReady(np.full((60, 80, 3), 230, np.uint8), None, {"pixel_size_um": 0.0})
    assert [report.refusal and report.refusal.code for report in reports] == ["not-8-bit-rgb", None]
    assert reports[0].metadata == {"index": {}}


def test_micro_managers_own_camera_gives_its_colours_in_the_right_order() -> None:
    adapters = pytest.importorskip("mm_test_adapters", reason="mm-test-adapters is not installed")
    from pymmcore_plus import CMMCorePlus

    core = CMMCorePlus()
    core.setDeviceAdapterSearchPaths([adapters.device_adapter_path()])
    core.loadDevice("Camera", "DemoCamera", "DCam")
    core.initializeDevice("Camera")
    core.setCameraDevice("Camera")
    core.setAutoShutter(False)
    core.setProperty("Camera", "PixelType", "32bitRGB")
    core.setProperty("Camera", "Mode", "Color Test Pattern")
    seen: list[NDArray[np.uint8]] = []

    class Glance(Eyes):
        def examine(self, frame: NDArray[np.uint8], **_: Any) -> FrameReport:
            seen.append(frame)
            return FrameReport((), None)

    with CameraListener(Glance(), lambda _: None) as listener:
        core.mda.run([useq.MDAEvent()], output=listener)
    core.snapImage()
    packed = core.getImage(fix=False)
    assert np.array_equal(seen[0], np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=2))
    assert {tuple(pixel) for pixel in seen[0][::5, ::5].reshape(-1, 3)} >= {(150, 0, 0), (0, 150, 0), (0, 0, 150)}
    core.unloadAllDevices()


def test_smart_acquisition_centres_each_suspicious_cell_the_worst_first(core: Any) -> None:
    reports: list[FrameReport] = []
    done = scan_and_revisit(core, Eyes(), grid(), plan=RevisitPlan(least_score=0.05, most=4), on_report=reports.append)
    assert (done.frames, done.missing, done.cancelled, done.unplaced) == (6, 0, False, 0)
    scores = [visit.suspect.score for visit in done.visits]
    assert len(scores) == min(4, done.suspects) >= 2
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    for visit in done.visits:
        assert visit.report.metadata["stage_um"] == pytest.approx(visit.suspect.stage_um)
        assert visit.offset_um is not None
        assert visit.offset_um < 2.5
        assert visit.cell is not None
        assert visit.report.cells[visit.cell].refusal is None
    assert len(reports) == 6 + len(done.visits)


def test_a_stage_that_goes_the_other_way_shows_in_the_offset(core: Any) -> None:
    wrong = RevisitPlan(least_score=0.05, most=2, stage=StageMap(right=(-1, 0), down=(0, 1)))
    done = scan_and_revisit(core, Eyes(), grid(), plan=wrong)
    assert any(visit.offset_um is None or visit.offset_um > 4 for visit in done.visits)


def test_cells_cut_by_a_frames_border_are_visited_last_when_asked_for(core: Any) -> None:
    plan = RevisitPlan(least_score=0.05, also=("touches-border",), most=20)
    done = scan_and_revisit(core, Eyes(), grid(x=11, y=5), plan=plan)  # so that borders go through cells
    scores = [visit.suspect.score for visit in done.visits]
    assert None in scores
    assert None not in scores[: scores.index(None)]
    assert set(scores[scores.index(None) :]) == {None}


def test_cancelling_ends_a_smart_acquisition(core: Any) -> None:
    seen: list[FrameReport] = []
    cancelled = threading.Event()

    def cancel() -> None:
        core.mda.cancel()
        cancelled.set()

    def enough(report: FrameReport) -> None:
        seen.append(report)
        if len(seen) == 2:
            threading.Thread(target=cancel).start()

    eyes = Eyes(lambda: len(seen) < 2 or cancelled.wait(60))
    done = scan_and_revisit(core, eyes, grid(), plan=RevisitPlan(queue=1), on_report=enough)
    assert done.cancelled
    assert len(seen) < 6
    assert not core.mda.is_running()


def test_events_without_a_picture_are_not_waited_for(core: Any) -> None:
    events = [
        useq.MDAEvent(x_pos=0, y_pos=0),
        useq.MDAEvent(action=useq.CustomAction(name="light")),
        useq.MDAEvent(x_pos=9, y_pos=9),
    ]
    done = scan_and_revisit(core, Eyes(), events, plan=RevisitPlan(most=1, least_score=1.0))
    assert (done.frames, done.missing) == (2, 0)


def test_what_the_engine_raises_is_raised_here(core: Any) -> None:
    core.setCameraDevice("")
    with pytest.raises(RuntimeError):
        scan_and_revisit(core, Eyes(), grid(), plan=RevisitPlan(patience_s=0.2))


def test_a_cell_seen_in_two_frames_is_visited_once() -> None:
    suspects = [
        Candidate(number, (0, 0, 1, 1), score, (x, 0.0), None)
        for number, (score, x) in enumerate([(0.6, 0), (0.9, 3), (0.7, 9)])
    ]
    assert [suspect.frame for suspect in merge_candidates(suspects, same_um=5)] == [1, 2]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nowhere.png"], "'nowhere.png': can't be read"),
        (["nowhere.png", "--most", "0"], "most: input should be greater than or equal to 1"),
        (["nowhere.png", "--least-score", "4"], "least_score: input should be less than or equal to 1"),
    ],
)
def test_a_rehearsal_that_can_not_be_is_told_before_a_bundle_is_opened(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        rehearsal.main(words)


def test_a_rehearsal_has_a_microscopes_scale(frames: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(UsageError, match="pixel_um is 99: micrometres per pixel must lie between"):
        run_simulation(Eyes(), frames, pixel_um=99, plan=RevisitPlan())


def test_the_rehearsal_scans_and_visits(frames: list[NDArray[np.uint8]]) -> None:
    done = run_simulation(Eyes(), frames[:4], pixel_um=PIXEL_UM, plan=RevisitPlan(least_score=0.05, most=1))
    assert done.frames == 4
    assert len(done.visits) == 1
