"""`Line`: room for a few things on their way from one thread to another."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from blastscope.runtime.errors import Closed

T = TypeVar("T")


class Line(Generic[T]):
    """Holds at most `limit` things, in their order. Whoever waits here sleeps."""

    def __init__(self, limit: int, *, drops_oldest: bool = False) -> None:
        self._limit, self._drops_oldest = limit, drops_oldest
        self._items: deque[T] = deque()
        self._state = threading.Condition()
        self._ended = False

    @property
    def full(self) -> bool:
        """Whether the next `put` has to wait, or drops something."""
        return len(self._items) >= self._limit

    def put(self, item: T) -> list[T]:
        """Adds `item`, and gives back what had to give way. Without leave to drop it waits for room. Raises `Closed`."""
        with self._state:
            if not self._drops_oldest:
                self._state.wait_for(lambda: self._ended or not self.full)
            if self._ended:
                raise Closed("the stream has stopped: start another")
            self._items.append(item)
            gone = [self._items.popleft() for _ in range(len(self._items) - self._limit)]
            self._state.notify_all()
        return gone

    def get(self) -> T | None:
        """The oldest thing, waiting for one; None once the line has ended and is empty."""
        with self._state:
            self._state.wait_for(lambda: self._ended or self._items)
            item = self._items.popleft() if self._items else None
            self._state.notify_all()
        return item

    def end(self, *, keep: bool = True) -> list[T]:
        """From now on `put` raises `Closed`. What waits can still be got; or is given back here, with `keep=False`."""
        with self._state:
            self._ended = True
            gone = [] if keep else list(self._items)
            if not keep:
                self._items.clear()
            self._state.notify_all()
        return gone
