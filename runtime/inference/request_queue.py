"""`RequestQueue`: what was submitted, until a thread of an `InferencePool` answers it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blastscope.runtime.errors import Closed, UsageError
from blastscope.runtime.inference.worker_pool import CALLBACK_PATIENCE_S, HUNG, ActiveCall, InferencePool
from blastscope.runtime.types import Prediction

PredictBatch = Callable[[Sequence[Any]], list[Prediction]]


@dataclass(slots=True, eq=False)
class _Waiting:
    """An image that waits for its answer.

    Attributes
    ----------
    item : object
        A crop, or an image for an engine that crops by itself.
    future : Future of Prediction
        The answer.
    call : ActiveCall
        Ends when the item is answered.
    """

    item: Any
    future: Future[Prediction]
    call: ActiveCall


def answered(prediction: Prediction) -> Future[Prediction]:
    """A future that is done: it has its answer already."""
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
        self._answering: dict[int, list[_Waiting]] = {}  # by thread, what it is at
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
        self._answering[threading.get_ident()] = taken
        try:
            answers = self._predict_batch([waiting.item for waiting in wanted]) if wanted else []
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to those who wait for the answers
            failure = error
        finally:
            self._answering.pop(threading.get_ident(), None)
        self._end(taken)  # before the futures are told: a callback may close the handle
        self._tell(wanted, answers, failure)

    def _tell(self, wanted: Sequence[_Waiting], answers: Sequence[Prediction], failure: BaseException | None) -> None:
        thread = threading.get_ident()
        try:
            for number, item in enumerate(wanted):
                self._telling[thread] = time.monotonic()
                with suppress(InvalidStateError):  # it was cancelled, or given up and told so
                    if failure is not None:
                        item.future.set_exception(failure)
                    else:
                        item.future.set_result(answers[number])
        finally:
            self._telling.pop(thread, None)

    def _give_up(self) -> None:
        """Fails those whose inference hangs, and those who wait where every thread that could answer them hangs."""
        long_ago = time.monotonic() - CALLBACK_PATIENCE_S
        in_callbacks = sum(since < long_ago for since in list(self._telling.values()))
        inferring = [thread for thread in self._lanes.hanging() if thread in self._answering]
        self._given_up([item for thread in inferring for item in self._answering.pop(thread, [])], HUNG)
        if in_callbacks + len(inferring) < len(self._lanes.engine.lanes):
            return
        with self._lock:
            taken = list(self._line)
            self._line.clear()
        why = "the handle was closed while a future's callback hung, and with it the thread that would have answered"
        self._end(taken)
        self._given_up([item for item in taken if item.future.set_running_or_notify_cancel()], why if in_callbacks else HUNG)

    def _given_up(self, lost: Sequence[_Waiting], why: str) -> None:
        if not lost:
            return
        self._end(lost)
        # in a thread of its own: these futures may have the same callback
        threading.Thread(target=self._tell, args=(lost, [], Closed(why)), name="blastscope-give-up", daemon=True).start()

    def _end(self, taken: Sequence[_Waiting]) -> None:
        for waiting in taken:
            self._lanes.leave(waiting.call)
