"""`FrameExaminer` and `StreamFactory`: what an integration needs of a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.types import FrameReport, FrameSpecification
from blastscope.runtime.streaming.stream import Stream


class FrameExaminer(Protocol):
    """What makes a report of a frame, as `Scope` does."""

    def examine(
        self,
        frame: NDArray[np.uint8],
        *,
        pixel_um: float | None = None,
        stated_um: float | None = None,
        spec: FrameSpecification | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> FrameReport:
        """The report on `frame` (H, W, 3) uint8 RGB."""
        ...


class StreamFactory(Protocol):
    """What examines frames as they come, as `Scope` does. Its streams tell what waits before it closes."""

    def stream(
        self,
        frames: None,
        on_report: Callable[[FrameReport], object],
        queue: int = 4,
        when_full: str = "drop-oldest",
        *,
        spec: FrameSpecification | None = None,
    ) -> Stream:
        """A stream whose frames come by `put`, and bring their scale as 'pixel_um' in their metadata."""
        ...
