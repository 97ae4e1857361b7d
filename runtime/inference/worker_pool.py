"""`InferencePool`: the lanes of an engine, shared by many threads; closing waits for calls under way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import BatchResult, Cascade, Engine
from blastscope.runtime.errors import Closed, EngineError, UsageError

T = TypeVar("T")
R = TypeVar("R")


class InferencePool:
    """An engine that many threads may use. Has the three members of `Backend`, and is thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.backend
        self.cascade: Cascade | None = None
        self._free: SimpleQueue[int] = SimpleQueue()  # numbers of lanes
        for number in range(len(engine.lanes)):
            self._free.put(number)
        self._state = threading.Condition()
        self._calls = 0  # under way
        self.begun = 0  # calls since the opening
        self._closing = False
        self._process = os.getpid()
        self._here = threading.local()  # .works: this thread is one of the pool's
        self._pool: ThreadPoolExecutor | None = None

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3), in an array of their own; the crops are spread over the lanes."""
        with self.call():
            count = max(1, min(len(self.engine.lanes), len(crops)))
            return np.concatenate(self.spread(self.answer, np.array_split(crops, count)))

    def answer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` from one lane, waiting for a free one. To be called inside `call`."""
        with self._number() as number:
            if self.cascade:
                return self.engine.partial_lanes[number].infer_in_turn(crops, self.cascade)
            return np.array(self.engine.lanes[number].infer(crops), np.float32)  # a copy: the lane may use its buffer again

    def enable_cascade(self, cascade: Cascade) -> None:
        """From now on voters are left out where the first one of `cascade` is sure: their probabilities are NaN."""
        if len(self.engine.partial_lanes) != len(self.engine.lanes):
            raise EngineError(f"{self.name} runs a network whole, so no voter can be left out")
        self.cascade = cascade

    def look(self, images: Sequence[Any]) -> BatchResult:
        """What one lane that crops by itself sees in `images`, waiting for a free one. To be called inside `call`."""
        if self.engine.image_input is None:
            raise EngineError(f"{self.name} takes crops, not images")
        with self._number() as number:
            return self.engine.image_input.lanes[number].look(images)

    @contextmanager
    def _number(self) -> Iterator[int]:
        number = self._free.get()
        try:
            yield number
        finally:
            self._free.put(number)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Holds the lanes open meanwhile. Raises `Closed`, and `UsageError` in a forked child."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Begins a call."""
        self._require_own_process()
        with self._state:
            if self._closing:
                raise Closed
            self._calls += 1
            self.begun += 1

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._calls > 0

    def leave(self) -> None:
        """Ends a call."""
        with self._state:
            self._calls -= 1
            self._state.notify_all()

    def spread(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function` of every item, in order, by as many threads as there are lanes. The calling thread is one of them."""
        results: dict[int, R] = {}
        numbers = iter(range(len(items)))

        def work() -> None:
            for number in numbers:  # iterating over a range is atomic
                results[number] = function(items[number])

        helpers = [self.start(work) for _ in range(min(len(self.engine.lanes), len(items)) - 1)]
        try:
            work()
        finally:
            unfinished = [helper for helper in helpers if not helper.cancel()]
        for helper in unfinished:
            helper.result()
        return [results[number] for number in range(len(items))]

    def start(self, function: Callable[[], None]) -> Future[None]:
        """Runs `function` in a thread of the pool, which has one for each lane."""
        with self._state:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(len(self.engine.lanes), "blastscope")
            return self._pool.submit(self._mark_and_run, function)

    def _mark_and_run(self, function: Callable[[], None]) -> None:
        self._here.works = True
        function()

    def stop(self) -> None:
        """From now on calls raise `Closed`; those under way go on. Wakes whoever waits for room."""
        with self._state:
            self._closing = True
            self._state.notify_all()

    def wake(self) -> None:
        """Lets those who wait look at their condition again."""
        with self._state:
            self._state.notify_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds, which is looked at after `wake` and whenever a call ends. Raises `Closed`."""
        with self._state:
            self._state.wait_for(lambda: self._closing or condition())
            if self._closing:
                raise Closed

    def close(self) -> None:
        """Waits for the calls under way and frees the engine; in a future's callback without waiting. Safe to call twice."""
        if os.getpid() != self._process:
            return  # a forked child owns none of the threads
        self.stop()
        if getattr(self._here, "works", False):
            # a callback runs in a thread of the pool, which can't wait for the work that is still to be done by itself
            threading.Thread(target=self._finish, name="blastscope-close").start()
        else:
            self._finish()

    def _finish(self) -> None:
        with self._state:
            self._state.wait_for(lambda: self._calls == 0)
            pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()
        self.engine.close()

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                f"the handle was opened in process {self._process} and doesn't survive a fork: open the bundle in the child"
            )
