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
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import BatchResult, Cascade, Engine
from blastscope.runtime.errors import Closed, EngineError, UsageError
from blastscope.runtime.io.concurrency import ThreadPool
from blastscope.runtime.types import Prediction

T = TypeVar("T")
R = TypeVar("R")

LOOK_S = 0.25  # after which whoever waits looks again: what a broken-off call leaves tells nobody
CALLBACK_PATIENCE_S = 30.0  # for a future's callback, when the handle closes
LOG = logging.getLogger(__name__)


class Call:
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
        self._calls: dict[int, weakref.ref[Call]] = {}
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
        with _Turn(self) as number:
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
        with _Turn(self) as number:
            return self.engine.image_input.lanes[number].infer_images(images)

    def take_lane(self, turn: _Turn) -> int:
        """The number of a lane that is `turn`'s until `give_back`, waiting for a free one."""
        with self._lock:
            while (number := self._vacant()) is None:
                self._lane_freed.wait(LOOK_S)
            self._turns[number] = weakref.ref(turn)
        return number

    def give_back(self, turn: _Turn) -> None:
        """Ends a turn."""
        with self._lock:
            for number, taken in enumerate(self._turns):
                if taken is not None and taken() is turn:
                    self._turns[number] = None
            self._lane_freed.notify()

    def call(self) -> Call:
        """Holds the lanes open meanwhile, as a context manager. Raises `Closed`, and `UsageError` in a forked child."""
        return Call(self)

    def enter(self) -> Call:
        """Begins a call, which lasts until `leave` and no longer than the object lives. Raises as `call`."""
        call = Call(self)
        self.begin(call)
        return call

    def begin(self, call: Call) -> None:
        """Begins `call`."""
        self._require_own_process()
        with self._lock:
            if self._closing:
                raise Closed
            self._calls[id(call)] = weakref.ref(call)
            self.begun += 1

    def leave(self, call: Call) -> None:
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
        """Waits for the calls under way and frees the engine; in a future's callback without waiting. Safe to call twice."""
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
            while self.busy:
                self._state.wait(LOOK_S)
                self.while_closing()
            threads, self._threads, self._closed = self._threads, None, True
        if threads and not threads.close(CALLBACK_PATIENCE_S):
            LOG.warning("a future's callback hasn't returned for %.0f s: its thread is left behind", CALLBACK_PATIENCE_S)
        self.engine.close()

    def _mark_and_run(self, function: Callable[[], None]) -> None:
        self._here.works = True
        function()

    def _vacant(self) -> int | None:
        return next((number for number, turn in enumerate(self._turns) if turn is None or turn() is None), None)

    def _require_own_process(self) -> None:
        if self.inherited:
            raise UsageError(
                f"the handle was opened in process {self._process} and doesn't survive a fork: open the bundle in the child"
            )


class _Turn:
    """The use of a lane, which is free again when this ends or is lost."""

    __slots__ = ("__weakref__", "_pool")

    def __init__(self, pool: InferencePool) -> None:
        self._pool = pool

    def __enter__(self) -> int:
        return self._pool.take_lane(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.give_back(self)


PredictBatch = Callable[[Sequence[Any]], list[Prediction]]


@dataclass(slots=True, eq=False)
class _Waiting:
    item: Any  # a crop, or an image for an engine that crops by itself
    future: Future[Prediction]
    call: Call  # ends when the item is answered


def answered(prediction: Prediction) -> Future[Prediction]:
    """The future of what is known already."""
    future: Future[Prediction] = Future()
    future.set_result(prediction)
    return future


class RequestQueue:
    """Room for `limit` items. `decide` answers a few of them, and is called in the threads of `lanes`."""

    def __init__(self, lanes: InferencePool, predict_batch: PredictBatch, limit: int) -> None:
        self._lanes = lanes
        self._predict_batch = predict_batch
        self._limit = limit
        self._line: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._telling: dict[int, float] = {}  # threads that are in futures' callbacks, and since when
        lanes.while_closing = self._give_up

    def put(self, item: Any) -> Future[Prediction]:
        """The future of the answer. Waits while the room is full. Raises `Closed`.

        In a thread of `lanes`, where futures' callbacks run, it might wait for itself: there it raises `UsageError` instead.
        """
        while True:
            waiting = _Waiting(item, Future(), self._lanes.enter())
            try:
                with self._lock:
                    there_is_room = len(self._line) < self._limit
                    if there_is_room:
                        self._line.append(waiting)
                if there_is_room:
                    self._lanes.start(self._answer_some)
                    return waiting.future
            except BaseException:
                self._withdraw(waiting)
                raise
            self._lanes.leave(waiting.call)
            if self._lanes.works_here:
                raise UsageError(
                    f"{self._limit} images wait, and a future's callback can't wait for room: it would wait for itself; hand "
                    "over fewer, open the bundle with a larger queue, or submit from a thread of your own"
                )
            self._lanes.wait_until(lambda: len(self._line) < self._limit)

    def _withdraw(self, waiting: _Waiting) -> None:
        """Takes back what nobody will ask for, unless it is being answered already."""
        with self._lock:
            if waiting in self._line:
                self._line.remove(waiting)
        self._lanes.leave(waiting.call)

    def _answer_some(self) -> None:
        """Answers those at the head of the line; there may be none left, when another thread took them along."""
        with self._lock:
            taken = [self._line.popleft() for _ in range(min(self._lanes.engine.batch, len(self._line)))]
        if not taken:
            return
        self._lanes.wake()
        wanted = [item for item in taken if item.future.set_running_or_notify_cancel()]
        answers: list[Prediction] = []
        failure: BaseException | None = None
        try:
            answers = self._predict_batch([waiting.item for waiting in wanted]) if wanted else []
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to those who wait for the answers
            failure = error
        self._end(taken)  # before the futures are told: a callback may close the handle
        self._tell(wanted, answers, failure)

    def _tell(self, wanted: Sequence[_Waiting], answers: Sequence[Prediction], failure: BaseException | None) -> None:
        thread = threading.get_ident()
        try:
            for number, item in enumerate(wanted):
                self._telling[thread] = time.monotonic()
                if failure is not None:
                    item.future.set_exception(failure)
                else:
                    item.future.set_result(answers[number])
        finally:
            self._telling.pop(thread, None)

    def _give_up(self) -> None:
        """Fails those who wait where every thread that could answer them is in a callback that doesn't return."""
        long_ago = time.monotonic() - CALLBACK_PATIENCE_S
        if sum(since < long_ago for since in list(self._telling.values())) < len(self._lanes.engine.lanes):
            return
        with self._lock:
            taken = list(self._line)
            self._line.clear()
        self._end(taken)
        error = Closed("the handle was closed while a future's callback hung, and with it the thread that would have answered")
        wanted = [item for item in taken if item.future.set_running_or_notify_cancel()]
        # in a thread of its own: these futures may have the same callback
        threading.Thread(target=self._tell, args=(wanted, [], error), name="blastscope-give-up", daemon=True).start()

    def _end(self, taken: Sequence[_Waiting]) -> None:
        for waiting in taken:
            self._lanes.leave(waiting.call)
