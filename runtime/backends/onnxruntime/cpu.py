"""ONNX Runtime on the CPU, for machines without OpenVINO and as a second engine; and for a bundle's detector.

One session serves all lanes: its `run` may be called from many threads, and for `throughput` each call works in the thread that
made it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.blob_store import engine_digest
from blastscope.runtime.backends.onnx_file import FLOAT, INT8, OnnxGraph, attribute_of, opset_of, parse_model
from blastscope.runtime.backends.protocol import Engine, EngineOptions, Workload, answer_output, read_fused
from blastscope.runtime.backends.uint8_activations import with_uint8_activations
from blastscope.runtime.errors import BlastscopeError, Closed, DeviceError, EngineError, MissingLibrary
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import Execution, Layout

NAME = "onnxruntime"
THROUGHPUT_BATCH = 4  # crops a call; each costs Python a little


class Lane:
    """A caller of the session. Lanes may run side by side, each in one thread."""

    name = NAME

    def __init__(self, session: Any, output: str) -> None:
        self._session, self._output = session, output

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answers (N, R, 2) on `crops` (N, S, S, 3), in an array of their own."""
        if self._session is None:
            raise EngineError("onnxruntime: the engine is closed")
        with translate_errors("inference"):
            (answers,) = self._session.run([self._output], {"crops": np.ascontiguousarray(crops)})
        return np.asarray(answers, np.float32)

    def close(self) -> None:
        """Lets go of the session; the last lane frees it."""
        self._session = None


def executions(device: str) -> tuple[Execution, ...]:
    """What the CPU provider computes in: fp16 graphs too run as f32. Raises `DeviceError` for another device."""
    if device != "CPU":
        raise DeviceError(f"onnxruntime serves the CPU only, not '{device}'")
    return ("f32", "int8")


def fingerprint(device: str) -> dict[str, str]:
    """The library's version and the processor."""
    return {
        "backend": NAME,
        "version": _version(),
        "device": device,
        "device_name": platform.processor(),
    }


def _version() -> str:
    """The library's version, without importing it: that takes a quarter of a second. Raises `MissingLibrary`."""
    if "onnxruntime" not in sys.modules and find_spec("onnxruntime"):
        for name in ("onnxruntime", "onnxruntime-gpu"):
            try:
                return version(name)
            except PackageNotFoundError:
                continue
    return str(load_onnxruntime().__version__)


def offered_layouts(device: str, workload: Workload, threads: int | None) -> tuple[Layout, ...]:
    """The whole network in one session, always."""
    return ("fused",)


def open_engine(graph: Path, sha256: str, options: EngineOptions) -> Engine:
    """Loads `graph` into a session."""
    offered = executions(options.device)
    if options.execution not in offered:
        raise DeviceError(f"onnxruntime on the CPU computes in {', '.join(offered)}; {options.execution} is not offered")
    if options.layout != "fused":
        raise DeviceError(f"onnxruntime computes a network whole, not '{options.layout}'")
    threads = options.threads or usable_threads()
    many = options.workload == "throughput"
    facts = {"graph": sha256, "execution": options.execution, "workload": options.workload, "threads": str(threads)}
    content = read_fused(graph, sha256, options)
    if options.execution == "int8":
        content = with_uint8_activations(content, graph)
    with translate_errors(f"'{graph}'"):
        session = make_session(content, graph, threads=1 if many else threads)
        output, _ = answer_output({output.name: output.shape for output in session.get_outputs()}, graph)
    return Engine(
        lanes=tuple(Lane(session, output) for _ in range(threads if many else 1)),
        backend=NAME,
        device=options.device,
        execution=options.execution,
        digest=engine_digest({**fingerprint(options.device), **facts}),
        batch=THROUGHPUT_BATCH if many else 1,
    )


def make_session(content: bytes, graph: Path, *, threads: int) -> Any:
    """An `InferenceSession` of the bytes `content` of the file `graph`."""
    library = load_onnxruntime()
    model = parse_model(content, graph)
    if use_float_weights(model):
        content = model.SerializeToString()
    options = session_options(library, threads)
    return library.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], disabled_optimizers=unfit_passes(model)
    )


def session_options(library: Any, threads: int) -> Any:
    """The `SessionOptions` of every network on the CPU."""
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # threads that wait must not keep cores busy: those that decode and crop want them, and so does other software
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: what we raise says the rest
    return options


def use_float_weights(model: Any) -> int:
    """Gives the int8 weights of convolutions that are computed in float32 as float32, in place; returns of how many.

    A convolution whose output isn't quantised is one. ONNX Runtime 1.32 converts its weights anew at each call, and takes its
    general convolution for it, since the fast one wants constant weights: the shipped bundle's first depthwise convolution of
    that kind took 1.5 ms instead of 0.5, the reordering of its input included.
    """
    graph, changed = OnnxGraph(model), 0
    for node in graph.nodes if graph.self_contained else ():
        if node.op_type != "Conv" or all(reader.op_type == "QuantizeLinear" for reader in graph.readers[node.output[0]]):
            continue
        weights = _dequantised(graph, node.input[1])
        if weights is not None:
            node.input[1] = graph.add_constant(weights, FLOAT)
            changed += 1
    return changed


def _dequantised(graph: OnnxGraph, name: str) -> NDArray[np.float32] | None:
    """Constant int8 weights (outputs, inputs, ...) behind a DequantizeLinear as float32; one scale, or one an output."""
    maker = graph.maker.get(name)
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    codes, scales = graph.array(maker.input[0], INT8), graph.array(maker.input[1], FLOAT)
    zero = graph.array(maker.input[2], INT8) if len(maker.input) > 2 else np.zeros(1, np.int8)
    axis = attribute_of(maker, "axis")
    if codes is None or scales is None or zero is None or zero.any():
        return None
    if scales.size > 1 and (axis is None or axis.i != 0 or scales.shape != codes.shape[:1]):
        return None
    steps: NDArray[np.float32] = scales.reshape(-1, *[1] * (codes.ndim - 1))
    return codes * steps


def unfit_passes(model: Any) -> list[str]:
    """Names of the optimisations in ONNX Runtime 1.32 that would make another network of `model`, or none it can load.

    From opset 21 on one pass gives a QuantizeLinear that it copies an `output_dtype`, and another changes its zero point alone:
    the session ends in an error. What should be unsigned is so already. Two pairs of different steps, one behind the other,
    are merged into one, and the coarser rounding is lost; those of the same step are merged rightly.
    """
    graph = OnnxGraph(model)
    found = ["QDQS8ToU8Transformer"] if opset_of(model) >= 21 else []
    for node in graph.nodes:
        before = graph.maker.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if before is not None and before.op_type == "DequantizeLinear":
            steps = {name: graph.scalar(name, FLOAT) for name in (node.input[1], before.input[1])}
            if len(set(steps.values())) > 1 or None in steps.values():
                return [*found, "DoubleQDQPairsRemover"]
    return found


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turns what the library raises into `EngineError`."""
    try:
        yield
    except BlastscopeError:
        raise
    except is_onnxruntime_error() as error:
        raise EngineError(f"onnxruntime, {what}: {str(error).splitlines()[0] if str(error) else error!r}") from error


def is_onnxruntime_error() -> tuple[type[Exception], ...]:
    """Whether ONNX Runtime raised `error`: its own classes have no common base, and a wrong feed raises Python's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError)


def load_onnxruntime(extra: str = "onnxruntime") -> Any:
    """The library, without its reports to its maker. Raises `MissingLibrary`, which names the `extra` that brings it.

    From 1.29 on it tells Microsoft of each process, session and model, and keeps an id of the machine in the user's cache,
    unless a variable of the environment forbids it when it is imported. On Windows, where it doesn't look at the variable,
    events are turned off. A program that imported it before, or set the variable itself, has chosen.
    """
    fresh = "onnxruntime" not in sys.modules
    if fresh:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingLibrary("onnxruntime", extra) from error
    if fresh and os.name == "nt":
        onnxruntime.disable_telemetry_events()
    return onnxruntime


class OnnxRuntimeDetector:
    """A session with a detector. Many threads may use it."""

    name = NAME

    def __init__(self, session: Any) -> None:
        self._session: Any | None = session

    def infer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (10, H / 8, W / 8) of `picture` (H, W, 3) RGB, H and W multiples of 32. Raises `EngineError`, `Closed`."""
        session = self._session
        if session is None:
            raise Closed
        with translate_errors("detection"):
            (maps,) = session.run(["maps"], {"pictures": np.ascontiguousarray(picture)[None]})
        return np.asarray(maps[0], np.float32)

    def close(self) -> None:
        """Frees the session. Safe to call twice."""
        self._session = None


def open_detector(content: bytes, graph: Path, *, threads: int) -> OnnxRuntimeDetector:
    """The detector in `content`, the verified bytes of the file `graph`. Raises `EngineError`, `MissingLibrary`."""
    with translate_errors(f"'{graph}'"):
        return OnnxRuntimeDetector(make_session(content, graph, threads=threads))
