"""What a graph file answers in ONNX Runtime on the CPU: the yardstick of parity, calibration and gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import EngineError, MissingLibrary

try:
    import onnxruntime
except ImportError as error:
    raise MissingLibrary("onnxruntime", "export") from error

BATCH = 16  # bounds memory: 16 crops of 299 px need about 1 GB in the fused Inception-ResNet-v2


class GraphAnswers:
    """A loaded graph. `plain` turns every graph optimisation off, so that each operator is computed as the file says."""

    def __init__(self, graph: Path | str | bytes, *, plain: bool = False, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        if plain:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            content = graph if isinstance(graph, bytes) else str(graph)
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"onnxruntime can't load the graph: {error}") from error
        self.outputs = tuple(str(output.name) for output in self._session.get_outputs())

    def all(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Every output for `crops` (N, S, S, 3), by name, computed in batches."""
        parts = [self._session.run(None, {"crops": batch}) for batch in batches(crops)]
        return {name: np.concatenate(values) for name, values in zip(self.outputs, zip(*parts, strict=True), strict=True)}

    def probabilities(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 3, 2) of a fused graph, (N, 2) of a single one."""
        parts = [self._session.run(["probabilities"], {"crops": batch})[0] for batch in batches(crops)]
        return np.concatenate(parts)

    def values(self, names: list[str], crops: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The outputs `names` for one batch of `crops`, each under its name."""
        yield from zip(names, self._session.run(names, {"crops": crops}), strict=True)


def batches(crops: NDArray[np.uint8], size: int = BATCH) -> Iterator[NDArray[np.uint8]]:
    """`crops` in pieces of `size`, each contiguous."""
    for start in range(0, len(crops), size):
        yield np.ascontiguousarray(crops[start : start + size])
