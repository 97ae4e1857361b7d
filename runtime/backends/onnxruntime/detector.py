"""ONNX Runtime for a bundle's detector, whose pictures have any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.onnxruntime.cpu import load_onnxruntime, translate_errors
from blastscope.runtime.errors import EngineError

NAME = "onnxruntime"


class DetectorNetwork:
    """A session with a detector. Many threads may use it."""

    name = NAME

    def __init__(self, session: Any) -> None:
        self._session: Any | None = session

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (10, H / 8, W / 8) of `picture` (H, W, 3) RGB, H and W multiples of 32. Raises `EngineError`."""
        session = self._session
        if session is None:
            raise EngineError("onnxruntime: the detector is closed")
        with translate_errors("detection"):
            (maps,) = session.run(["maps"], {"pictures": np.ascontiguousarray(picture)[None]})
        return np.asarray(maps[0], np.float32)

    def close(self) -> None:
        """Frees the session. Safe to call twice."""
        self._session = None


def open_detector(content: bytes, graph: Path, *, threads: int) -> DetectorNetwork:
    """The detector in `content`, the verified bytes of the file `graph`. Raises `EngineError`, `MissingLibrary`."""
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    with translate_errors(f"'{graph}'"):
        return DetectorNetwork(library.InferenceSession(content, options, providers=["CPUExecutionProvider"]))
