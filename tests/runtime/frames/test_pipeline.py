"""Whole frames: cells found, cut out and called; tiles give what the whole gives; scans are never loaded whole."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.errors import Closed, ImageError, UsageError
from blastscope.runtime.frames.cell_crop import cut_cell
from blastscope.runtime.frames.pipeline import WORKING_TILE_PX, Examiner
from blastscope.runtime.frames.tiling import owns, tiles_of
from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.io.slides.slide import ArraySlide, Slide, open_slide
from blastscope.runtime.session import Scope, open_bundle
from blastscope.runtime.types import Audit, Box, Prediction, Refusal

PIXEL_UM = 0.25
SPEC = FrameSpecification()
AUDIT = Audit("b", "e", "openvino", "cpu", "fp32", "f32")


def by_colour(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
    """A call that depends on every pixel of a cell and on nothing else."""
    return [call(float(cell[cell.max(axis=2) > 0].mean()) / 255) for cell in cells]


def call(score: float) -> Prediction:
    return Prediction("all" if score > 0.586 else "hem", max(score, 1 - score), score, "a", None, (0, 0, 1, 1), None, AUDIT)


def draw_frame(seed: int, width: int = 440, height: int = 330) -> NDArray[np.uint8]:
    """Glass with red cells and a few white ones, here and there on the edge or on one another."""
    rng = np.random.default_rng(seed)
    frame = np.full((height, width, 3), (232, 226, 222), np.uint8)
    for x, y in rng.integers(0, (width, height), (width * height // 2500, 2)).tolist():
        cv2.circle(frame, (x, y), 15, (206, 160, 158), -1, cv2.LINE_AA)
    for x, y in rng.integers(-10, (width + 10, height + 10), (width * height // 25_000, 2)).tolist():
        turn, axes = float(rng.uniform(0, 180)), rng.uniform((20, 18), (29, 24))
        for colour, part in (((188, 172, 212), 1.0), ((122, 84, 172), 0.8)):
            sides = (round(axes[0] * part), round(axes[1] * part))
            cv2.ellipse(frame, (x, y), sides, turn, 0, 360, colour, -1, cv2.LINE_AA)
    noise = rng.integers(-4, 5, frame.shape, np.int16)
    return np.asarray(np.clip(frame + noise, 0, 255), np.uint8)


def told(report: FrameReport) -> dict[str, Any]:
    """All that a report says, down to every point of each contour and every word."""
    nuclei = [cell.found.nucleus.tolist() for cell in report.cells]
    return {**report.row(), "parameters": report.parameters, "nuclei": nuclei}


@pytest.fixture
def scope(tiny_bundle: Any, tmp_path: Path) -> Iterator[Scope]:
    with open_bundle(tiny_bundle.make(), cache_dir=tmp_path / "cache") as scope:
        yield scope


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[Path]:
    """A few real frames."""
    return sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:40:10]


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), np.uint8)


# ---- one frame


def test_each_cell_of_a_real_frame_has_a_place_and_a_call_or_a_reason(scope: Scope, frames: list[Path]) -> None:
    for path in frames:
        frame = read(path)
        report = scope.examine(frame, metadata={"stage": (3, 4)})
        assert report.cells
        assert report.parameters
        assert (report.size, report.metadata, report.refusal) == ((640, 480), {"stage": (3, 4)}, None)
        assert not report.validated
        for cell in report.cells:
            x0, y0, x1, y1 = cell.box
            assert 0 <= x0 < x1 <= 640
            assert 0 <= y0 < y1 <= 480
            assert (cell.label is None) == (cell.refusal is not None)
            assert ((cell.contour >= (x0, y0)) & (cell.contour < (x1, y1))).all()
        assert report.counts["cells"] == len(report.cells) == sum(report.counts[name] for name in ("all", "hem", "refused"))


def test_a_call_on_a_cell_is_the_call_on_its_cut_out_image(scope: Scope, frames: list[Path]) -> None:
    frame = read(frames[0])
    report = scope.examine(frame)
    assert report.parameters
    found = [cell for cell in report.cells if cell.found.refusal is None]
    alone = scope.classify_many([cut_cell(frame, cell.found, report.parameters, SPEC) for cell in found])
    assert [cell.prediction for cell in found] == alone


def test_the_frame_is_neither_written_to_nor_kept(scope: Scope) -> None:
    frame = draw_frame(1)
    before = frame.copy()
    frame.flags.writeable = False
    report = scope.examine(frame)
    assert np.array_equal(frame, before)
    gone = weakref.ref(frame)
    del frame
    gc.collect()
    assert gone() is None
    assert report.cells


def test_a_strided_view_is_seen_as_its_pixels(scope: Scope) -> None:
    frame = draw_frame(2)
    turned = np.ascontiguousarray(frame[::-1, :, ::-1])
    assert told(scope.examine(turned[::-1, :, ::-1])) == told(scope.examine(frame))


def test_what_is_no_frame_is_told_apart_from_an_empty_one(scope: Scope) -> None:
    for wrong in ([[1]], np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(ImageError):
            scope.examine(wrong)  # type: ignore[arg-type]
    report = scope.examine(np.zeros((0, 9, 3), np.uint8))
    assert report.refusal
    assert (report.refusal.code, report.cells, report.parameters) == ("empty", (), None)


def test_a_frame_without_light_is_told_from_one_without_cells(shared_data: Path) -> None:
    examiner = Examiner(by_colour, SPEC)
    single = next((shared_data / "cnmc" / "C-NMC_training_data" / "fold_0" / "all").glob("*.webp"))
    (alone,) = examiner.examine_files([single])
    assert alone.cells == ()
    assert "is the lamp on? images of single cells on black are for" in alone.notes[0]
    assert examiner.examine(np.full((90, 120, 3), 230, np.uint8)).notes == ()


def test_a_refused_frame_has_no_notes_on_what_was_made_of_it(tmp_path: Path) -> None:
    glass = np.dstack([draw_frame(2), np.full((330, 440), 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "opaque.png"), glass)
    cv2.imwrite(str(tmp_path / "glass.png"), np.minimum(glass, (255, 255, 255, 128)).astype(np.uint8))
    glassy, opaque = Examiner(by_colour, SPEC).examine_files([tmp_path / "glass.png", tmp_path / "opaque.png"])
    assert glassy.refusal
    assert "its alpha isn't opaque everywhere" in glassy.refusal.detail
    assert glassy.notes == ()
    assert opaque.notes[0] == "its alpha channel, which is opaque everywhere, is dropped"


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 3, 3), (60, 60, 3)])
@pytest.mark.parametrize("value", [0, 255])
def test_a_frame_of_one_colour_has_no_cells(scope: Scope, shape: tuple[int, ...], value: int) -> None:
    assert scope.examine(np.full(shape, value, np.uint8)).counts["cells"] == 0


def test_the_callers_scale_comes_before_the_specifications(scope: Scope) -> None:
    frame = draw_frame(3)
    parameters = [
        scope.examine(frame, pixel_um=pixel_um, spec=FrameSpecification(pixel_um=spec)).parameters
        for pixel_um, spec in ((0.2, 0.3), (None, 0.3), (None, None))
    ]
    assert [(one.pixel_um, one.scale_source) for one in parameters[:2] if one] == [(0.2, "given"), (0.3, "given")]
    assert parameters[2]
    assert parameters[2].scale_source != "given"
    for wrong in (0.0, -1.0, 100.0, float("nan")):
        with pytest.raises(UsageError, match="pixel_um"):
            scope.examine(frame, pixel_um=wrong)


def test_eight_threads_get_the_same_reports(scope: Scope) -> None:
    drawn = [draw_frame(seed) for seed in range(3)]
    alone = [told(scope.examine(frame, pixel_um=PIXEL_UM)) for frame in drawn]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda number: told(scope.examine(drawn[number % 3], pixel_um=PIXEL_UM)), range(9)))
    assert many == alone * 3


def test_a_closed_handle_examines_nothing(tiny_bundle: Any, tmp_path: Path) -> None:
    scope = open_bundle(tiny_bundle.make(), cache_dir=tmp_path)
    scope.close()
    with pytest.raises(Closed):
        scope.examine(draw_frame(1))
    with pytest.raises(Closed):
        scope.examine_files([])


# ---- tiles


@given(st.integers(1, 900), st.integers(1, 900), st.integers(16, 400), st.integers(0, 300), st.data())
def test_every_cell_belongs_to_one_tile_and_lies_in_its_region(
    width: int, height: int, side: int, margin: int, data: Any
) -> None:
    tiles = list(tiles_of(width, height, side_px=side, margin_px=margin))
    assert sum((x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), _ in tiles) == width * height
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = (data.draw(st.integers(low + 1, min(low + max(margin, 1), most))) for low, most in ((x0, width), (y0, height)))
    owners = [tile for tile in tiles if owns(tile.core, (x0, y0, x1, y1))]
    assert len(owners) == 1
    left, top, right, bottom = owners[0].region
    assert left <= x0 < x1 <= right
    assert top <= y0 < y1 <= bottom


@settings(max_examples=5, phases=[Phase.explicit, Phase.generate])  # an example is small enough as it is
@given(st.integers(0, 10_000), st.integers(120, 300))
def test_tiles_give_what_the_whole_gives(seed: int, side: int) -> None:
    frame = draw_frame(seed)
    whole = Examiner(by_colour, pixel_um=PIXEL_UM).examine(frame)
    tiled = Examiner(by_colour, pixel_um=PIXEL_UM, whole_pixels=0, tile_px=side, threads=2).examine(frame)
    assert told(tiled) == told(whole)


def test_tiles_give_what_the_whole_gives_on_real_frames(shared_data: Path) -> None:
    paths = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[3::30][:9]
    small = [cv2.resize(read(path), None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA) for path in paths]
    frame = np.concatenate([np.concatenate(small[row : row + 3], axis=1) for row in range(0, 9, 3)])
    scale = 0.07 / 0.4
    whole = Examiner(by_colour, pixel_um=scale).examine(frame)
    assert len(whole.cells) >= 6
    assert told(Examiner(by_colour, pixel_um=scale, whole_pixels=0, tile_px=250).examine(frame)) == told(whole)


# ---- scans


class Watched(ArraySlide):
    """A scan that remembers the largest part that was ever asked for."""

    def __init__(self, scan: Slide) -> None:
        self._scan, self._lock = scan, threading.Lock()
        self.width, self.height, self.notes = scan.width, scan.height, scan.notes
        self.largest, self.count = 0, 0

    def read(self, box: Box) -> NDArray[np.uint8]:
        with self._lock:
            self.largest = max(self.largest, (box[2] - box[0]) * (box[3] - box[1]))
            self.count += 1
        return self._scan.read(box)

    def blank(self, box: Box) -> bool:
        return self._scan.blank(box)


def write_sparse(path: Path, frame: NDArray[np.uint8], side: int, corner: tuple[int, int]) -> None:
    """A tiled scan of side x side pixels of which only what shows `frame` is there."""
    step = 256
    left, top = corner

    def tiles() -> Iterator[bytes]:
        for y in range(0, side, step):
            for x in range(0, side, step):
                inside = left <= x < left + frame.shape[1] and top <= y < top + frame.shape[0]
                tile = np.ascontiguousarray(frame[y - top : y - top + step, x - left : x - left + step])
                yield zlib.compress(tile.tobytes()) if inside else b""

    options: dict[str, Any] = {"tile": (step, step), "photometric": "rgb", "compression": "deflate"}
    tifffile.imwrite(path, tiles(), shape=(side, side, 3), dtype=np.uint8, bigtiff=True, **options)


def test_a_scan_of_a_gigabyte_is_read_in_tiles(tmp_path: Path) -> None:
    side, corner = 79 * 256, (8 * WORKING_TILE_PX - 512, 3 * WORKING_TILE_PX - 256)  # the frame lies where four tiles meet
    frame = draw_frame(4, 1024, 512)
    write_sparse(tmp_path / "slide.tif", frame, side, corner)
    assert (tmp_path / "slide.tif").stat().st_size < 3_000_000
    scan = open_slide(tmp_path / "slide.tif")
    assert not isinstance(scan, Refusal)
    watched = Watched(scan)
    report = Examiner(by_colour, pixel_um=PIXEL_UM, threads=2).examine_scan(watched)
    scan.close()
    assert report.size == (side, side)
    assert watched.largest < (WORKING_TILE_PX + 700) ** 2 < side * side / 25
    assert watched.count < 30
    padded = np.full((1200, 1600, 3), 255, np.uint8)
    padded[300:812, 300:1324] = frame
    assert report.parameters
    alone = Examiner(by_colour, pixel_um=PIXEL_UM).examine(padded)
    assert len(report.cells) >= 5
    moved = [(x0 + corner[0] - 300, y0 + corner[1] - 300) for x0, y0, _, _ in (cell.box for cell in alone.cells)]
    near = np.abs(np.array(moved)[:, None] - np.array([cell.box[:2] for cell in report.cells])[None]).max(axis=2).min(axis=1)
    assert np.median(near) <= 2  # scale and stain were measured on other pixels, so the outlines may differ a little


def test_a_file_and_an_array_of_the_same_pixels_give_the_same_report(tmp_path: Path) -> None:
    frame = draw_frame(6)
    options: dict[str, Any] = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", frame, photometric="rgb", tile=(128, 128), **options)
    scan = open_slide(tmp_path / "a.tif")
    assert not isinstance(scan, Refusal)
    from_file = Examiner(by_colour, whole_pixels=0, tile_px=200).examine_scan(scan)
    scan.close()
    from_array = Examiner(by_colour, pixel_um=0.25).examine(frame)
    assert {**told(from_file), "notes": []} == told(from_array)
    assert from_file.notes == ("0.25 micrometres a pixel by the resolution tags",)


# ---- many files


def test_files_come_in_order_and_a_bad_one_is_refused_alone(scope: Scope, frames: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(frames[0].read_bytes()[:9000])
    paths = [frames[1], bad, tmp_path / "nowhere.png", frames[0], tmp_path]
    seen: dict[Path | None, int] = {}
    reports = list(scope.examine_files(paths, on_frame=lambda scan, report: seen.update({report.path: scan.width})))
    assert [report.path for report in reports] == paths
    codes = [report.refusal.code if report.refusal else None for report in reports]
    assert codes == [None, "undecodable", "undecodable", None, "undecodable"]
    assert seen == {frames[1]: 640, frames[0]: 640}
    for number in (0, 3):
        alone = told(scope.examine(read(paths[number])))
        assert told(reports[number]) == {**alone, "path": str(paths[number])}


def test_an_error_of_the_program_costs_one_file_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        raise ZeroDivisionError("a mistake")

    paths = [tmp_path / "cells.png", tmp_path / "glass.png"]
    for path, frame in zip(paths, (draw_frame(1), np.full((330, 440, 3), 230, np.uint8)), strict=True):
        cv2.imwrite(str(path), frame[..., ::-1])
    first, second = Examiner(broken, SPEC, PIXEL_UM).examine_files(paths)
    assert first.refusal == Refusal("failed", "ZeroDivisionError: a mistake")
    assert f"examining '{paths[0]}' broke off" in caplog.text
    assert second.refusal is None


def test_a_file_that_can_not_be_read_takes_no_validation_away(tmp_path: Path) -> None:
    for validated in (True, False):
        (report,) = Examiner(by_colour, SPEC, PIXEL_UM, validated=validated).examine_files([tmp_path / "nowhere.png"])
        assert report.validated == validated


def test_paths_are_read_as_the_reports_are_wanted(scope: Scope, frames: list[Path]) -> None:
    given = 0

    def endless() -> Iterator[Path]:
        nonlocal given
        while True:
            given += 1
            yield frames[0]

    reports = scope.examine_files(endless())
    assert next(reports).refusal is None
    reports.close()  # type: ignore[attr-defined]
    assert given < 500


@pytest.mark.parametrize(("name", "found"), [("BloodImage_00047.jpg", 0), ("BloodImage_00190.jpg", 1)])
def test_an_assumed_scale_is_noted_whether_cells_are_found_or_not(shared_data: Path, name: str, found: int) -> None:
    frame = read(shared_data / "bccd" / "JPEGImages" / name)[73:333, 200:460]
    small = cv2.resize(frame, (117, 117), interpolation=cv2.INTER_AREA) if not found else frame[:120, :120]
    told = "too few red cells show its scale: 0.1 micrometres a pixel are assumed, and cells may be missed"
    assert told in Examiner(by_colour, SPEC).examine(np.ascontiguousarray(small)).notes
    assert told not in Examiner(by_colour, SPEC, 0.16).examine(np.ascontiguousarray(small)).notes


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process there")
def test_ctrl_c_waits_for_the_tiles_at_work_and_not_for_their_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, interrupted = itertools.count(), threading.Event()

    class Slide(ArraySlide):
        def read(self, box: Box) -> NDArray[np.uint8]:
            number = next(looked)
            if number == 60:  # the windows of the survey are behind
                os.kill(os.getpid(), signal.SIGINT)
            assert number <= 60 or interrupted.wait(60)
            return super().read(box)

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    slide = Slide(np.full((3000, 3000, 3), 230, np.uint8))
    monkeypatch.setattr("blastscope.runtime.frames.pipeline.open_slide", lambda path: slide)
    examiner = Examiner(by_colour, SPEC, PIXEL_UM, whole_pixels=1000, tile_px=64)  # 2209 tiles
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(examiner.examine_files([tmp_path / "slide.png"]))
    finally:
        signal.signal(signal.SIGINT, before)
    assert 60 < next(looked) < 300
