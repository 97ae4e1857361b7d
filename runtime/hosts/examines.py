"""`Examines`: all that a host program wants of a handle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.report import FrameReport
from blastscope.runtime.frames.spec import FrameSpec


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
