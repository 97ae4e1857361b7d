"""The machine's peak multiply-adds a second, measured, and the roofline that follows for a graph.

A small native kernel (roofline.cpp) that does nothing else is compiled where g++ is; OpenVINO's own convolution of a size
that is bound by arithmetic is measured too, and the larger counts: a floor that anything got below would be none.
"""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Execution

SOURCE = Path(__file__).with_name("roofline.cpp")
ROUNDS = 5
STRETCH_S = 0.1  # of one measurement
CHANNELS, SIDE = 256, 56  # of the library's convolution: 1.85 GMAC on data that fits the caches


class Peak(StrictModel):
    """What all cores together reach in one type."""

    execution: Execution
    gmacs: float  # 1e9 multiply-adds a second
    how: str


def measure_peaks(threads: int | None = None) -> tuple[Peak, ...]:
    """The peak of every type that this machine computes in, with `threads` threads (None: what the process may use)."""
    count = threads or usable_threads()
    found = [*_native_peaks(count), *_library_peaks(count)]
    best: dict[Execution, Peak] = {}
    for peak in found:
        if peak.execution not in best or peak.gmacs > best[peak.execution].gmacs:
            best[peak.execution] = peak
    return tuple(best.values())


def multiply_adds(graph: Path) -> int:
    """Multiply-adds that the ONNX file `graph` costs a crop, in convolutions and matrix products: all but all."""
    return _count(_read(str(graph)))


def _count(model: Any) -> int:
    total = 0
    for op in model.get_ops():
        kind = op.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            weights = list(op.input(1).get_source_output().shape)
            total += math.prod(op.output(0).shape) * math.prod(weights[1 if kind == "Convolution" else 2 :])
        elif kind == "MatMul":
            left = list(op.input(0).get_source_output().shape)
            inner = left[-2] if op.get_attributes().get("transpose_a") else left[-1]
            total += math.prod(op.output(0).shape) * inner
    return total


def _read(graph: str) -> Any:
    import openvino

    model = openvino.Core().read_model(graph)
    shape = model.input(0).partial_shape
    model.reshape({model.input(0).any_name: [1, *list(shape)[1:]]})
    return model


def _native_peaks(threads: int) -> Iterator[Peak]:
    with _kernels() as library:
        for number in range(library.kernel_count() if library else 0):
            if library.kernel_runs(number):
                macs, name = library.kernel_macs(number), library.kernel_name(number).decode()
                rounds = _Stretch(library.kernel_run, number, threads)
                best = np.max([rounds.rates() for _ in range(ROUNDS)], axis=0).sum()  # of every core, while all of them work
                execution = library.kernel_type(number).decode()
                yield Peak(execution=execution, gmacs=float(best) * macs / 1e9, how=f"{name}, in a native loop")


class _Stretch:
    """Steps of one kernel a second, of every thread while all work; ctypes lets go of Python's lock meanwhile."""

    def __init__(self, run: Callable[[int, int], None], number: int, threads: int) -> None:
        self._run, self._number, self._threads = run, number, threads
        self._steps = max(1, int(STRETCH_S * self._rate(100_000)))

    def rates(self) -> list[float]:
        found = [0.0] * self._threads

        def work(place: int) -> None:
            found[place] = self._rate(self._steps)

        crew = [threading.Thread(target=work, args=(place,)) for place in range(self._threads)]
        for one in crew:
            one.start()
        for one in crew:
            one.join()
        return found

    def _rate(self, steps: int) -> float:
        start = time.perf_counter()
        self._run(self._number, steps)
        return steps / (time.perf_counter() - start)


@contextmanager
def _kernels() -> Iterator[Any]:
    """The compiled kernels; None where there is no compiler, or none that knows the instructions."""
    compiler = shutil.which("g++")
    with TemporaryDirectory(prefix="blastscope-") as folder:
        made = Path(folder) / "peaks.so"
        command = [compiler or "g++", "-O2", "-std=c++17", "-shared", "-fPIC", "-o", str(made), str(SOURCE)]
        if compiler is None or subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        library = ctypes.CDLL(str(made))
        library.kernel_macs.restype = ctypes.c_double
        library.kernel_name.restype = library.kernel_type.restype = ctypes.c_char_p
        library.kernel_run.argtypes = [ctypes.c_int, ctypes.c_long]
        yield library


def _library_peaks(threads: int) -> Iterator[Peak]:
    import openvino

    core = openvino.Core()
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wanted: dict[str, tuple[Execution, str]] = {
        "FP32": ("f32", "f32"),
        "INT8": ("int8", "f32"),
        "BF16": ("bf16", "bf16"),
        "FP16": ("f16", "f16"),
    }
    for name, (execution, hint) in wanted.items():
        if name in offered:
            model = _convolution(quantised=execution == "int8")
            settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            request = core.compile_model(model, "CPU", settings).create_infer_request()
            best = min(_seconds(request) for _ in range(2 * ROUNDS))
            yield Peak(execution=execution, gmacs=_count(model) / best / 1e9, how="OpenVINO's convolution, 256 channels, 3 x 3")


def _seconds(request: Any) -> float:
    start = time.perf_counter()
    request.start_async()
    request.wait()
    return time.perf_counter() - start


@cache
def _convolution(*, quantised: bool) -> Any:
    """A convolution that is bound by arithmetic; `quantised` as a reader of QDQ files leaves it."""
    import openvino
    from openvino import opset13 as ops

    seen = ops.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    shape = [CHANNELS, CHANNELS, 3, 3]
    rng = np.random.default_rng(0)
    left: Any = seen
    if quantised:
        scales = [np.array(value, np.float32) for value in (0, 2.55, 0, 2.55)]
        left = ops.fake_quantize(seen, *scales, levels=256)
        bytes_ = ops.constant(rng.integers(-100, 100, shape).astype(np.int8))
        weights = ops.multiply(ops.convert(bytes_, "f32"), ops.constant(np.full([CHANNELS, 1, 1, 1], 0.01, np.float32)))
    else:
        weights = ops.constant(rng.normal(size=shape).astype(np.float32))
    made = ops.convolution(left, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    return openvino.Model([made], [seen])
