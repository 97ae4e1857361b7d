"""`BoundedQueue` between two threads, and `Frame`, what a stream carries.

`Frame`: one picture on its way through a stream, with what its sender wants to find again in the report.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from blastscope.runtime.errors import Closed, ImageError, UsageError
from blastscope.runtime.io.image import check_array
from blastscope.runtime.types import Refusal

T = TypeVar("T")


class BoundedQueue(Generic[T]):
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

    def put(self, item: T, *, may_wait: bool = True) -> list[T]:
        """Adds `item`, and gives back what had to give way. Without leave to drop it waits for room.

        Raises `Closed`, and `UsageError` where it had to wait and mustn't.
        """
        with self._state:
            if not self._drops_oldest:
                if self.full and not may_wait and not self._ended:
                    raise UsageError("a stream's callback can't wait for room in the stream: it would wait for itself")
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


FrameId = int | str


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture with its id and metadata, which come back with the report. Without an id it gets its number, from 0.

    In place of pixels a source may give the `Refusal` that says why there are none, such as that of a damaged file.
    """

    pixels: Any  # (H, W, 3) uint8 RGB
    id: FrameId | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def as_frame(item: object) -> Frame:
    """What a source gave, an array, an array with its metadata, or a `Frame`, as a frame."""
    if isinstance(item, Frame):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        return Frame(item[0], metadata=item[1])
    return Frame(item)


def own(frame: Frame) -> Frame:
    """The frame with a copy of its pixels, so that a camera may use its buffer again; a refusal in place of what are none.

    A device array stays what and where it is.
    """
    pixels = frame.pixels
    if isinstance(pixels, Refusal) or (hasattr(pixels, "__cuda_array_interface__") and not isinstance(pixels, np.ndarray)):
        return frame
    try:
        return replace(frame, pixels=np.array(check_array(pixels), order="C"))
    except ImageError as error:
        return replace(frame, pixels=Refusal("not-8-bit-rgb", str(error)))
