"""`RequestQueue`: the bounded queue of submitted images, served in order, in batches where the engine prefers them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.types import Prediction

Decide = Callable[[Sequence[Any]], list[Prediction]]


class _Waiting(NamedTuple):
    item: Any  # a crop, or an image for an engine that crops by itself
    future: Future[Prediction]


class RequestQueue:
    """Room for `limit` items. `decide` answers a few of them, and is called in the threads of `lanes`."""

    def __init__(self, lanes: InferencePool, decide: Decide, limit: int) -> None:
        self._lanes = lanes
        self._decide = decide
        self._limit = limit
        self._line: deque[_Waiting] = deque()
        self._lock = threading.Lock()

    def put(self, item: Any) -> Future[Prediction]:
        """The future of the answer. Waits while the room is full. Raises `Closed`."""
        while True:
            self._lanes.enter()  # the call ends when the item is answered
            with self._lock:
                if len(self._line) < self._limit:
                    future: Future[Prediction] = Future()
                    self._line.append(_Waiting(item, future))
                    break
            self._lanes.leave()
            self._lanes.wait_until(lambda: len(self._line) < self._limit)
        self._lanes.start(self._answer_some)
        return future

    def _answer_some(self) -> None:
        """Answers those at the head of the line; there may be none left, when another thread took them along."""
        with self._lock:
            taken = [self._line.popleft() for _ in range(min(self._lanes.engine.batch, len(self._line)))]
        if not taken:
            return
        self._lanes.wake()
        wanted = [item for item in taken if item.future.set_running_or_notify_cancel()]
        try:
            answers = self._decide([waiting.item for waiting in wanted]) if wanted else []
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to those who wait for the answers
            self._end(taken)
            for item in wanted:
                item.future.set_exception(error)
            return
        self._end(taken)  # before the futures are told: a callback may close the handle
        for item, answer in zip(wanted, answers, strict=True):
            item.future.set_result(answer)

    def _end(self, taken: Sequence[_Waiting]) -> None:
        for _ in taken:
            self._lanes.leave()
