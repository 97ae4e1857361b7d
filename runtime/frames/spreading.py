"""`spread`: work on many strips of one frame, on all the cores that the process may use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from blastscope.runtime.device import usable_threads

T = TypeVar("T")
R = TypeVar("R")


def spread(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> list[R]:
    """`function` of each item, in order, on at most `threads` threads, or as many as the process may use.

    Worth it where each item is a few long steps of OpenCV's, which lets go of Python's lock. Of many short ones it is slower.
    """
    items = list(items)
    workers = min(threads or usable_threads(), len(items)) if len(items) > 1 else 1
    if workers == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers, "blastscope-strips") as pool:
        return list(pool.map(function, items))
