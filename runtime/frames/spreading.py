"""`spread`: work on many strips of one frame, on all the cores that the process may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

from blastscope.runtime.device import usable_threads

SPREAD_PIXELS = 600_000  # fewer are seen by one thread before a second one has started

T = TypeVar("T")


def threads_for(pixels: int, threads: int | None) -> int | None:
    """How many of `threads`, None for as many as may be, are worth it for so many pixels."""
    return threads if pixels > SPREAD_PIXELS else 1


def spread(function: Callable[[T], object], items: Sequence[T], threads: int | None = None) -> None:
    """`function` of each item, on at most `threads` threads, or as many as the process may use; each has one share of them.

    Worth it where an item is a few long steps of OpenCV's, which lets go of Python's lock. Of many short ones it is slower.
    """
    workers = max(min(threads or usable_threads(), len(items)), 1)
    ends = [len(items) * worker // workers for worker in range(workers + 1)]
    shares = [items[first:end] for first, end in pairwise(ends)]

    def work(share: Sequence[T]) -> None:
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


def strips(rows: slice, height: int) -> list[slice]:
    """`rows`, in strips of so many, at least one, and what is left."""
    step = max(height, 1)
    return [slice(top, min(top + step, rows.stop)) for top in range(rows.start, rows.stop, step)]
