"""`ThreadPool`, and work spread over its threads: `parallel_map` over parts of one frame, `ordered_map` over many items."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import pairwise
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from blastscope.runtime.errors import Closed
from blastscope.runtime.io.cpu_info import usable_threads

T = TypeVar("T")
R = TypeVar("R")
Item = TypeVar("Item")

AT_EXIT_S = 10.0  # that a process waits at its end for a job that hangs
SPREAD_PIXELS = 600_000  # fewer are seen by one thread before a second one has started
AHEAD = 32  # items a worker may be ahead of the consumer: answers are small, and one slow file must not stop the others


class ThreadPool:
    """At most `count` threads that take up jobs in their order.

    `concurrent.futures` has the same, but takes no job once the main thread has ended, though other threads of the program may
    go on. What was handed over is finished when the process ends; a job that hangs then is left behind after 10 seconds.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end_forgotten, self._jobs, self._threads)

    def submit(self, function: Callable[..., R], *args: Any) -> Future[R]:
        """The future of a call in one of the threads.

        Parameters
        ----------
        function : callable
            What is called.
        *args
            With which arguments.

        Returns
        -------
        Future

        Raises
        ------
        Closed
            The pool is closed, or no thread can be begun any more.
        """
        job = _Job(function, args)
        with self._lock:
            if not self._end.alive:
                raise Closed("the threads have ended: the handle is closed, or the process ends")
            self._threads[:] = [thread for thread in self._threads if thread.is_alive()]  # which began, and in this process
            if len(self._threads) < self._count:
                self._begin_thread()
            self._jobs.put(job)
        return job.future

    def map(self, function: Callable[..., R], *items: Iterable[Any]) -> list[R]:
        """The results of calls in the threads, in order. The first that fails, in that order, raises here.

        Parameters
        ----------
        function : callable
            What is called.
        *items : iterables of one length
            One iterable for each argument.

        Returns
        -------
        list
        """
        jobs = [self.submit(function, *args) for args in zip(*items, strict=True)]
        try:
            return [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()

    def close(self, timeout: float | None = None) -> bool:
        """Takes no more jobs, and waits for the others. Safe to call twice.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            False when time was up.
        """
        with self._lock:
            if self._end.detach():
                _dismiss(self._jobs, self._threads)
        return _joined(self._threads, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _begin_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        # daemons, so that idle ones don't keep the process from ending: `_end_forgotten` waits for the others
        thread = threading.Thread(target=_serve, args=(self._jobs,), name=name, daemon=True)
        self._threads.append(thread)  # before it runs: every thread that runs must be dismissed
        try:
            thread.start()
        except RuntimeError as error:  # the process ends, or may have no more threads
            self._threads.remove(thread)
            if not self._threads:
                raise Closed(f"no thread can be begun: {error}") from error


class _Job:
    """A call that waits for a thread."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.future: Future[Any] = Future()
        self._function, self._args = function, args

    def run(self) -> None:
        future = self.future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self._function(*self._args)
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to whoever waits for the result
            future.set_exception(error)
            del self, future  # the error keeps this frame, which would keep the error
        else:
            future.set_result(result)


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # a thread that waits keeps nothing of the last job


def _dismiss(jobs: SimpleQueue[_Job | None], threads: Sequence[threading.Thread]) -> None:
    for _ in threads:
        jobs.put(None)


def _end_forgotten(jobs: SimpleQueue[_Job | None], threads: Sequence[threading.Thread]) -> None:
    """Ends the threads of a pool that was collected, or that is still there when the process ends."""
    _dismiss(jobs, threads)
    if not threading.main_thread().is_alive():
        _joined(threads, AT_EXIT_S)


def _joined(threads: Sequence[threading.Thread], timeout: float | None) -> bool:
    """Whether all `threads` ended in time."""
    until = None if timeout is None else time.monotonic() + timeout
    for thread in threads:
        # a pool may be closed by a job of its own; and nothing runs any more once the interpreter is taken down
        if thread.ident not in (None, threading.get_ident()) and not sys.is_finalizing():
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
            if thread.is_alive():
                return False
    return True


def threads_for(pixels: int, threads: int | None) -> int | None:
    """How many of `threads`, None for as many as may be, are worth it for so many pixels."""
    return threads if pixels > SPREAD_PIXELS else 1


def parallel_map(function: Callable[[Item], object], items: Sequence[Item], threads: int | None = None) -> None:
    """Calls a function with each item, on several threads, each with one share of the items; waits for all.

    Worth it where an item is a few long steps of OpenCV's, which lets go of Python's lock. Of many short ones it is slower.

    Parameters
    ----------
    function : callable
        Takes an item; what it returns is dropped.
    items : sequence
        The items.
    threads : int, optional
        At most so many; by default as many as the process may use.
    """
    workers = max(min(threads or usable_threads(), len(items)), 1)
    ends = [len(items) * worker // workers for worker in range(workers + 1)]
    shares = [items[first:end] for first, end in pairwise(ends)]

    def work(share: Sequence[Item]) -> None:
        for item in share:
            function(item)

    if workers == 1:
        return work(shares[0])
    # handing out single items cost what the second thread gained
    with ThreadPool(workers - 1, "blastscope-strips") as pool:
        others = [pool.submit(work, share) for share in shares[1:]]
        work(shares[0])
        for other in others:
            other.result()


def row_strips(rows: slice, height: int) -> list[slice]:
    """`rows`, in strips of so many, at least one, and what is left."""
    step = max(height, 1)
    return [slice(top, min(top + step, rows.stop)) for top in range(rows.start, rows.stop, step)]


class Allowance:
    """So much of something, memory say, that several threads share: whoever wants more than is left waits."""

    def __init__(self, whole: int) -> None:
        self._whole = self._left = whole
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Holds so much of it. Who wants more than there is gets all of it, and is alone."""
        amount = min(amount, self._whole)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


class SingleThread:
    """Runs functions of several threads in one thread of its own, one after the other.

    For steps that fill much memory for a short time: no two do it at once, and what was freed, which the allocator keeps for
    the thread that freed it, is kept once. The thread begins with the first step, and ends when nobody holds this any more.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPool(1, name)

    def run(self, function: Callable[[], R]) -> R:
        """`function()`, once its turn has come."""
        return self._pool.submit(function).result()


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, leave: Callable[[], object] | None = None
) -> Iterator[tuple[T, R]]:
    """Each item with the result for it, in the order given, computed by several threads.

    `items` is read in the caller's thread while the work goes, at most `AHEAD` times `workers` items ahead, so that memory
    doesn't grow with their number. Leaving early drops what hasn't begun and waits for what has.

    Parameters
    ----------
    function : callable
        Takes an item. What it raises is raised at that item's turn.
    items : iterable
        The items.
    workers : int
        How many threads.
    leave : callable, optional
        Is called before an early end, and may shorten the wait for what has begun.

    Yields
    ------
    (item, result)
    """
    line: deque[tuple[T, Future[R]]] = deque()
    with ThreadPool(workers, "blastscope-files") as pool:
        try:
            for item in items:
                line.append((item, pool.submit(function, item)))
                while line and (len(line) >= AHEAD * workers or line[0][1].done()):
                    yield _result(line)
            while line:
                yield _result(line)
        except BaseException:
            if leave:
                leave()
            raise
        finally:
            for _, future in line:
                future.cancel()


def _result(line: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    item, future = line.popleft()
    return item, future.result()


def keeping(owner: object, items: Iterator[T]) -> Iterator[T]:
    """`items`, by an iterator that keeps `owner` alive until its end."""
    yield from items
