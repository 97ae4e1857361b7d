"""Exceptions of signal handlers, raised at every step of a call at which the interpreter may run a handler."""

from __future__ import annotations

import dis
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import Engine
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.session import Scope, open_bundle

FILES = ("worker_pool.py", "request_queue.py", "infer_request.py", "predictor.py", "scope.py", "concurrency.py")
MOST = 2000  # steps of a call
PATIENCE_S = 30.0


class Stop(Exception):
    """What the handler raises."""


class Interruption:
    """Raises `Stop` in this thread at the step with a number: after a call, at a function's start, or at a loop's next turn."""

    def __init__(self, step: int) -> None:
        self.step, self.steps = step, 0
        self._before: dict[FrameType, int] = {}  # the offset of the last instruction

    def __enter__(self) -> None:
        self._traced = sys.gettrace()
        sys.settrace(self._entered)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._traced)
        self._before.clear()

    def _entered(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        if Path(frame.f_code.co_filename).name not in FILES:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        if event == "opcode":
            before, self._before[frame] = self._before.get(frame), frame.f_lasti
            if before is not None and _may_run_a_handler(frame.f_code, before, frame.f_lasti):
                self.steps += 1
                if self.steps == self.step:
                    raise Stop
        return self._stepped


@cache
def _may_run_a_handler(code: CodeType, before: int, now: int) -> bool:
    """Whether the interpreter looks for signals after the instruction at `before`, and `now` is in the same `try` or `with`.

    A handler's exception belongs to the instruction before, ours to the one that comes. They differ where a block ends.
    """
    table = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    blocks = [next((entry.target for entry in table if entry.start <= place < entry.end), None) for place in (before, now)]
    looks = dis.opname[code.co_code[before]].startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
    return looks and blocks[0] == blocks[1]


@pytest.fixture(params=["latency", "throughput"])
def scope(request: pytest.FixtureRequest, tiny_bundle: Any, tmp_path: Path) -> Iterator[Scope]:
    words: dict[str, Any] = {"workload": request.param, "threads": 2, "cache_dir": tmp_path, "precision": "fp32"}
    with open_bundle(tiny_bundle.make(), **words, layout="fused") as opened:
        yield opened


def is_idle(lanes: InferencePool) -> bool:
    """Whether no lane is taken and no call under way, once what was submitted and isn't asked for any more is answered."""
    limit = time.monotonic() + PATIENCE_S
    while lanes.busy or any(turn is not None and turn() is not None for turn in lanes._turns):
        if time.monotonic() > limit:
            return False
        threading.Event().wait(0.001)
    return True


def classify(scope: Scope, images: list[NDArray[np.uint8]]) -> object:
    return scope.classify(images[0])


def classify_many(scope: Scope, images: list[NDArray[np.uint8]]) -> object:
    return scope.classify_many(images)


def submit(scope: Scope, images: list[NDArray[np.uint8]]) -> object:
    return [future.result() for future in [scope.submit(image) for image in images]]


@pytest.mark.parametrize("work", [classify, classify_many, submit])
def test_a_call_broken_off_at_any_step_leaves_the_handle_whole(
    scope: Scope, tiny_bundle: Any, work: Callable[[Scope, list[NDArray[np.uint8]]], object]
) -> None:
    images = [tiny_bundle.cell(seed) for seed in range(3)]
    wanted = work(scope, images)
    lanes = scope._run.opened.lanes
    broken_off = 0
    for step in range(1, MOST):
        try:
            with Interruption(step):
                assert work(scope, images) == wanted
        except Stop:
            broken_off += 1
        else:
            break
        gc.collect(0)
        assert work(scope, images) == wanted, f"after step {step}"
        assert is_idle(lanes), f"a lane or a call was lost at step {step}"
    assert 10 < broken_off < MOST - 1
    scope.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_a_time_limit_by_signal_leaves_the_handle_whole(scope: Scope, tiny_bundle: Any) -> None:
    def stop(*_: object) -> None:
        raise Stop

    image = tiny_bundle.cell()
    wanted = scope.classify(image)
    stopped = 0
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for microseconds in range(20, 1220, 4):
            try:
                signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                for _ in range(20):
                    assert scope.classify(image) == wanted
            except Stop:
                stopped += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped > 100
    assert scope.classify_many([image] * 4) == [wanted] * 4


class Stubborn:
    """A lane that raises in the first of its answers, as where a signal's handler does."""

    name = "stubborn"

    def __init__(self) -> None:
        self.crops: list[int] = []

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.crops.append(int(crops[0, 0, 0, 0]))
        if len(self.crops) == 1:
            raise Stop
        return np.full((len(crops), 3, 2), 0.5, np.float32)

    def close(self) -> None: ...


def test_a_batch_that_broke_off_takes_up_nothing_more() -> None:
    lane = Stubborn()
    lanes = InferencePool(Engine((lane,), "stubborn", "CPU", "f32", "0" * 64))
    crops = [np.full((1, 4, 4, 3), number, np.uint8) for number in range(9)]
    with pytest.raises(Stop), lanes.call():
        lanes.parallel_map(lanes.infer_on_lane, crops)
    assert lane.crops == [0]
    assert len(lanes.parallel_map(lanes.infer_on_lane, crops)) == 9
    lanes.close()
