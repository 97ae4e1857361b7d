"""OpenVINO for a bundle's detector, whose pictures have any size."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.openvino.infer_request import core, library, translate_errors
from blastscope.runtime.errors import EngineError

NAME = "openvino"


class DetectorNetwork:
    """A compiled detector. Many threads may use it; each has a request of its own while it is at work."""

    name = NAME

    def __init__(self, compiled: Any) -> None:
        self._compiled: Any | None = compiled
        self._idle: deque[Any] = deque()

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (10, H / 8, W / 8) of `picture` (H, W, 3) RGB, H and W multiples of 32. Raises `EngineError`."""
        compiled = self._compiled
        if compiled is None:
            raise EngineError("openvino: the detector is closed")
        with translate_errors("detection"):
            try:
                request = self._idle.pop()
            except IndexError:
                request = compiled.create_infer_request()
            given = library().Tensor(np.ascontiguousarray(picture)[None], shared_memory=True)
            request.infer({0: given})
            maps = np.array(request.get_output_tensor(0).data[0], np.float32)
        self._idle.append(request)  # one whose run broke off is not used again
        return maps

    def close(self) -> None:
        """Frees the network. Safe to call twice."""
        self._compiled = None
        self._idle.clear()


def open_detector(content: bytes, graph: Path, *, threads: int) -> DetectorNetwork:
    """The detector in `content`, the verified bytes of the file `graph`. Raises `EngineError`, `MissingLibrary`."""
    with translate_errors(f"'{graph}'"):
        model = core().read_model(content)
        model.reshape({"pictures": [1, -1, -1, 3]})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        return DetectorNetwork(core().compile_model(model, "CPU", settings))
