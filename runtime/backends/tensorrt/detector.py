"""A bundle's detector on an NVIDIA GPU, by an engine that `blastscope build` has put into the user's cache.

None is built when frames are examined: without one the detector runs on the CPU.
"""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.tensorrt.backend import TensorRtNetwork
from blastscope.runtime.backends.tensorrt.builder import DETECTOR_INPUT, PICTURE_SIDES
from blastscope.runtime.backends.tensorrt.engine_store import engine_path, find_engine
from blastscope.runtime.backends.tensorrt.key import Library, capture_errors, detector_key, library_version
from blastscope.runtime.bundle.entries import FileEntry
from blastscope.runtime.cuda.driver import find_gpu, gpu_facts
from blastscope.runtime.cuda.graphs import Gpu
from blastscope.runtime.cuda.pycuda_device import open_gpu
from blastscope.runtime.errors import Closed, DeviceError, EngineError
from blastscope.runtime.types import Precision

OUTPUT = "maps"
_FLOAT = 4  # bytes


class TensorRtDetector:
    """A detector's engine with one context. Many threads may use it, one after the other."""

    def __init__(self, gpu: Gpu, library: Library, data: bytes, compiled: Path | None) -> None:
        self.name = library
        self._gpu, self._lock, self._held = gpu, threading.Lock(), ExitStack()
        try:
            with gpu.current(), capture_errors(library) as said:
                self._network = TensorRtNetwork(gpu, library, data, compiled)
                self._held.callback(self._network.close)
                self._stream = gpu.open_stream()
                self._held.callback(gpu.close_stream, self._stream)
                self._context = self._network.context(self._stream, said)
                self._held.callback(setattr, self, "_context", None)
                self._bind(said)
        except BaseException:
            self.close()
            raise

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (10, H / 8, W / 8) of `picture` (H, W, 3) RGB, H and W multiples of 32.

        Raises `EngineError`, `DeviceError`s, `Closed`.
        """
        gpu, stream = self._gpu, self._stream
        with self._lock, gpu.current(), capture_errors(self.name) as said:
            if self._context is None:
                raise Closed
            self._require(self._context.set_input_shape(DETECTOR_INPUT, (1, *picture.shape)), picture.shape, said)
            entry = self._entry[: picture.size]
            entry[:] = picture.reshape(-1)
            gpu.upload(self._places[DETECTOR_INPUT], entry, stream)
            self._require(self._context.execute_async_v3(stream), picture.shape, said)
            shape = tuple(self._context.get_tensor_shape(OUTPUT))[1:]
            answer = self._answer[: math.prod(shape) * _FLOAT]
            gpu.download(answer, self._places[OUTPUT], stream)
            gpu.wait(stream)
            return answer.view(np.float32).reshape(shape).copy()

    def close(self) -> None:
        """Gives everything back. Safe to call twice."""
        with self._lock, suppress(DeviceError), self._gpu.current():  # a lost GPU holds nothing any more
            self._held.close()

    def _bind(self, said: list[str]) -> None:
        """Takes memory for the largest picture, and tells the context of it."""
        context, gpu, largest = self._context, self._gpu, (PICTURE_SIDES[-1], PICTURE_SIDES[-1], 3)
        if context.active_optimization_profile != 0:
            self._require(context.set_optimization_profile_async(0, self._stream), largest, said)
            gpu.wait(self._stream)
        self._require(context.set_input_shape(DETECTOR_INPUT, (1, *largest)), largest, said)
        sizes = {DETECTOR_INPUT: math.prod(largest), OUTPUT: math.prod(context.get_tensor_shape(OUTPUT)) * _FLOAT}
        self._places = {}
        for name, size in sizes.items():
            self._places[name] = gpu.allocate(size)
            self._held.callback(gpu.free, self._places[name])
            self._require(context.set_tensor_address(name, self._places[name]), largest, said)
        self._entry, self._answer = (gpu.pinned(size) for size in sizes.values())
        for memory in (self._entry, self._answer):
            self._held.callback(gpu.unpin, memory)

    def _require(self, done: bool, shape: tuple[int, ...], said: list[str]) -> None:
        if not done:
            self._gpu.check(self.name)
            height, width = shape[:2]
            reason = said[0] if said else "no reason given"
            raise EngineError(f"{self.name}: the detector's engine fails on a picture of {width} x {height}: {reason}")


def open_kept_detector(
    graph: FileEntry, precision: Precision, library: Library, *, ordinal: int, cache_dir: Path
) -> TensorRtDetector | None:
    """The detector on a GPU, where the cache has an engine of it.

    Parameters
    ----------
    graph : FileEntry
        The detector's graph, as the manifest lists it.
    precision : {'fp32', 'int8'}
        The graph's.
    library : {'tensorrt', 'tensorrt-rtx'}
        What runs it.
    ordinal : int
        The GPU's number.
    cache_dir : Path
        The user's cache.

    Returns
    -------
    TensorRtDetector or None
        None where the cache has no engine that may be used.

    Raises
    ------
    EngineError, MissingLibrary, DriverError, DeviceError
        Library or GPU can't be used.
    """
    gpu = gpu_facts(find_gpu(ordinal))
    key = detector_key(graph, precision, library, library_version(library), gpu=gpu)
    data = find_engine(cache_dir, key)
    if data is None:
        return None
    return TensorRtDetector(open_gpu(ordinal), library, data, engine_path(cache_dir, key).with_suffix(".jit"))
