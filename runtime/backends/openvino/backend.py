"""The OpenVINO backend, the default for CPUs and for the devices of its plugins.

Every lane answers crop by crop on a graph of fixed shape: measured, a lite0 ensemble costs a core 25 ms a crop so, 33 ms with a
dynamic batch, and larger batches save nothing.

A layout says how many streams of how many threads there are, and whether A and B run side by side. Which is fastest depends on
network, machine and workload; inference/autotune.py measures those that a backend offers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.blob_store import CachedEngine, engine_digest, engine_file, read_blob, write_blob
from blastscope.runtime.backends.openvino.infer_request import (
    NAME,
    PartitionedLane,
    RequestLane,
    core,
    import_openvino,
    translate_errors,
)
from blastscope.runtime.backends.openvino.partition import NotPartitionable, partition
from blastscope.runtime.backends.protocol import (
    Backend,
    Engine,
    EngineOptions,
    PartialInference,
    Workload,
    answer_output,
    read_fused,
)
from blastscope.runtime.backends.uint8_activations import with_uint8_activations
from blastscope.runtime.errors import DeviceError, EngineError, UsageError
from blastscope.runtime.io.concurrency import ThreadPool
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.types import Execution, Layout

PARTS = ("stem", "a", "b", "rest", "opinion")  # in the order of `partition.Partition`
T = TypeVar("T")

_PAGE = 4096
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


class StreamConfig(NamedTuple):
    """What of the cores a network, or a part of one, may use.

    Attributes
    ----------
    streams : int
        Requests that are worked on at the same time.
    threads : int
        Threads of all streams together.
    """

    streams: int
    threads: int


class ExecutionPlan(NamedTuple):
    """How a layout uses a CPU's cores.

    Attributes
    ----------
    lanes : int
        How many callers can be served at the same time.
    shares : tuple of StreamConfig
        One where the network is whole, five where it is cut: one for each part.
    together : bool
        Whether A and B run at the same time.
    """

    lanes: int
    shares: tuple[StreamConfig, ...]
    together: bool = False


def available_layouts(workload: Workload, threads: int) -> tuple[Layout, ...]:
    """The layouts worth measuring, the one that is taken unmeasured first.

    Side by side, A and B don't wait for each other's threads at every operator: measured on two cores, 10 % less at batch 1.
    """
    if threads < 2:
        return ("fused",)
    return ("fused", "side-by-side") if workload == "latency" else ("fused", "paired")


def execution_plan(layout: Layout, workload: Workload, threads: int) -> ExecutionPlan:
    """What `layout` means on `threads` cores. Raises `UsageError` for one that this workload or so few cores don't have."""
    many = threads if workload == "throughput" else 1
    whole = StreamConfig(many, threads)
    if layout == "fused":
        return ExecutionPlan(many, (whole,))
    if layout == "staged":
        return ExecutionPlan(many, (whole,) * len(PARTS))
    there = available_layouts(workload, threads)
    if layout not in there:
        raise UsageError(f"layout '{layout}' is not for {workload} on {threads} cores: {', '.join(there)} may be had")
    if layout == "paired":
        pairs = threads // 2
        return ExecutionPlan(pairs, (StreamConfig(pairs, threads),))
    half = threads // 2
    return ExecutionPlan(1, (whole, StreamConfig(1, threads - half), StreamConfig(1, half), whole, whole), together=True)


def available_devices() -> dict[str, str]:
    """The devices that the plugins find here, each with its full name. Raises `MissingLibrary`."""
    with translate_errors("devices"):
        return {name: str(core().get_property(name, "FULL_DEVICE_NAME")) for name in core().available_devices}


def executions(device: str) -> tuple[Execution, ...]:
    """What `device` computes in, as its plugin says. Raises `MissingLibrary`, `DeviceError`."""
    here = core().available_devices
    if device not in here:
        raise DeviceError(f"openvino has no device '{device}' here: it has {', '.join(here) or 'none'}")
    with translate_errors(f"device '{device}'"):
        capabilities = core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    return tuple(execution for name, execution in _CAPABILITIES.items() if name in capabilities)


def fingerprint(device: str) -> dict[str, str]:
    """The library's version and the device's full name."""
    with translate_errors(f"device '{device}'"):
        full_name = core().get_property(device, "FULL_DEVICE_NAME")
        version = core().get_versions(device)[device].build_number
    return {"backend": NAME, "version": str(version), "device": device, "device_name": str(full_name)}


def offered_layouts(device: str, workload: Workload, threads: int | None) -> tuple[Layout, ...]:
    """The layouts worth measuring on `device`, the one that is taken unmeasured first."""
    return available_layouts(workload, threads or usable_threads()) if device == "CPU" else ("fused",)


def open_engine(graph: Path, sha256: str, options: EngineOptions) -> Engine:
    """Compiles `graph`, or takes the compiled engine from the cache."""
    offered = executions(options.device)
    if options.execution not in offered:
        raise DeviceError(f"'{options.device}' computes in {', '.join(offered)}; {options.execution} is not offered")
    spread = execution_plan(options.layout, options.workload, options.threads or usable_threads())
    settings = [engine_settings(options, share) for share in spread.shares]
    facts = {"graph": sha256, "execution": options.execution, "settings": repr([sorted(one.items()) for one in settings])}
    digest = engine_digest({**fingerprint(options.device), **facts})
    path = engine_file(options.cache_dir, digest) if options.cache_dir else None
    kept = read_blob(path) if path and not options.rebuild else None
    networks, notes = _load(kept, options.device, settings) if kept else (None, ())
    content_sha256 = kept.content_sha256 if kept and networks else None
    keep: Callable[[], str | None] | None = None
    if networks is None:
        if options.rebuild:
            notes = ("an engine in the cache was replaced: it is not the one that it is kept as",)
        elif path and path.exists() and not kept:
            notes = ("an engine in the cache was replaced: it is damaged, or others could have written it",)
        content = read_fused(graph, sha256, options)
        if options.execution == "int8":
            content = with_uint8_activations(content, graph, device=options.device)
        networks = _compile(content, graph, options.device, settings)
        keep = partial(_keep, networks, path) if path else None
        if keep and not options.defer_save and (reason := keep()):
            notes = (reason,)
    try:
        with translate_errors("loading"):
            execution = _read_back(networks, options.execution)
            lanes, staged = _lanes(networks, spread, kept)
    except EngineError:
        if content_sha256 is None:
            raise
        return open_engine(graph, sha256, replace(options, rebuild=True))
    return Engine(
        lanes=lanes,
        backend=NAME,
        device=options.device,
        execution=execution,
        digest=digest,
        notes=notes,
        layout=options.layout,
        partial_lanes=staged,
        content_sha256=content_sha256,
        from_cache=content_sha256 is not None,
        save_to_cache=keep if options.defer_save else None,
    )


def _lanes(
    networks: Sequence[Any | None], spread: ExecutionPlan, memory: CachedEngine | None
) -> tuple[tuple[Backend, ...], tuple[PartialInference, ...]]:
    """The lanes, and those of them that can leave voters out."""
    if len(networks) == 1:
        return tuple(RequestLane(networks[0], memory) for _ in range(spread.lanes)), ()
    parts = tuple(PartitionedLane(networks, memory, together=spread.together) for _ in range(spread.lanes))
    return parts, () if spread.together else parts


def engine_settings(options: EngineOptions, share: StreamConfig) -> dict[str, Any]:
    """OpenVINO's properties for a network, or a part of one, that has `share` of the cores."""
    hint = {"INFERENCE_PRECISION_HINT": _HINTS[options.execution], "PERFORMANCE_HINT": options.workload.upper()}
    if options.device != "CPU":
        return hint
    # Unpinned: the threads that decode and crop share the cores with those that infer.
    return {**hint, "NUM_STREAMS": share.streams, "INFERENCE_NUM_THREADS": share.threads, "ENABLE_CPU_PINNING": False}


def _load(
    kept: CachedEngine, device: str, settings: Sequence[dict[str, Any]]
) -> tuple[list[Any | None] | None, tuple[str, ...]]:
    """The compiled networks that were kept, or None with a note where they are of no use."""

    def load(blob: NDArray[np.uint8], setting: dict[str, Any]) -> Any | None:
        # the library reads weights where they are mapped: the lanes hold the mapping
        return core().import_model(import_openvino().Tensor(blob, shared_memory=True), device, setting) if len(blob) else None

    try:
        with translate_errors("the engine cache"):
            networks = _two_at_a_time(load, _apart(kept.data, len(settings)), settings)
    except EngineError as error:
        return None, (f"an engine in the cache was replaced: {error}",)
    return networks, ()


def _keep(networks: Sequence[Any | None], path: Path) -> str | None:
    """Writes the compiled networks to `path`; gives the reason where that can't be done."""
    try:
        with translate_errors("export"):
            blobs = [network.export_model().getbuffer() if network else memoryview(b"") for network in networks]
    except EngineError as error:
        return f"engine cache: {error}, so every opening compiles anew"
    pieces = [piece for blob in blobs for piece in (blob, bytes(-len(blob) % _PAGE))]
    reason = write_blob(path, *pieces, np.array([len(blob) for blob in blobs], "<u8").tobytes())
    return reason and f"engine cache: {reason}, so every opening compiles anew"


def _apart(data: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """The blobs of an engine file: each from the start of a page, their sizes at the end."""
    sizes = np.frombuffer(data[-8 * count :].tobytes(), "<u8").tolist()
    starts = [0, *accumulate(size + -size % _PAGE for size in sizes)]
    if starts[-1] + 8 * count != len(data):
        raise EngineError("the file is none of ours")
    return [data[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _compile(content: bytes, graph: Path, device: str, settings: Sequence[dict[str, Any]]) -> list[Any | None]:
    with translate_errors(f"'{graph}'"):
        model = _read(content, graph)
        if len(settings) == 1:
            return [core().compile_model(model, device, settings[0])]
        try:
            parts = partition(import_openvino(), model)
        except NotPartitionable as error:
            raise EngineError(f"'{graph}' can't be cut into parts: {error}") from error
        # copies: parts share operators, and compilers of two threads must not meet in one
        copies = [part and part.clone() for part in parts]
        return _two_at_a_time(lambda part, setting: part and core().compile_model(part, device, setting), copies, settings)


def _read(content: bytes, graph: Path) -> Any:
    """The fused graph for one crop, with what lanes answer as its only output: the vote is made by inference/voting.py."""
    model = core().read_model(content)
    shape = model.input("crops").partial_shape
    model.reshape({"crops": [1, *list(shape)[1:]]})
    shapes = {output.any_name: [dimension.to_string() for dimension in output.partial_shape] for output in model.outputs}
    fixed = {name: [int(one) if one.isdigit() else one for one in shape] for name, shape in shapes.items()}
    answer = model.output(answer_output(fixed, graph)[0])
    return import_openvino().Model([answer.node], model.get_parameters())


def _two_at_a_time(
    load: Callable[[T, dict[str, Any]], Any | None], sources: Sequence[T], settings: Sequence[dict[str, Any]]
) -> list[Any | None]:
    """Every part loaded, two at a time: A and B cost almost all of it, and the library loads a network with one thread."""
    with ThreadPool(2, "blastscope-load") as pool:
        return pool.map(load, sources, settings)


def _read_back(networks: Sequence[Any | None], asked: Execution) -> Execution:
    """What the engine computes in, whatever was asked. In an int8 graph that is int8, the rest of it f32."""
    if asked == "int8":
        return "int8"
    told = next(filter(None, networks)).get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if told not in _TYPES:
        raise EngineError(f"openvino computes in '{told}', which has no name here")
    return _TYPES[told]
