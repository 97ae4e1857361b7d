"""Handles that are forgotten, programs that end without closing, callbacks and networks that hang."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope import SHIPPED_BUNDLE
from blastscope.runtime.backends.protocol import Engine
from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.inference import autotune, request_queue, worker_pool
from blastscope.runtime.inference.request_queue import RequestQueue
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.session import open_bundle
from blastscope.train.detector.pictures import drawn_picture

PATIENCE_S = 0.05


@pytest.fixture
def files(tiny_bundle: Any, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{seed}.png" for seed in range(4)]
    for seed, path in enumerate(paths):
        cv2.imwrite(str(path), tiny_bundle.cell(seed)[..., ::-1])
    return paths


AT_THE_END = """
import sys, threading, pathlib, blastscope
scope = blastscope.open_bundle(sys.argv[1], workload=sys.argv[2], threads=2, cache_dir=pathlib.Path(sys.argv[3]))

def late():
    threading.main_thread().join()
    paths = sys.argv[4:]
    print(scope.submit(paths[0]).result().label, scope.classify(paths[0]).label)
    print(len(scope.classify_many(paths)), len(list(scope.classify_files(paths))))

scope.classify(sys.argv[4])
threading.Thread(target=late).start()
"""


@pytest.mark.parametrize("workload", ["latency", "throughput"])
def test_threads_that_outlive_the_main_one_get_their_answers(
    tiny_bundle: Any, files: list[Path], tmp_path: Path, workload: str
) -> None:
    """At the first opening, whose measurement is under way; and the process ends without a word."""
    words = [str(tiny_bundle.make("fp32", "int8")), workload, str(tmp_path / "cache"), *map(str, files)]
    done = subprocess.run([sys.executable, "-W", "error", "-c", AT_THE_END, *words], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first in ("all all", "hem hem")
    assert second == "4 4"


IN_A_CHILD = """
import os, sys, pathlib, blastscope
scope = blastscope.open_bundle(sys.argv[1], threads=2, cache_dir=pathlib.Path(sys.argv[2]))
stream = scope.stream(None, lambda report: None)
scope.submit(sys.argv[3]).result()
child = os.fork()
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), scope.classify(sys.argv[3]).refusal)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_ends_though_it_has_none_of_the_threads(tiny_bundle: Any, files: list[Path], tmp_path: Path) -> None:
    """The measurement of the first opening is under way in its parent."""
    words = [str(tiny_bundle.make("fp32", "int8")), str(tmp_path / "cache"), str(files[0])]
    done = subprocess.run([sys.executable, "-c", IN_A_CHILD, *words], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 None\n", "")


def test_an_iterator_over_files_keeps_its_handle_open(tiny_bundle: Any, files: list[Path], tmp_path: Path) -> None:
    path, words = tiny_bundle.make(), {"cache_dir": tmp_path / "cache"}
    for results in (
        open_bundle(path, **words).classify_files(files * 20),
        open_bundle(path, **words).examine_files(files * 2),
    ):
        gc.collect()
        assert len(list(results)) in (80, 8)


class Quick:
    """A lane that answers at once."""

    name = "quick"

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(crops), 3, 2), 0.5, np.float32)

    def close(self) -> None: ...


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[InferencePool, RequestQueue]]:
    """One lane, and room for one that waits."""
    for module in (worker_pool, request_queue):
        monkeypatch.setattr(module, "CALLBACK_PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(worker_pool, "LOOK_S", 0.01)
    lanes = InferencePool(Engine((Quick(),), "quick", "CPU", "f32", "0" * 64))

    def decide(crops: Any) -> list[Any]:
        return list(lanes.infer_on_lane(np.stack(crops)))

    yield lanes, RequestQueue(lanes, decide, limit=1)
    lanes.close()


def crop() -> NDArray[np.uint8]:
    return np.zeros((4, 4, 3), np.uint8)


def test_a_callback_that_submits_into_a_full_queue_is_told_so(room: tuple[InferencePool, RequestQueue]) -> None:
    """It runs in the only thread that could make room."""
    told: Future[str] = Future()
    kept: list[Future[Any]] = []

    def feed(_: object) -> None:
        try:
            for _ in range(3):
                kept.append(room[1].put(crop()))
        except UsageError as error:
            told.set_result(str(error))

    first = room[1].put(crop())
    first.add_done_callback(feed)
    assert "1 images wait, and a future's callback can't wait for room" in told.result(10)
    assert all(future.result(10) is not None for future in [first, *kept])


def test_closing_leaves_a_callback_that_hangs_behind(
    room: tuple[InferencePool, RequestQueue], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits for an answer that no thread is left to give is told so."""
    release, reached = threading.Event(), threading.Event()
    lanes, queue = room

    def hang(_: object) -> None:
        reached.set()
        release.wait(30)

    try:
        first = queue.put(crop())
        first.add_done_callback(hang)
        assert reached.wait(10)
        second = queue.put(crop())
        lanes.close()
        with pytest.raises(Closed, match="while a future's callback hung"):
            second.result(10)
        assert first.result() is not None
        assert "its thread is left behind" in caplog.text
    finally:
        release.set()


class Stuck:
    """A lane whose network hangs until it is let go. It must not be freed before."""

    name = "stuck"

    def __init__(self) -> None:
        self.go, self.reached, self.closed = threading.Event(), threading.Semaphore(0), threading.Event()

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.reached.release()
        self.go.wait(60)
        assert not self.closed.is_set()
        return np.full((len(crops), 3, 2), 0.5, np.float32)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    monkeypatch.setattr(worker_pool, "INFERENCE_PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(worker_pool, "CROP_PATIENCE_S", 0.0)
    monkeypatch.setattr(worker_pool, "LOOK_S", 0.01)
    lane = Stuck()
    yield lane
    lane.go.set()
    assert lane.closed.wait(10)  # what was left behind is freed once it returns


def pool_of(*lanes: Any) -> tuple[InferencePool, RequestQueue]:
    pool = InferencePool(Engine(lanes, "stuck", "CPU", "f32", "0" * 64, batch=2))
    return pool, RequestQueue(pool, lambda crops: list(pool.infer_on_lane(np.stack(crops))), limit=8)  # type: ignore[arg-type]


def test_closing_leaves_a_network_that_hangs_behind(stuck: Stuck, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asked for an answer through the queue is told so, whether the network had begun with it or not."""
    pool, queue = pool_of(stuck)
    first = queue.put(crop())
    assert stuck.reached.acquire(timeout=10)
    later = [queue.put(crop()) for _ in range(3)]
    pool.close()
    assert "1 inferences of stuck hang: the handle is closed" in caplog.text
    for future in (first, *later):
        with pytest.raises(Closed, match="while an inference hung"):
            future.result(10)
    pool.close()  # again, and it returns again
    assert not stuck.closed.is_set()
    with pytest.raises(Closed):
        pool.infer(np.stack([crop()]))


def test_closing_tells_a_call_that_waits_for_a_lane_that_hangs(stuck: Stuck) -> None:
    pool, _ = pool_of(stuck)
    told = list[BaseException]()
    threads = [threading.Thread(target=raising, args=(told, pool)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert stuck.reached.acquire(timeout=10)
    pool.close()
    stuck.go.set()
    for thread in threads:
        thread.join(10)
    assert [type(error) for error in told] == [Closed, Closed]


def raising(told: list[BaseException], pool: InferencePool) -> None:
    try:
        pool.infer(np.stack([crop()]))
    except Closed as error:
        told.append(error)


def test_while_one_network_hangs_the_others_answers_are_waited_for(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow, pause = Quick(), threading.Event()

    def infer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        pause.wait(2 * PATIENCE_S)  # a little, again and again, so that all of it outlasts the patience
        return np.full((len(crops), 3, 2), 0.25, np.float32)

    monkeypatch.setattr(worker_pool, "INFERENCE_PATIENCE_S", 10 * PATIENCE_S)
    monkeypatch.setattr(slow, "infer", infer)
    pool, queue = pool_of(stuck, slow)
    futures = [queue.put(crop()) for _ in range(8)]
    assert stuck.reached.acquire(timeout=10)
    pool.close()
    outcomes = [future.exception(10) for future in futures]
    assert 1 <= sum(isinstance(outcome, Closed) for outcome in outcomes) <= 2  # the batch of the one that hangs
    assert sum(outcome is None for outcome in outcomes) >= 6
    assert "hang" in caplog.text


def test_what_returns_in_time_is_no_hang(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_pool, "CROP_PATIENCE_S", 60.0)  # many crops have more time
    pool, queue = pool_of(stuck)
    future = queue.put(crop())
    assert stuck.reached.acquire(timeout=10)
    closer = threading.Thread(target=pool.close)
    closer.start()
    closer.join(4 * PATIENCE_S)
    assert closer.is_alive()
    stuck.go.set()
    closer.join(10)
    assert future.result(10) is not None
    assert stuck.closed.is_set()
    assert "hang" not in caplog.text


def test_a_measurement_that_hangs_is_left_behind(
    tiny_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go, reached = threading.Event(), threading.Event()

    def hang(*_: object) -> Any:
        reached.set()
        go.wait(60)
        raise Closed

    monkeypatch.setattr(autotune, "MEASUREMENT_PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(autotune.Autotuner, "_measure", hang)
    scope = open_bundle(tiny_bundle.make("fp32", "int8"), cache_dir=tmp_path / "cache")
    try:
        scope.classify(tiny_bundle.cell())
        assert reached.wait(10)
        scope.close()
        assert "a measurement in the background hasn't ended" in caplog.text
        with pytest.raises(Closed):
            scope.classify(tiny_bundle.cell())
    finally:
        go.set()


def test_what_is_begun_after_closing_is_refused(room: tuple[InferencePool, RequestQueue]) -> None:
    room[0].close()
    with pytest.raises(Closed):
        room[0].start(lambda: None)
    with pytest.raises(Closed):
        room[1].put(crop())


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_closed_handle_frees_its_detector_and_finds_no_cells(backend: str, tmp_path: Path) -> None:
    frame = drawn_picture(3, (96, 128))
    scope = open_bundle(SHIPPED_BUNDLE, device="cpu", backend=backend, cache_dir=tmp_path, threads=1)
    assert scope.examine(frame).refusal is None
    network = scope._run.detector.get(scope._detector).network  # type: ignore[union-attr]
    scope.close()
    scope.close()
    with pytest.raises(Closed):
        network.infer(frame)
    with pytest.raises(Closed):
        scope.examine(frame)
    scope.reopen()
    assert scope.examine(frame).refusal is None
    scope.close()
