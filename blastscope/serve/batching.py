"""`Batcher`: items of many requests and connections, answered in batches by a few threads.

The queue is bounded, and the requests in it take turns item by item, so that one with a hundred images doesn't hold up one with
a single image. A batch leaves when it is full, or when its oldest item has waited for `delay_s`. All methods belong to one
event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from blastscope.runtime.errors import BlastscopeError, DeviceLost
from blastscope.serve.tensors import Code, RequestError

LOG = logging.getLogger(__name__)
Run = Callable[[Sequence[Any]], list[Any]]
Observe = Callable[[str, float], object]  # takes 'queue_seconds', 'batch_items' or 'compute_seconds', and the figure


@dataclass(slots=True, eq=False)
class _Request:
    items: deque[tuple[int, Any]]  # those that no batch has taken yet, with their numbers
    answers: list[Any]
    missing: int
    done: asyncio.Future[list[Any]]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Answers items through `run`, which is called in at most `workers` threads with at most `batch` items."""

    def __init__(
        self, run: Run, *, workers: int, batch: int, delay_s: float, limit: int, observe: Observe = lambda _name, _figure: None
    ) -> None:
        self._run, self._workers, self._batch, self._delay_s, self._limit = run, workers, batch, delay_s, limit
        self._observe = observe
        self._requests: deque[_Request] = deque()
        self._busy = 0
        self._timer: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="blastscope-serve")
        self.waiting = 0  # items that no batch has taken yet
        self.lost: DeviceLost | None = None  # the device broke down: nothing here answers any more

    async def submit(self, items: Sequence[Any], timeout_s: float) -> list[Any]:
        """The answers, in order. Where the caller is cancelled, or time is over, what no batch has taken yet is dropped.

        Raises
        ------
        RequestError
            The queue is full, time is over, or the work failed.
        """
        if not items:
            return []
        if self.waiting + len(items) > self._limit:
            raise RequestError(Code.BUSY, f"{self.waiting} images wait, and {self._limit} may: try again later, or send fewer")
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        request = _Request(deque(enumerate(items)), [None] * len(items), len(items), done)
        self._requests.append(request)
        self.waiting += len(items)
        self._dispatch()
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError as error:
            raise RequestError(Code.DEADLINE, f"no answer within {timeout_s:.3g} seconds: the server is busy") from error
        finally:
            self._withdraw(request)

    async def close(self) -> None:
        """Ends the threads, once nothing is under way."""
        await asyncio.to_thread(self._threads.shutdown)

    def _withdraw(self, request: _Request) -> None:
        self.waiting -= len(request.items)
        if request.items:
            request.items.clear()
            self._requests.remove(request)

    def _dispatch(self) -> None:
        """Starts as many batches as are due and as threads are free."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._requests and self._busy < self._workers:
            early = self._requests[0].since + self._delay_s - time.monotonic()
            if self.waiting < self._batch and early > 0:
                self._timer = asyncio.get_running_loop().call_later(early, self._dispatch)
                return
            self._busy += 1
            task = asyncio.get_running_loop().create_task(self._answer(self._take()))
            task.add_done_callback(self._finished)

    def _take(self) -> list[tuple[_Request, int, Any]]:
        taken: list[tuple[_Request, int, Any]] = []
        now = time.monotonic()
        while self._requests and len(taken) < self._batch:
            request = self._requests.popleft()
            taken.append((request, *request.items.popleft()))
            self._observe("queue_seconds", now - request.since)
            if request.items:
                self._requests.append(request)  # behind the others
        self.waiting -= len(taken)
        return taken

    async def _answer(self, taken: Sequence[tuple[_Request, int, Any]]) -> None:
        self._observe("batch_items", len(taken))
        begun = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._threads, self._run, [item for _, _, item in taken])
        except Exception as error:  # noqa: BLE001 whatever it is, it belongs to those who wait
            self._fail({request for request, _, _ in taken}, error)
            return
        self._observe("compute_seconds", time.monotonic() - begun)
        for (request, number, _), answer in zip(taken, answers, strict=True):
            request.answers[number] = answer
            request.missing -= 1
            if not request.missing and not request.done.done():
                request.done.set_result(request.answers)

    def _fail(self, requests: set[_Request], error: Exception) -> None:
        if isinstance(error, DeviceLost):
            self.lost = error
        told = RequestError(Code.INTERNAL, f"the work broke off: {type(error).__name__}, see the server's log")
        if isinstance(error, BlastscopeError):
            told = RequestError(Code.UNAVAILABLE, str(error))
        LOG.error("a batch failed", exc_info=error)
        for request in requests:
            if not request.done.done():
                request.done.set_exception(told)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._busy -= 1
        task.result()
        self._dispatch()
