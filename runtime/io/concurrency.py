"""`parallel_map`: work on many strips of one frame, on all the cores that the process may use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

from blastscope.runtime.io.cpu_info import usable_threads

SPREAD_PIXELS = 600_000  # fewer are seen by one thread before a second one has started

Item = TypeVar("Item")


def threads_for(pixels: int, threads: int | None) -> int | None:
    """How many of `threads`, None for as many as may be, are worth it for so many pixels."""
    return threads if pixels > SPREAD_PIXELS else 1


def parallel_map(function: Callable[[Item], object], items: Sequence[Item], threads: int | None = None) -> None:
    """`function` of each item, on at most `threads` threads, or as many as the process may use; each has one share of them.

    Worth it where an item is a few long steps of OpenCV's, which lets go of Python's lock. Of many short ones it is slower.
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
    with ThreadPoolExecutor(workers - 1, "blastscope-strips") as pool:
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


T = TypeVar("T")
R = TypeVar("R")


class SingleThread:
    """Runs what several threads hand over in one thread of its own, one after the other.

    For steps that fill much memory for a short time: no two do it at once, and what was freed, which the allocator keeps for
    the thread that freed it, is kept once. The thread begins with the first step, and ends when nobody holds this any more.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)

    def run(self, function: Callable[[], R]) -> R:
        """`function()`, once its turn has come."""
        return self._pool.submit(function).result()


AHEAD = 32  # items a worker may be ahead of the consumer: answers are small, and one slow file must not stop the others


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, leave: Callable[[], object] | None = None
) -> Iterator[tuple[T, R]]:
    """Each item with `function` of it, in the order given, computed by `workers` threads.

    Reads `items` as it goes, in the caller's thread, and at most `AHEAD` times `workers` items ahead, so that memory doesn't
    grow with their number. What `function` raises is raised here at that item's turn. Leaving early drops what hasn't begun,
    and waits for what has: `leave`, which is called before, may shorten that.
    """
    line: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(workers, "blastscope-files") as pool:
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
