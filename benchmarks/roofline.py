"""The machine's peak multiply-adds a second, measured, and the multiply-adds of a graph: both make its roofline.

Two kernels are measured and the faster one counts, since a peak that something exceeds is none: native loops of nothing but
multiply-adds (roofline.cpp, compiled where there is a g++), and a convolution of OpenVINO that is bound by arithmetic.
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

from blastscope.runtime.backends.openvino.infer_request import import_openvino
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Execution

KERNEL_SOURCE = Path(__file__).with_name("roofline.cpp")
ROUNDS = 5
MEASUREMENT_S = 0.1
CHANNELS, SIDE = 256, 56  # of the library's convolution: 1.85 GMAC on data that fits the caches


class Peak(StrictModel):
    """The peak throughput of all cores together in one type.

    Attributes
    ----------
    execution : {'f32', 'bf16', 'f16', 'int8'}
        The type.
    gmacs : float
        1e9 multiply-adds a second.
    kernel : str
        What reached it.
    """

    execution: Execution
    gmacs: float
    kernel: str


def measure_peaks(threads: int | None = None) -> tuple[Peak, ...]:
    """The peak throughput in every type that this machine computes in.

    Parameters
    ----------
    threads
        Threads that compute at once; None: one for each core that this process may use.

    Returns
    -------
    tuple of Peak
        One for each type, in 1e9 multiply-adds a second.
    """
    count = threads or usable_threads()
    found = [*_native_peaks(count), *_openvino_peaks(count)]
    best: dict[Execution, Peak] = {}
    for peak in found:
        if peak.execution not in best or peak.gmacs > best[peak.execution].gmacs:
            best[peak.execution] = peak
    return tuple(best.values())


def multiply_adds(graph: Path) -> int:
    """The multiply-adds of an ONNX file for one crop, in convolutions and matrix products; other layers cost next to nothing.

    Parameters
    ----------
    graph
        ONNX file; the first dimension of its input is the batch.

    Returns
    -------
    int
        Multiply-adds with a batch of one.
    """
    return _count_multiply_adds(_read_single(str(graph)))


def _count_multiply_adds(model: Any) -> int:
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


def _read_single(graph: str) -> Any:
    openvino = import_openvino()
    model = openvino.Core().read_model(graph)
    shape = model.input(0).partial_shape
    model.reshape({model.input(0).any_name: [1, *list(shape)[1:]]})
    return model


def _native_peaks(threads: int) -> Iterator[Peak]:
    with _native_kernels() as library:
        for number in range(library.kernel_count() if library else 0):
            if library.kernel_runs(number):
                macs, name = library.kernel_macs(number), library.kernel_name(number).decode()
                timer = _KernelTimer(library.kernel_run, number, threads)
                best = np.max([timer.rates() for _ in range(ROUNDS)], axis=0).sum()  # of every core, while all of them work
                execution = library.kernel_type(number).decode()
                yield Peak(execution=execution, gmacs=float(best) * macs / 1e9, kernel=f"{name}, in a native loop")


class _KernelTimer:
    """Steps of one kernel a second, of every thread while all work; ctypes releases Python's lock meanwhile."""

    def __init__(self, run: Callable[[int, int], None], number: int, threads: int) -> None:
        self._run, self._number, self._threads = run, number, threads
        self._steps = max(1, int(MEASUREMENT_S * self._rate(100_000)))

    def rates(self) -> list[float]:
        rates = [0.0] * self._threads

        def work(index: int) -> None:
            rates[index] = self._rate(self._steps)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return rates

    def _rate(self, steps: int) -> float:
        start = time.perf_counter()
        self._run(self._number, steps)
        return steps / (time.perf_counter() - start)


@contextmanager
def _native_kernels() -> Iterator[Any]:
    """The compiled kernels; None where there is no compiler, or none that knows the instructions."""
    compiler = shutil.which("g++")
    with TemporaryDirectory(prefix="blastscope-") as folder:
        compiled = Path(folder) / "roofline.so"
        command = [compiler or "g++", "-O2", "-std=c++17", "-shared", "-fPIC", "-o", str(compiled), str(KERNEL_SOURCE)]
        if compiler is None or subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        library = ctypes.CDLL(str(compiled))
        library.kernel_macs.restype = ctypes.c_double
        library.kernel_name.restype = library.kernel_type.restype = ctypes.c_char_p
        library.kernel_run.argtypes = [ctypes.c_int, ctypes.c_long]
        yield library


def _openvino_peaks(threads: int) -> Iterator[Peak]:
    openvino = import_openvino()
    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    types: dict[str, tuple[Execution, str]] = {
        "FP32": ("f32", "f32"),
        "INT8": ("int8", "f32"),
        "BF16": ("bf16", "bf16"),
        "FP16": ("f16", "f16"),
    }
    for name, (execution, hint) in types.items():
        if name in capabilities:
            model = _convolution(quantised=execution == "int8")
            settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            request = core.compile_model(model, "CPU", settings).create_infer_request()
            best = min(_run_seconds(request) for _ in range(2 * ROUNDS))
            gmacs = _count_multiply_adds(model) / best / 1e9
            yield Peak(execution=execution, gmacs=gmacs, kernel="OpenVINO's convolution, 256 channels, 3 x 3")


def _run_seconds(request: Any) -> float:
    start = time.perf_counter()
    request.start_async()
    request.wait()
    return time.perf_counter() - start


@cache
def _convolution(*, quantised: bool) -> Any:
    """A convolution that is bound by arithmetic; `quantised`: as OpenVINO reads it from a QDQ file."""
    openvino = import_openvino()
    ops = openvino.opset13

    data = ops.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    shape = [CHANNELS, CHANNELS, 3, 3]
    rng = np.random.default_rng(0)
    left: Any = data
    if quantised:
        scales = [np.array(value, np.float32) for value in (0, 2.55, 0, 2.55)]
        left = ops.fake_quantize(data, *scales, levels=256)
        int8_weights = ops.constant(rng.integers(-100, 100, shape).astype(np.int8))
        weights = ops.multiply(ops.convert(int8_weights, "f32"), ops.constant(np.full([CHANNELS, 1, 1, 1], 0.01, np.float32)))
    else:
        weights = ops.constant(rng.normal(size=shape).astype(np.float32))
    output = ops.convolution(left, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    return openvino.Model([output], [data])
