"""The handle: many threads, bounded waiting, refusals, order, and an end that loses nothing."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from waiting import blocked, wait_until

import blastscope
from blastscope.runtime.backends.protocol import Engine
from blastscope.runtime.bundle import read_bundle, read_golden
from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.errors import Closed, EngineError, ImageError, UsageError
from blastscope.runtime.inference.request_queue import RequestQueue
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.session import Scope, open_bundle
from blastscope.runtime.types import CLASSES, VOTERS, Prediction


@pytest.fixture
def bundle(tiny_bundle: Any) -> Path:
    return Path(tiny_bundle.make())


@pytest.fixture(params=["latency", "throughput"])
def scope(request: pytest.FixtureRequest, bundle: Path, tmp_path: Path) -> Iterator[Scope]:
    with open_bundle(bundle, workload=request.param, threads=2, cache_dir=tmp_path / "cache", queue=4) as opened:
        yield opened


def expected(tiny: Any, scope: Scope, image: NDArray[np.uint8]) -> tuple[str, str]:
    crop = crop_cell(image, scope.bundle.manifest.crop)
    assert isinstance(crop, Crop)
    votes = vote(tiny.expected(crop.pixels[None]))
    return CLASSES[votes.label[0]], VOTERS[votes.voter[0]]


def test_a_call_is_the_vote_on_what_numpy_computes(tiny_bundle: Any, scope: Scope) -> None:
    for seed in range(20):
        image = tiny_bundle.cell(seed)
        prediction = scope.classify(image)
        assert (prediction.label, prediction.voter) == expected(tiny_bundle, scope, image)
        assert prediction.probabilities
        assert prediction.label
        assert prediction.voter
        row = prediction.probabilities[VOTERS.index(prediction.voter)]
        assert prediction.probability == row[CLASSES.index(prediction.label)]
        assert prediction.score == row[1]
        assert prediction.box == (14, 14, 67, 67)
        assert prediction.refusal is None


def test_the_audit_names_bundle_engine_and_execution(scope: Scope, tiny_bundle: Any) -> None:
    audit = scope.classify(tiny_bundle.cell()).audit
    assert audit.bundle == scope.bundle.digest
    assert len(audit.engine) == 64
    assert (audit.backend, audit.device, audit.precision, audit.execution) == ("openvino", "CPU", "fp32", "f32")


def test_the_public_names_open_a_bundle(bundle: Path, tmp_path: Path) -> None:
    with blastscope.open_bundle(bundle, backend="onnxruntime", cache_dir=tmp_path) as opened:
        assert isinstance(opened, blastscope.Scope)
        assert opened.audit.backend == "onnxruntime"


def test_misuse_raises_at_once_and_is_a_refusal_in_batches(scope: Scope, tiny_bundle: Any) -> None:
    for wrong in (None, [[1]], np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(ImageError):
            scope.classify(wrong)  # type: ignore[arg-type]
        with pytest.raises(ImageError):
            scope.submit(wrong)  # type: ignore[arg-type]
        refused, called = scope.classify_many([wrong, tiny_bundle.cell()])  # type: ignore[list-item]
        assert refused.refusal
        assert refused.refusal.code == "not-8-bit-rgb"
        assert (refused.label, refused.probability, refused.voter, refused.audit) == (None, None, None, scope.audit)
        assert called.label


def test_an_image_without_a_cell_is_refused_everywhere(scope: Scope) -> None:
    black = np.zeros((50, 50, 3), np.uint8)
    for prediction in (scope.classify(black), scope.submit(black).result(), *scope.classify_many([black])):
        assert prediction.refusal
        assert prediction.refusal.code == "empty"


def test_views_are_taken_and_arrays_neither_written_nor_kept(scope: Scope, tiny_bundle: Any) -> None:
    image = tiny_bundle.cell(3)
    wanted = scope.classify(image)
    wide = np.zeros((160, 160, 6), np.uint8)
    wide[::2, ::2, ::2] = image
    assert scope.classify(wide[::2, ::2, ::2]) == wanted
    assert scope.classify(np.asfortranarray(image)) == wanted
    locked = image.copy()
    locked.flags.writeable = False
    assert scope.classify(locked) == wanted
    assert scope.submit(locked).result() == wanted
    reference = weakref.ref(locked)
    del locked
    gc.collect()
    assert reference() is None


def test_a_submitted_buffer_may_be_used_again_at_once(scope: Scope, tiny_bundle: Any) -> None:
    buffer = np.empty((80, 80, 3), np.uint8)
    futures = []
    for seed in range(50):
        buffer[:] = tiny_bundle.cell(seed)
        futures.append(scope.submit(buffer))
    buffer[:] = 0
    for seed, future in enumerate(futures):
        assert future.result().label == expected(tiny_bundle, scope, tiny_bundle.cell(seed))[0]


def test_eight_threads_using_everything_get_their_own_answers(scope: Scope, tiny_bundle: Any) -> None:
    images = [tiny_bundle.cell(seed) for seed in range(24)]
    wanted = [scope.classify(image) for image in images]

    def use(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(15):
            chosen = rng.integers(0, len(images), 4)
            match number % 3:
                case 0:
                    got = [scope.classify(images[one]) for one in chosen]
                case 1:
                    got = scope.classify_many([images[one] for one in chosen])
                case _:
                    got = [future.result() for future in [scope.submit(images[one]) for one in chosen]]
            assert got == [wanted[one] for one in chosen]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 17, 35])
def test_many_cells_get_the_calls_that_each_gets_alone(scope: Scope, tiny_bundle: Any, count: int) -> None:
    black = np.zeros((50, 50, 3), np.uint8)
    images = [black if number % 5 == 3 else tiny_bundle.cell(number) for number in range(count)]
    wanted = [scope.classify(image) for image in images]
    assert scope.classify_many(images) == scope.classify_many(images, in_one_thread=True) == wanted


def test_closing_finishes_what_was_submitted_and_later_calls_raise(scope: Scope, tiny_bundle: Any) -> None:
    image = tiny_bundle.cell()
    futures = [scope.submit(image) for _ in range(10)]
    scope.close()
    assert all(future.done() and future.result().label for future in futures)
    scope.close()
    for call in (
        lambda: scope.classify(image),
        lambda: scope.classify_many([image]),
        lambda: scope.submit(image),
        lambda: scope.classify_files(["x"]),
        lambda: scope.infer(tiny_bundle.crops(1)),
    ):
        with pytest.raises(Closed):
            call()


def test_closing_in_a_callback_neither_hangs_nor_loses_answers(scope: Scope, tiny_bundle: Any) -> None:
    futures = [scope.submit(tiny_bundle.cell()) for _ in range(5)]
    futures[0].add_done_callback(lambda _: scope.close())
    assert all(future.result(timeout=10).label for future in futures)


def test_a_forgotten_handle_is_closed_when_it_is_collected(bundle: Path, tmp_path: Path, tiny_bundle: Any) -> None:
    forgotten = open_bundle(bundle, cache_dir=tmp_path / "cache")
    forgotten.submit(tiny_bundle.cell()).result()
    lanes = forgotten._run.opened.lanes
    del forgotten
    gc.collect()
    with pytest.raises(Closed):
        lanes.enter()


def test_a_process_that_forgets_to_close_ends_all_the_same(bundle: Path, tmp_path: Path, tiny_bundle: Any) -> None:
    np.save(tmp_path / "cell.npy", tiny_bundle.cell())
    code = (
        "import sys, numpy, pathlib, blastscope\n"
        "scope = blastscope.open_bundle(sys.argv[1], cache_dir=pathlib.Path(sys.argv[2]))\n"
        "futures = [scope.submit(numpy.load(sys.argv[3])) for _ in range(9)]\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(bundle), str(tmp_path / "cache"), str(tmp_path / "cell.npy")]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_is_told_to_open_its_own(scope: Scope, tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(UsageError, match="doesn't survive a fork"):
        scope.classify(tiny_bundle.cell())
    with pytest.raises(UsageError, match="doesn't survive a fork"):
        scope.submit(tiny_bundle.cell())
    with pytest.raises(UsageError, match="doesn't survive a fork"):
        scope.reopen()  # would wait for threads that aren't there


class Slow:
    """A lane that answers when it is let."""

    name = "slow"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.sizes: list[int] = []
        self.fail = False

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.go.wait(10)
        self.sizes.append(len(crops))
        if self.fail:
            raise EngineError("a test")
        return np.full((len(crops), 3, 2), 0.5, np.float32)

    def close(self) -> None: ...


def slow_room(limit: int, batch: int = 1) -> tuple[Slow, InferencePool, RequestQueue]:
    lane = Slow()
    lanes = InferencePool(Engine((lane,), "slow", "CPU", "f32", "0" * 64, batch=batch))

    def decide(crops: Any) -> list[Prediction]:
        lanes.infer_on_lane(np.stack([crop.pixels for crop in crops]))
        return [crop.box for crop in crops]  # any value will do

    return lane, lanes, RequestQueue(lanes, decide, limit)


def numbered(number: int) -> Crop:
    return Crop(np.zeros((8, 8, 3), np.uint8), (number, 0, 1, 1))


def test_submit_waits_while_the_room_is_full_and_wakes_when_there_is_room() -> None:
    lane, lanes, room = slow_room(limit=3)
    futures = [room.put(numbered(number)) for number in range(3)]
    done = threading.Event()

    def push() -> None:
        futures.extend(room.put(numbered(number)) for number in range(3, 8))
        done.set()

    thread = threading.Thread(target=push)
    thread.start()
    assert not done.wait(0.2)
    assert len(futures) <= 4  # three that wait and the one in work
    lane.go.set()
    thread.join(10)
    assert [future.result(10)[0] for future in futures] == list(range(8))  # type: ignore[index]
    lanes.close()


def test_whoever_waits_for_room_is_told_when_the_handle_closes() -> None:
    lane, lanes, room = slow_room(limit=1)
    futures = [room.put(numbered(0))]
    raised = threading.Event()

    def push() -> None:
        try:
            while True:
                futures.append(room.put(numbered(1)))
        except Closed:
            raised.set()

    thread = threading.Thread(target=push)
    thread.start()
    wait_until(lambda: blocked(thread))
    closer = threading.Thread(target=lanes.close)
    closer.start()
    assert raised.wait(10)
    lane.go.set()
    closer.join(10)
    thread.join(10)
    assert all(future.done() for future in futures)


def test_waiting_crops_go_together_where_the_engine_likes_it() -> None:
    lane, lanes, room = slow_room(limit=20, batch=4)
    futures = [room.put(numbered(number)) for number in range(10)]
    lane.go.set()
    assert [future.result(10)[0] for future in futures] == list(range(10))  # type: ignore[index]
    lanes.close()
    assert sum(lane.sizes) == 10
    assert max(lane.sizes) == 4


def test_a_cancelled_future_is_left_out_and_a_failure_reaches_its_own() -> None:
    lane, lanes, room = slow_room(limit=20)
    first, second, third = (room.put(numbered(number)) for number in range(3))
    assert second.cancel()
    lane.fail = True
    lane.go.set()
    for future in (first, third):
        with pytest.raises(EngineError):
            future.result(10)
    lanes.close()
    assert second.cancelled()
    assert lane.sizes == [1, 1]


def write_cells(folder: Path, tiny: Any, count: int) -> list[Path]:
    paths = []
    for number in range(count):
        path = folder / f"{number:03}{('.png', '.bmp', '.webp', '.tif')[number % 4]}"
        quality = [cv2.IMWRITE_WEBP_QUALITY, 101] if path.suffix == ".webp" else []
        assert cv2.imwrite(str(path), cv2.cvtColor(tiny.cell(number), cv2.COLOR_RGB2BGR), quality)
        paths.append(path)
    return paths


def test_files_come_back_in_the_order_given_with_the_calls_of_their_arrays(
    scope: Scope, tiny_bundle: Any, tmp_path: Path
) -> None:
    paths = write_cells(tmp_path, tiny_bundle, 40)[::-1]
    wanted = [scope.classify(tiny_bundle.cell(number)) for number in range(40)][::-1]
    assert list(scope.classify_files(map(str, paths))) == list(zip(paths, wanted, strict=True))


def test_a_bad_file_is_refused_and_the_run_goes_on(scope: Scope, tiny_bundle: Any, tmp_path: Path) -> None:
    good = write_cells(tmp_path, tiny_bundle, 2)
    bad = [tmp_path / "gone.png", tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "nothing"]
    bad[1].touch()
    bad[3].mkdir()
    bad[2].write_text("not an image")
    results = list(scope.classify_files([good[0], *bad, good[1]]))
    assert [path for path, _ in results] == [good[0], *bad, good[1]]
    assert [prediction.refusal.code if prediction.refusal else None for _, prediction in results] == [
        None,
        *["undecodable"] * 4,
        None,
    ]


def test_files_may_be_left_half_way_and_the_handle_goes_on(scope: Scope, tiny_bundle: Any, tmp_path: Path) -> None:
    paths = write_cells(tmp_path, tiny_bundle, 4) * 100
    results = scope.classify_files(paths)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert scope.classify(tiny_bundle.cell()).label


def test_files_stop_with_closed_when_the_handle_closes(scope: Scope, tiny_bundle: Any, tmp_path: Path) -> None:
    results = scope.classify_files(write_cells(tmp_path, tiny_bundle, 4) * 1000)
    next(results)
    scope.close()
    with pytest.raises(Closed):
        list(results)


def test_infer_spreads_crops_over_the_lanes_and_keeps_their_order(scope: Scope, tiny_bundle: Any) -> None:
    for count in (1, 2, 3, 17):
        crops = tiny_bundle.crops(count, seed=count)
        np.testing.assert_allclose(scope.infer(crops), tiny_bundle.expected(crops), atol=2e-6)
    golden = read_golden(scope.bundle)
    np.testing.assert_allclose(scope.infer(golden.crops), golden.probabilities, atol=2e-6)


def test_the_operating_point_moves_the_label_and_not_the_voter(tiny_bundle: Any, tmp_path: Path) -> None:
    point = {"sensitivity_wanted": 0.9, "sensitivity": 0.9, "specificity": 0.5, "cells": 9}
    images = [tiny_bundle.cell(seed) for seed in range(12)]
    with open_bundle(tiny_bundle.make(), cache_dir=tmp_path) as plain:
        before = plain.classify_many(images)
    for threshold, label in ((0.0, "all"), (1.0, "hem")):
        path = tiny_bundle.make(operating_point={**point, "threshold": threshold})
        with open_bundle(path, cache_dir=tmp_path) as scope:
            after = scope.classify_many(images)
        assert [one.voter for one in after] == [one.voter for one in before]
        assert [one.score for one in after] == [one.score for one in before]
        assert {one.label for one in after if one.score != 1.0} == {label}
        assert all(one.probability in (one.score, *[pair[0] for pair in one.probabilities or ()]) for one in after)


def test_a_zip_opens_like_its_folder(bundle: Path, tmp_path: Path, tiny_bundle: Any) -> None:
    from blastscope.runtime.bundle import pack

    packed = pack(read_bundle(bundle), tmp_path / "tiny.zip")
    image = tiny_bundle.cell()
    with (
        open_bundle(packed, cache_dir=tmp_path / "cache") as zipped,
        open_bundle(bundle, cache_dir=tmp_path / "cache") as plain,
    ):
        assert zipped.classify(image) == plain.classify(image)
