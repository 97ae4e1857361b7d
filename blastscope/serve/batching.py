"""`Batcher`: items of many requests and connections, answered in batches by a few threads.

The queue is bounded, and the requests in it take turns item by item, so that one with a hundred images doesn't hold up one with
a single image. A batch leaves when it is full, or when its oldest item has waited for `delay_s`. A thread that has answered a
batch takes the next one that is due by itself: it would stand idle while the event loop, which is busy with requests, handed it
one. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
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


_Taken = tuple[_Request, int, Any]  # an item with its request, and its number there


class Batcher:
    """Answers items through `run`, which is called in at most `workers` threads with at most `batch` items."""

    def __init__(
        self, run: Run, *, workers: int, batch: int, delay_s: float, limit: int, observe: Observe = lambda _name, _figure: None
    ) -> None:
        self._run, self._workers, self._batch, self._delay_s, self._limit = run, workers, batch, delay_s, limit
        self._observe = observe
        self._lock = threading.Lock()  # of the requests, of `_busy` and of `waiting`, which the threads look at too
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
        with self._lock:
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
        with self._lock:
            self.waiting -= len(request.items)
            if request.items:
                request.items.clear()
                self._requests.remove(request)

    def _dispatch(self) -> None:
        """Starts as many batches as are due and as threads are free."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if not self._requests or self._busy == self._workers:
                    return
                early_s = self._early_s()
                if early_s > 0:
                    self._timer = loop.call_later(early_s, self._dispatch)
                    return
                self._busy += 1
                taken = self._take()
            self._threads.submit(self._work, loop, taken)

    def _early_s(self) -> float:
        """How long it is until a batch is due, where items wait."""
        if self.waiting >= self._batch:
            return 0.0
        return self._requests[0].since + self._delay_s - time.monotonic()

    def _take(self) -> list[_Taken]:
        taken: list[_Taken] = []
        now = time.monotonic()
        while self._requests and len(taken) < self._batch:
            request = self._requests.popleft()
            taken.append((request, *request.items.popleft()))
            self._observe("queue_seconds", now - request.since)
            if request.items:
                self._requests.append(request)  # behind the others
        self.waiting -= len(taken)
        return taken

    def _work(self, loop: asyncio.AbstractEventLoop, taken: list[_Taken]) -> None:
        """Answers `taken` and then, as long as batches are due, the next ones, in a thread."""
        while taken:
            outcome = self._outcome([item for _, _, item in taken])
            with self._lock:
                following = self._take() if self._requests and self._early_s() <= 0 else []
                self._busy -= not following
            loop.call_soon_threadsafe(self._tell, taken, outcome, not following)
            taken = following

    def _outcome(self, items: Sequence[Any]) -> list[Any] | BaseException:
        self._observe("batch_items", len(items))
        begun = time.monotonic()
        try:
            answers = self._run(items)
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to those who wait
            return error
        self._observe("compute_seconds", time.monotonic() - begun)
        return answers

    def _tell(self, taken: Sequence[_Taken], outcome: list[Any] | BaseException, last: bool) -> None:
        """Tells the requests of a batch, and looks for more to do where its thread found none that was due."""
        if isinstance(outcome, BaseException):
            self._fail({request for request, _, _ in taken}, outcome)
        else:
            for (request, number, _), answer in zip(taken, outcome, strict=True):
                request.answers[number] = answer
                request.missing -= 1
                if not request.missing and not request.done.done():
                    request.done.set_result(request.answers)
        if last:
            self._dispatch()

    def _fail(self, requests: set[_Request], error: BaseException) -> None:
        if isinstance(error, DeviceLost):
            self.lost = error
        told = RequestError(Code.INTERNAL, f"the work broke off: {type(error).__name__}, see the server's log")
        if isinstance(error, BlastscopeError):
            told = RequestError(Code.UNAVAILABLE, str(error))
        LOG.error("a batch failed", exc_info=error)
        for request in requests:
            if not request.done.done():
                request.done.set_exception(told)
