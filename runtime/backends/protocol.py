"""The three members that every inference engine shows to the runtime."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Backend(Protocol):
    """One loaded fused graph. Not thread-safe. Owns its memory until `close`; `infer` may reuse its output buffer."""

    name: str  # as in benchmark rows, such as 'openvino'

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3). Raises `EngineError`."""
        ...

    def close(self) -> None:
        """Frees what the backend holds. Safe to call twice."""
        ...
