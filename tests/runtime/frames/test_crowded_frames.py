"""Frames full of stain cost memory and time by their area: seeds share by windows, hairs and noise are left out early."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

from blastscope.runtime.frames import pipeline
from blastscope.runtime.frames.image_pyramid import ImagePyramid, image_pyramid
from blastscope.runtime.frames.mask_geometry import Region, apart_from, boxes_apart, boxes_of
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.segmentation import candidates as looking
from blastscope.runtime.frames.segmentation.pipeline import segment_cells
from blastscope.runtime.frames.segmentation.split_nuclei import (
    MOST_PARTS,
    SPRAWL_SHARE,
    components_of,
    influence_zones,
    split_nuclei,
)
from blastscope.runtime.frames.segmentation.stain_map import make_stain_map
from blastscope.runtime.frames.types import FrameParameters, FrameSpecification
from blastscope.runtime.io.concurrency import Allowance, SingleThread
from blastscope.runtime.io.slides.slide import open_slide
from blastscope.runtime.types import Box

UM = 0.25
GLASS = (232.0, 230.0, 226.0)


def parameters(width: int, height: int) -> FrameParameters:
    whole = 0, 0, width, height
    return FrameParameters(UM, "given", GLASS, (0.16, 0.6131, -0.7735), 0.16, 0.03, whole, whole)


def shown(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame that is stained where the mask says it."""
    frame = np.empty((*mask.shape, 3), np.uint8)
    frame[:] = GLASS
    frame[mask > 0] = (104, 70, 150)
    return frame


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=40)
def test_each_seed_has_what_is_nearer_to_it_than_to_any_other(seed: int, reach: int) -> None:
    random = np.random.default_rng(seed)
    cores = (cv2.GaussianBlur(random.random((40, 50)), (0, 0), 1.5) > 0.58).astype(np.uint8)
    cores[20, 25] = 1
    seeds = list(components_of(cores).drawn())
    own = cores | (cv2.GaussianBlur(random.random((40, 50)), (0, 0), 3) > 0.48).astype(np.uint8)
    every = slice(0, 40), slice(0, 50)
    far = np.stack([distance_transform_edt(seed.on(every) == 0) for seed in seeds])
    squares = np.rint(far**2)
    least = squares.min(axis=0)
    alone = ((squares == least).sum(axis=0) == 1) & (own > 0) & (least <= reach**2)
    whole = Region(7, 3, own, int(own.sum()))
    there = [Region(one.x + 7, one.y + 3, one.mask, one.area) for one in seeds]
    zones = influence_zones(whole, there, reach)
    for zone, theirs in zip(zones, squares == least, strict=True):
        assert (zone.on((slice(3, 43), slice(7, 57))) == (alone & theirs)).all()


def touching(width: int, height: int) -> tuple[NDArray[np.uint8], int]:
    """Discs of 11.5 micrometres in rows and columns, some left out, and how many there are."""
    mask = np.zeros((height, width), np.uint8)
    places = [(x, y) for x in range(24, width, 44) for y in range(24, height, 44) if (x + 3 * y) % 7]
    for place in places:
        cv2.circle(mask, place, 23, (1,), -1)
    return mask, len(places)


def test_touching_nuclei_take_memory_by_their_area_and_not_each() -> None:
    mask, count = touching(1200, 1000)
    tracemalloc.start()
    parts = split_nuclei(mask, UM)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(parts) == count
    assert peak < 40 * mask.size  # a map of distances for each of them was 2,500 bytes a pixel


def test_a_crowd_that_fills_its_hull_is_parted_all_the_same() -> None:
    mask = np.zeros((400, 400), np.uint8)
    for x in range(24, 400, 44):
        for y in range(24, 400, 44):
            cv2.circle(mask, (x, y), 23, (1,), -1)
    assert len(split_nuclei(mask, UM)) == 9 * 9


def lines(side: int, width: int) -> NDArray[np.uint8]:
    mask = np.zeros((side, side), np.uint8)
    for start in range(-side, side, 40):
        cv2.line(mask, (start, 0), (start + side, side), (1,), width)
    return mask


@pytest.mark.parametrize("width", [5, 9, 13])
def test_hairs_across_a_frame_are_no_nuclei_and_take_no_memory(width: int) -> None:
    mask = lines(1200, width)
    parts = split_nuclei(mask, UM)
    assert sum(part.mask.size for part in parts) < 2 * mask.size / SPRAWL_SHARE
    assert len(parts) <= 13  # the shortest, in the corners


def test_a_nucleus_on_a_hair_is_found_without_the_hair() -> None:
    mask = np.zeros((700, 700), np.uint8)
    cv2.line(mask, (0, 10), (690, 699), (1,), 5)
    cv2.circle(mask, (350, 360), 14, (1,), -1)
    (cell,) = segment_cells(shown(mask), parameters(700, 700), FrameSpecification())
    x0, y0, x1, y1 = cell.box
    assert x0 < 340 < 360 < x1 < x0 + 60
    assert y0 < 350 < 370 < y1 < y0 + 60


def test_more_parts_than_anyone_asks_for_are_not_looked_at() -> None:
    mask = touching(1500, 1500)[0]
    assert len(split_nuclei(mask, UM)) > MOST_PARTS
    skipped: list[Box] = []
    assert segment_cells(shown(mask), parameters(1500, 1500), FrameSpecification(), skipped=skipped) == ()
    assert len(skipped) == 1
    few = touching(300, 300)[0]
    assert segment_cells(shown(few), parameters(300, 300), FrameSpecification(), skipped=skipped)
    assert len(skipped) == 1


def test_a_place_that_is_not_looked_at_is_not_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def crowd(*frame: Any, skipped: list[Box], **options: Any) -> tuple[()]:
        skipped.append((0, 0, 9, 9))
        return ()

    frame = np.full((300, 300, 3), 230, np.uint8)
    for whole_pixels in (1000, 100_000):
        examiner = Examiner(lambda cells: [], pixel_um=UM, whole_pixels=whole_pixels, tile_px=200)
        assert examiner.examine(frame).notes == ()
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "segment_cells", crowd)
            (note,) = examiner.examine(frame).notes
        assert note.startswith("where more than 800 stained parts hang together")


@given(st.integers(0, 10_000), st.floats(0.3, 0.7), st.floats(0, 1.5))
@settings(max_examples=25)
def test_noise_without_its_specks_has_the_same_places(seed: int, share: float, blur: float) -> None:
    noise = np.random.default_rng(seed).random((150, 160))
    blurred = cv2.GaussianBlur(noise, (0, 0), blur) if blur > 0.3 else noise
    frame = shown((blurred > np.quantile(blurred, share)).astype(np.uint8))
    found = []
    for runs in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(looking, "NOISE_RUNS", runs)
            whole = make_stain_map(ImagePyramid(frame), parameters(160, 150))
            found.append([(place.box, place.wide, len(place.outlines)) for place in looking.find_candidates(whole)])
    assert found[0] == found[1]


boxes = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 20), st.integers(1, 20))


@given(boxes, st.lists(boxes, max_size=9))
def test_how_far_boxes_are_apart_is_the_same_one_by_one_and_at_once(one: Box, others: list[Box]) -> None:
    parts = [Region(x, y, np.ones((height, width), np.uint8), height * width) for x, y, width, height in (one, *others)]
    assert apart_from(parts[0], boxes_of(parts[1:])).tolist() == [boxes_apart(parts[0], other) for other in parts[1:]]


def test_what_hangs_together_over_much_of_a_frame_goes_to_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.runtime.frames.segmentation.pipeline.CROWDED_PIXELS", 20_000)
    mask = np.zeros((400, 700), np.uint8)
    cv2.circle(mask, (100, 200), 14, (1,), -1)
    for x in range(300, 600, 25):
        cv2.circle(mask, (x, 150 + x % 50), 80, (1,), -1)

    class Counted(SingleThread):
        handed = 0

        def run(self, function: Any) -> Any:
            self.handed += 1
            return super().run(function)

    crowded = Counted("crowded")
    cells = segment_cells(shown(mask), parameters(700, 400), FrameSpecification(), crowded=crowded)
    assert crowded.handed == 1  # the wide place, and not the single nucleus
    assert len(cells) >= 2
    alone = segment_cells(shown(mask), parameters(700, 400), FrameSpecification())
    assert [cell.box for cell in cells] == [cell.box for cell in alone]


def test_a_single_thread_runs_one_step_at_a_time_and_hands_errors_back() -> None:
    single, seen = SingleThread("single"), set[str]()

    def work(number: int) -> int:
        return single.run(lambda: seen.add(threading.current_thread().name) or number)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(40))) == list(range(40))
    assert len(seen) == 1
    with pytest.raises(ZeroDivisionError):
        single.run(lambda: 1 // 0)


def test_an_allowance_is_shared_and_whoever_wants_too_much_is_alone() -> None:
    allowance, most, now, lock = Allowance(10), 0, 0, threading.Lock()

    def work(amount: int) -> None:
        nonlocal most, now
        for _ in range(200):
            with allowance.taken(amount):
                with lock:
                    now += min(amount, 10)
                    most = max(most, now)
                with lock:
                    now -= min(amount, 10)

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (1, 4, 7, 99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 10
    with allowance.taken(10):  # all of it is back
        pass


@pytest.mark.parametrize("place", ["open", "examine"])
def test_a_frame_for_which_memory_lacks_costs_no_other_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    paths = [tmp_path / name for name in ("large.png", "glass.png")]
    for path in paths:
        cv2.imwrite(str(path), np.full((33, 44, 3), 230, np.uint8))
    true: Any = {"open": open_slide, "examine": image_pyramid}[place]
    given: list[object] = []

    def lacking(*what: Any) -> Any:
        given.append(what)
        if (len(given) == 1) if place == "examine" else (what[0] == paths[0]):
            raise MemoryError
        return true(*what)

    monkeypatch.setattr(pipeline, true.__name__, lacking)
    reports = list(Examiner(lambda cells: [], pixel_um=UM, threads=0).examine_files(paths))
    (refused,) = (report.refusal for report in reports if report.refusal)
    assert refused.code == "failed"
    assert "memory" in refused.detail
    assert [report.path for report in reports] == paths
