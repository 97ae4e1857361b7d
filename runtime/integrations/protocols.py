"""`Examines` and `Streams`: all that a host program wants of a handle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import FrameReport, FrameSpec
from blastscope.runtime.streaming.stream import Stream


class Examines(Protocol):
    """What makes a report of a frame, as `Scope` does."""

    def examine(
        self,
        frame: NDArray[np.uint8],
        *,
        pixel_um: float | None = None,
        spec: FrameSpec | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        """The report on `frame` (H, W, 3) uint8 RGB."""
        ...


class Streams(Protocol):
    """What examines frames as they come, as `Scope` does. Its streams tell what waits before it closes."""

    def stream(
        self,
        frames: None,
        on_report: Callable[[FrameReport], object],
        queue: int = 4,
        when_full: str = "drop-oldest",
        *,
        spec: FrameSpec | None = None,
    ) -> Stream:
        """A stream whose frames come by `put`, and bring their scale as 'pixel_um' in their metadata."""
        ...
