"""`Batcher`: items of many requests and connections, answered in batches by a few threads.

The queue is bounded, and the requests in it take turns item by item, so that one with a hundred images doesn't hold up one with
a single image. A batch leaves when it is full, or when its oldest item has waited for `delay_s`. Where more items wait than one
batch for each thread, each thread takes its share of them, up to `most`. Threads take what is due by themselves: they would
stand idle while an event loop, which is busy with requests, handed it to them. Whoever waits, in an event loop or in a thread,
is woken once, when all of a request's items are answered.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from blastscope.runtime.errors import BlastscopeError, DeviceLost
from blastscope.serve.tensors import ClientGone, Code, RequestError

LOG = logging.getLogger(__name__)
Run = Callable[[Sequence[Any]], list[Any]]
OnGone = Callable[[Callable[[], object]], bool]  # has a function called when the client goes away; False: it has gone
Observe = Callable[[str, float], object]  # takes 'queue_seconds', 'batch_items' or 'compute_seconds', and the figure


@dataclass(slots=True, eq=False)
class _Request:
    items: deque[tuple[int, Any]]  # those that no batch has taken yet, with their numbers
    answers: list[Any]
    missing: int
    wake: Callable[[], object]  # tells whoever waits that it is answered, or has failed
    error: RequestError | None = None
    since: float = field(default_factory=time.monotonic)

    def outcome(self) -> list[Any]:
        """The answers. Raises what went wrong."""
        if self.error:
            raise self.error
        return self.answers


_Taken = tuple[_Request, int, Any]  # an item with its request, and its number there


class Batcher:
    """Answers items through `run`, which is called in at most `workers` threads with a few items. Thread-safe.

    Parameters
    ----------
    run : callable
        Takes items, and gives an answer for each.
    workers : int
        How many threads call it.
    batch : int
        How many items it likes to get: fewer leave only when the oldest has waited for `delay_s`.
    delay_s : float
        Seconds, see `batch`.
    limit : int
        How many items may wait.
    most : int
        How many items it gets at once where many wait.
    observe : callable
        Is told figures.
    """

    def __init__(
        self,
        run: Run,
        *,
        workers: int,
        batch: int,
        delay_s: float,
        limit: int,
        most: int = 1,
        observe: Observe = lambda _name, _figure: None,
    ) -> None:
        self._run, self._workers, self._batch, self._delay_s, self._limit = run, workers, batch, delay_s, limit
        self._most, self._observe = most, observe
        self._changed = threading.Condition()  # of what follows
        self._requests: deque[_Request] = deque()  # that have items which no batch has taken yet
        self._busy = 0
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.waiting = 0  # items that no batch has taken yet
        self.lost: DeviceLost | None = None  # the device broke down: nothing here answers any more

    async def submit(self, items: Sequence[Any], timeout_s: float) -> list[Any]:
        """The answers, in order. Where the caller is cancelled, or time is over, what no batch has taken yet is dropped.

        Raises
        ------
        RequestError
            The queue is full, time is over, or the work failed.
        """
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(done.set)

        request = self._put(items, wake)
        try:
            async with asyncio.timeout(timeout_s):
                if items:
                    await done.wait()
        except TimeoutError as error:
            raise _late(timeout_s) from error
        finally:
            self._withdraw(request)
        return request.outcome()

    def answer(self, items: Sequence[Any], timeout_s: float, on_gone: OnGone) -> list[Any]:
        """The same for a thread, which waits. Raises `ClientGone` where the client went away meanwhile."""
        woken: SimpleQueue[bool] = SimpleQueue()
        request = self._put(items, lambda: woken.put(True))
        try:
            if not on_gone(lambda: woken.put(False)):
                raise ClientGone
            if items and not woken.get(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX)):
                raise ClientGone
        except Empty as error:
            raise _late(timeout_s) from error
        finally:
            self._withdraw(request)
        return request.outcome()

    async def close(self) -> None:
        """Ends the threads, once nothing is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _put(self, items: Sequence[Any], wake: Callable[[], object]) -> _Request:
        request = _Request(deque(enumerate(items)), [None] * len(items), len(items), wake)
        if not items:
            return request
        with self._changed:
            if self.waiting + len(items) > self._limit:
                detail = f"{self.waiting} images wait, and {self._limit} may: try again later, or send fewer"
                raise RequestError(Code.BUSY, detail)
            self._requests.append(request)
            self.waiting += len(items)
            if not self._threads:
                # daemons, so that those of a server that was forgotten don't keep the process from ending
                names = [f"blastscope-serve-{number}" for number in range(self._workers)]
                self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
                for thread in self._threads:
                    thread.start()
            self._changed.notify()
        return request

    def _withdraw(self, request: _Request) -> None:
        with self._changed:
            self.waiting -= len(request.items)
            if request.items:
                request.items.clear()
                self._requests.remove(request)

    def _work(self) -> None:
        """Answers batches as they become due, in a thread."""
        while taken := self._next_batch():
            outcome = self._outcome([item for _, _, item in taken])
            with self._changed:
                self._busy -= 1
                done = self._settle(taken, outcome)
            for request in done:
                request.wake()
            del taken, outcome, done  # a thread that waits keeps nothing of the last batch

    def _next_batch(self) -> list[_Taken]:
        """The next batch, once it is due; nothing when the threads are to end."""
        with self._changed:
            while not self._closed:
                early_s = self._early_s() if self._requests else None
                if early_s is not None and early_s <= 0:
                    self._busy += 1
                    taken = self._take()
                    if self._requests:  # perhaps enough for another thread
                        self._changed.notify()
                    return taken
                self._changed.wait(early_s)
        return []

    def _early_s(self) -> float:
        """How long it is until a batch is due, where items wait."""
        if self.waiting >= self._batch:
            return 0.0
        return self._requests[0].since + self._delay_s - time.monotonic()

    def _take(self) -> list[_Taken]:
        taken: list[_Taken] = []
        now = time.monotonic()
        size = max(self._batch, min(self._most, -(-self.waiting // self._workers)))
        while self._requests and len(taken) < size:
            request = self._requests.popleft()
            taken.append((request, *request.items.popleft()))
            self._observe("queue_seconds", now - request.since)
            if request.items:
                self._requests.append(request)  # behind the others
        self.waiting -= len(taken)
        return taken

    def _outcome(self, items: Sequence[Any]) -> list[Any] | BaseException:
        self._observe("batch_items", len(items))
        begun = time.monotonic()
        try:
            answers = self._run(items)
        except BaseException as error:
            LOG.error("a batch failed", exc_info=error)
            return error
        self._observe("compute_seconds", time.monotonic() - begun)
        return answers

    def _settle(self, taken: Sequence[_Taken], outcome: list[Any] | BaseException) -> list[_Request]:
        """Notes the answers of a batch, or why there are none; gives the requests that nothing is missing of any more."""
        if isinstance(outcome, BaseException):
            error = self._told(outcome)
            failed = list(dict.fromkeys(request for request, _, _ in taken))
            for request in failed:
                request.error = error
            return failed
        done = []
        for (request, number, _), answer in zip(taken, outcome, strict=True):
            request.answers[number] = answer
            request.missing -= 1
            if not request.missing:
                done.append(request)
        return done

    def _told(self, error: BaseException) -> RequestError:
        if isinstance(error, DeviceLost):
            self.lost = error
        if isinstance(error, BlastscopeError):
            return RequestError(Code.UNAVAILABLE, str(error))
        return RequestError(Code.INTERNAL, f"the work broke off: {type(error).__name__}, see the server's log")


def _late(timeout_s: float) -> RequestError:
    return RequestError(Code.DEADLINE, f"no answer within {timeout_s:.3g} seconds: the server is busy")
