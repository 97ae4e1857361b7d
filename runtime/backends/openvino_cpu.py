"""OpenVINO: the default backend, for CPUs and for whatever other device its plugins find.

Every lane answers crop by crop on a graph of fixed shape: measured, a lite0 ensemble costs a core 25 ms a crop so, 33 ms with a
dynamic batch, and larger batches save nothing. For `throughput` each core has a stream of one thread, and a lane.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.engines import engine_digest, engine_file, read_engine, write_engine
from blastscope.runtime.backends.protocol import Engine, EngineOptions
from blastscope.runtime.backends.unsigned import make_unsigned
from blastscope.runtime.classes import Execution
from blastscope.runtime.device import usable_threads
from blastscope.runtime.errors import BlastscopeError, DeviceError, EngineError, MissingLibrary

NAME = "openvino"
FOREIGN = (RuntimeError, ValueError, TypeError, KeyError)  # what the library raises; ov::Exception comes as RuntimeError
_CAPABILITIES: dict[str, Execution] = {"FP32": "f32", "BF16": "bf16", "FP16": "f16", "INT8": "int8"}
_HINTS: dict[Execution, str] = {"f32": "f32", "bf16": "bf16", "f16": "f16", "int8": "f32"}  # int8 stands in the graph itself
_TYPES: dict[str, Execution] = {
    "float32": "f32",
    "f32": "f32",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "f16",
    "f16": "f16",
}


class Lane:
    """One infer request. Not thread-safe."""

    name = NAME

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._input: NDArray[np.uint8] | None = self._request.get_input_tensor(0).data  # (1, S, S, 3)

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3), in an array of their own."""
        if self._input is None:
            raise EngineError("openvino: the engine is closed")
        if crops.shape[1:] != self._input.shape[1:] or crops.dtype != np.uint8:
            raise EngineError(f"openvino: crops are {crops.dtype} {crops.shape}, the graph takes uint8 {self._input.shape}")
        answers = np.empty((len(crops), 3, 2), np.float32)
        with translated("inference"):
            for crop, answer in zip(crops, answers, strict=True):
                self._input[0] = crop
                self._request.start_async()  # cheaper than `infer`, which builds a dictionary of results
                self._request.wait()
                answer[:] = self._request.get_output_tensor(0).data[0]
        return answers

    def close(self) -> None:
        """Frees the request."""
        self._input = self._request = None


def available_devices() -> dict[str, str]:
    """The devices that the plugins find here, each with its full name. Raises `MissingLibrary`."""
    core = _core()
    with translated("devices"):
        return {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}


def executions(device: str) -> tuple[Execution, ...]:
    """What `device` computes in, as its plugin says. Raises `MissingLibrary`, `DeviceError`."""
    core = _core()
    if device not in core.available_devices:
        raise DeviceError(f"openvino has no device '{device}' here: it has {', '.join(core.available_devices) or 'none'}")
    with translated(f"device '{device}'"):
        capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return tuple(execution for name, execution in _CAPABILITIES.items() if name in capabilities)


def fingerprint(device: str) -> dict[str, str]:
    """The library's version and the device's full name."""
    core = _core()
    with translated(f"device '{device}'"):
        full_name = core.get_property(device, "FULL_DEVICE_NAME")
        version = core.get_versions(device)[device].build_number
    return {"backend": NAME, "version": str(version), "device": device, "device_name": str(full_name)}


def open_engine(graph: Path, sha256: str, options: EngineOptions) -> Engine:
    """Compiles `graph`, or takes the compiled engine from the cache."""
    offered = executions(options.device)
    if options.execution not in offered:
        raise DeviceError(f"'{options.device}' computes in {', '.join(offered)}; {options.execution} is not offered")
    threads = options.threads or usable_threads()
    lanes = threads if options.workload == "throughput" else 1
    settings = _settings(options, threads)
    facts = {"graph": sha256, "execution": options.execution, "settings": repr(sorted(settings.items()))}
    digest = engine_digest({**fingerprint(options.device), **facts})
    path = engine_file(options.cache_dir, digest) if options.cache_dir else None
    compiled, notes = _load(path, options.device, settings) if path else (None, ())
    if compiled is None:
        compiled = _compile(graph, options.device, settings)
        if path and (reason := _keep(compiled, path)):
            notes = (f"engine cache: {reason}, so every opening compiles anew",)
    with translated("loading"):
        execution = _read_back(compiled, options.execution)
        requests = tuple(Lane(compiled) for _ in range(lanes))
    return Engine(requests, NAME, options.device, execution, digest, notes=notes)


def _settings(options: EngineOptions, threads: int) -> dict[str, Any]:
    hint = {"INFERENCE_PRECISION_HINT": _HINTS[options.execution], "PERFORMANCE_HINT": options.workload.upper()}
    if options.device != "CPU":
        return hint
    streams = threads if options.workload == "throughput" else 1
    # Unpinned: the threads that decode and crop share the cores with those that infer.
    return {**hint, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}


def _load(path: Path, device: str, settings: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The compiled engine kept at `path`, or None with a note where a kept one is of no use."""
    data = read_engine(path)
    if data is None:
        return None, ("a damaged engine in the cache was replaced",) if path.exists() else ()
    try:
        with translated("the engine cache"):
            return _core().import_model(_library().Tensor(np.asarray(data)), device, settings), ()
    except EngineError as error:
        return None, (f"an engine in the cache was replaced: {error}",)


def _keep(compiled: Any, path: Path) -> str | None:
    try:
        with translated("export"):
            data = compiled.export_model().getbuffer()
    except EngineError as error:
        return str(error)
    return write_engine(path, data)


def _compile(graph: Path, device: str, settings: dict[str, Any]) -> Any:
    with translated(f"'{graph}'"):
        model = _core().read_model(graph)
        shape = model.input("crops").partial_shape
        model.reshape({"crops": [1, *list(shape)[1:]]})
        answer = model.output("probabilities")
        if list(answer.partial_shape.to_shape()) != [1, 3, 2]:
            raise EngineError(f"'{graph}' is not a fused graph: its probabilities are {answer.partial_shape}")
        make_unsigned(_library(), model)
        # the other outputs are the same vote, made by runtime/vote.py
        votes_apart = _library().Model([answer.node], model.get_parameters())
        return _core().compile_model(votes_apart, device, settings)


def _read_back(compiled: Any, asked: Execution) -> Execution:
    """What the engine computes in, whatever was asked. In an int8 graph that is int8, the rest of it f32."""
    if asked == "int8":
        return "int8"
    told = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if told not in _TYPES:
        raise EngineError(f"openvino computes in '{told}', which has no name here")
    return _TYPES[told]


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns what the library raises into `EngineError`."""
    try:
        yield
    except BlastscopeError:
        raise
    except FOREIGN as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith("Exception from")]
        raise EngineError(f"openvino, {what}: {lines[0] if lines else error}") from error


@cache
def _library() -> Any:
    """The library without its model converter, which brings an HTTP client along: unused, and half of the import's 190 ms."""
    converter, fresh = "openvino.tools.ovc", "openvino" not in sys.modules
    if fresh:
        sys.modules.setdefault(converter, None)  # type: ignore[arg-type] # None: this import fails, as if not installed
    try:
        import openvino
    except ImportError as error:
        raise MissingLibrary("openvino", "") from error
    finally:
        if fresh and sys.modules.get(converter, converter) is None:
            del sys.modules[converter]
    if fresh and not hasattr(openvino, "convert_model"):
        openvino.convert_model = _convert_model
    return openvino


def _convert_model(*args: Any, **options: Any) -> Any:
    """Stands where a host that shares our process expects the converter."""
    from openvino.tools.ovc import convert_model

    _library().convert_model = convert_model
    return convert_model(*args, **options)


@cache
def _core() -> Any:
    """One core a process: it is thread-safe, and finding the plugins takes time."""
    return _library().Core()
