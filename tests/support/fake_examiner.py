"""Stand-ins for a stream's networks, and for who listens to it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.streaming.frame_queue import StreamStats

PATIENCE_S = 30.0


def pixels(value: int, side: int = 4) -> NDArray[np.uint8]:
    return np.full((side, side, 3), value, np.uint8)


def look(frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
    """A report whose metadata is to be replaced by the frame's."""
    return FrameReport((), None, metadata={"mean": int(frame.mean())})


class Eye:
    """Examines when it is let, and remembers what it saw."""

    def __init__(self, *, held: bool = False) -> None:
        self.seen: list[int] = []
        self.began = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.held = held

    def __call__(self, frame: Any, *, metadata: Mapping[str, Any]) -> FrameReport:
        self.began.release()
        if self.held:
            assert self.gate.acquire(timeout=PATIENCE_S)
        value = int(frame[0, 0, 0])
        if "raise" in metadata:
            raise metadata["raise"]
        self.seen.append(value)
        return FrameReport((), None)

    def let(self, count: int = 1) -> None:
        self.gate.release(count)

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.began.acquire(timeout=PATIENCE_S)


class Reports(list[FrameReport]):
    """A consumer."""

    def __call__(self, report: FrameReport) -> None:
        self.append(report)

    @property
    def ids(self) -> list[int | str | None]:
        return [report.id for report in self]


def stream_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("blastscope-stream")}


def balanced(stats: StreamStats) -> bool:
    return stats.taken == stats.reported + stats.dropped + stats.waiting
