"""`InferencePool`: the lanes of an engine, shared by many threads; closing waits for calls under way.

A signal handler may raise in the main thread between any two steps of a call: Ctrl-C in a loop that goes on, or a time limit.
So what a call takes is noted by a weak reference to an object that lives in the call's own frames: what is lost on the way out
of them counts as given back. And locks are entered as such, not as conditions: for the interpreter that is one step.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import BatchResult, Cascade, Engine
from blastscope.runtime.errors import Closed, EngineError, UsageError
from blastscope.runtime.io.concurrency import ThreadPool

T = TypeVar("T")
R = TypeVar("R")

LOOK_S = 0.25  # after which whoever waits looks again: what a broken-off call leaves tells nobody
CALLBACK_PATIENCE_S = 30.0  # for a future's callback, when the handle closes
INFERENCE_PATIENCE_S, CROP_PATIENCE_S = 30.0, 2.0  # for an inference then, and more for each crop of it
HUNG = "the handle was closed while an inference hung, so there is no answer: open the bundle again"
LOG = logging.getLogger(__name__)


class ActiveCall:
    """A call under way, from `InferencePool.enter` to `leave`; as a context manager it does both."""

    __slots__ = ("__weakref__", "_pool")

    def __init__(self, pool: InferencePool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        self._pool.begin(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.leave(self)


class InferencePool:
    """An engine that many threads may use. Has the three members of `Backend`, and is thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.backend
        self.cascade: Cascade | None = None
        self.while_closing: Callable[[], object] = lambda: None  # called now and then while closing waits for calls
        self.begun = 0  # calls since the opening
        self._lock = threading.RLock()
        self._state, self._lane_freed = threading.Condition(self._lock), threading.Condition(self._lock)
        # under way; without callbacks, in which a signal handler's exception would be lost
        self._calls: dict[int, weakref.ref[ActiveCall]] = {}
        self._turns: list[weakref.ref[_Turn] | None] = [None] * len(engine.lanes)  # who uses each lane
        self._closing = self._closed = False
        self._process = os.getpid()
        self._here = threading.local()  # .works: this thread is one of the pool's
        self._threads: ThreadPool | None = None

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3), in an array of their own; the crops are spread over the lanes."""
        with self.call():
            count = max(1, min(len(self.engine.lanes), len(crops)))
            return np.concatenate(self.parallel_map(self.infer_on_lane, np.array_split(crops, count)))

    def infer_on_lane(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` from one lane, waiting for a free one. To be called inside `call`."""
        with _Turn(self, len(crops)) as number:
            if self.cascade:
                return self.engine.partial_lanes[number].infer_in_turn(crops, self.cascade)
            return np.array(self.engine.lanes[number].infer(crops), np.float32)  # a copy: the lane may use its buffer again

    def enable_cascade(self, cascade: Cascade) -> None:
        """From now on voters are left out where the first one of `cascade` is sure: their probabilities are NaN."""
        if len(self.engine.partial_lanes) != len(self.engine.lanes):
            raise EngineError(f"{self.name} runs a network whole, so no voter can be left out")
        self.cascade = cascade

    def infer_images(self, images: Sequence[Any]) -> BatchResult:
        """What one lane that crops by itself sees in `images`, waiting for a free one. To be called inside `call`."""
        if self.engine.image_input is None:
            raise EngineError(f"{self.name} takes crops, not images")
        with _Turn(self, len(images)) as number:
            return self.engine.image_input.lanes[number].infer_images(images)

    def take_lane(self, turn: _Turn) -> int:
        """The number of a lane that is `turn`'s until `give_back`, waiting for a free one. Raises `Closed` where all hang."""
        with self._lock:
            while (number := self._vacant()) is None:
                if self._closing and len(self.hanging()) == len(self._turns):
                    raise Closed(HUNG)
                self._lane_freed.wait(LOOK_S)
            turn.begin()
            self._turns[number] = weakref.ref(turn)
        return number

    def give_back(self, turn: _Turn) -> None:
        """Gives a lane back to the pool."""
        with self._lock:
            for number, taken in enumerate(self._turns):
                if taken is not None and taken() is turn:
                    self._turns[number] = None
            self._lane_freed.notify()

    def call(self) -> ActiveCall:
        """Holds the lanes open meanwhile, as a context manager. Raises `Closed`, and `UsageError` in a forked child."""
        return ActiveCall(self)

    def enter(self) -> ActiveCall:
        """Begins a call, which lasts until `leave` and no longer than the object lives. Raises as `call`."""
        call = ActiveCall(self)
        self.begin(call)
        return call

    def begin(self, call: ActiveCall) -> None:
        """Begins `call`."""
        self.require_own_process()
        with self._lock:
            if self._closing:
                raise Closed
            self._calls[id(call)] = weakref.ref(call)
            self.begun += 1

    def leave(self, call: ActiveCall) -> None:
        """Ends `call`."""
        with self._lock:
            self._calls.pop(id(call), None)
            self._state.notify_all()

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        with self._lock:
            for number, call in list(self._calls.items()):
                if call() is None:
                    del self._calls[number]
            return len(self._calls) > 0

    def hanging(self) -> list[int]:
        """The threads of inferences that ought to have returned long ago."""
        now = time.monotonic()
        return [turn.thread for turn in self._taken() if turn.deadline < now]

    @property
    def works_here(self) -> bool:
        """Whether this thread is one of the pool's: a future's callback runs in one."""
        return getattr(self._here, "works", False)

    def parallel_map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function` of every item, in order, by as many threads as there are lanes. The calling thread is one of them."""
        results: dict[int, R] = {}
        numbers = iter(range(len(items)))

        def work() -> None:
            for number in numbers:  # iterating over a range is atomic
                results[number] = function(items[number])

        helpers: list[Future[None]] = []
        try:
            helpers += [self.start(work) for _ in range(min(len(self.engine.lanes), len(items)) - 1)]
            work()
        finally:
            for _ in numbers:  # where this call broke off, the others take up nothing more
                pass
            unfinished = [helper for helper in helpers if not helper.cancel()]
        for helper in unfinished:
            helper.result()
        return [results[number] for number in range(len(items))]

    def start(self, function: Callable[[], None]) -> Future[None]:
        """Runs `function` in a thread of the pool, which has one for each lane. Raises `Closed`."""
        with self._lock:
            if self._closed:
                raise Closed
            if self._threads is None:
                self._threads = ThreadPool(len(self.engine.lanes), "blastscope")
            return self._threads.submit(self._mark_and_run, function)

    def stop(self) -> None:
        """From now on calls raise `Closed`; those under way go on. Wakes whoever waits for room."""
        with self._lock:
            self._closing = True
            self._state.notify_all()

    def wake(self) -> None:
        """Lets those who wait look at their condition again."""
        with self._lock:
            self._state.notify_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds, which is looked at after `wake` and whenever a call ends. Raises `Closed`."""
        with self._lock:
            while not (self._closing or condition()):
                self._state.wait(LOOK_S)
            if self._closing:
                raise Closed

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, which has none of the threads."""
        return os.getpid() != self._process

    def close(self) -> None:
        """Waits for the calls under way and frees the engine; in a future's callback without waiting. Safe to call twice.

        An inference that hangs is left behind after half a minute, or more where it has many crops: with a warning in the log,
        `Closed` for whoever waits for another thread's answer, and the engine in memory until it returns.
        """
        if self.inherited:
            return
        self.stop()
        if self.works_here:
            # a callback runs in a thread of the pool, which can't wait for the work that is still to be done by itself
            threading.Thread(target=self._finish, name="blastscope-close").start()
        else:
            self._finish()

    def _finish(self) -> None:
        with self._lock:
            while (self.busy or self._taken()) and not 0 < len(self.hanging()) >= len(self._calls):
                self._state.wait(LOOK_S)
                self.while_closing()
            threads, self._threads, self._closed = self._threads, None, True
            hanging = len(self.hanging())
        if hanging:
            text = "%d inferences of %s hang: the handle is closed, and what they use is left behind until they return"
            LOG.warning(text, hanging, self.name)
            threading.Thread(target=self._free_later, args=(threads,), name="blastscope-close", daemon=True).start()
            return
        if threads and not threads.close(CALLBACK_PATIENCE_S):
            LOG.warning("a future's callback hasn't returned for %.0f s: its thread is left behind", CALLBACK_PATIENCE_S)
        self.engine.close()

    def _free_later(self, threads: ThreadPool | None) -> None:
        while self._taken():
            time.sleep(LOOK_S)
        if threads:
            threads.close()
        self.engine.close()

    def _mark_and_run(self, function: Callable[[], None]) -> None:
        self._here.works = True
        function()

    def _taken(self) -> list[_Turn]:
        """The turns that are under way."""
        with self._lock:
            return [turn for taken in self._turns if taken is not None and (turn := taken()) is not None]

    def _vacant(self) -> int | None:
        return next((number for number, turn in enumerate(self._turns) if turn is None or turn() is None), None)

    def require_own_process(self) -> None:
        """Raises `UsageError` in a forked child, which has none of the threads."""
        if self.inherited:
            raise UsageError(
                f"the handle was opened in process {self._process} and doesn't survive a fork: open the bundle in the child"
            )


class _Turn:
    """The use of a lane, which is free again when this ends or is lost."""

    __slots__ = ("__weakref__", "_count", "_pool", "deadline", "thread")

    def __init__(self, pool: InferencePool, count: int) -> None:
        self._pool, self._count = pool, count

    def begin(self) -> None:
        """The lane is there: from now on the inference has its time."""
        self.thread = threading.get_ident()
        self.deadline = time.monotonic() + INFERENCE_PATIENCE_S + CROP_PATIENCE_S * self._count

    def __enter__(self) -> int:
        return self._pool.take_lane(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.give_back(self)
