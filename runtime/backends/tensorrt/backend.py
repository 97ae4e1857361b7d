"""TensorRT 10.3 to 11 and TensorRT-RTX: one runner for both, since their APIs match. What only some have is asked for by name.

The engine comes from the user's cache or is built there (backends/tensorrt/engine_store.py), and is bound to places on the
device. A context serves one size of batch, as the library wants it for work that is recorded. The contexts of a lane never work
at the same time, so they share their scratch memory.
"""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from blastscope.runtime.backends.nvidia.batch_executor import BatchBinding, ExecutionContext
from blastscope.runtime.backends.nvidia.engine_factory import make_engine
from blastscope.runtime.backends.protocol import Engine, EngineOptions, answer_output
from blastscope.runtime.backends.tensorrt.builder import DeviceContext, build_engine
from blastscope.runtime.backends.tensorrt.engine_store import EngineBlob, find_engine, obtain_engine, store_engine
from blastscope.runtime.backends.tensorrt.key import (
    EngineKey,
    Library,
    capture_errors,
    library_logger,
    library_version,
    load_library,
    platform_name,
)
from blastscope.runtime.cuda.driver import find_gpu, gpu_facts
from blastscope.runtime.cuda.graphs import Gpu
from blastscope.runtime.cuda.pycuda_device import open_gpu
from blastscope.runtime.errors import DeviceError, EngineError
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.own_files import Unusable, read_own
from blastscope.runtime.types import Execution, Precision

_WIDEST = 8  # bytes of an output's widest element
_MOST_COMPILED = 1 << 30
logger = logging.getLogger(__name__)

# strongly typed: a graph is computed in what it is written in, and in nothing else
_GRAPHS: dict[Execution, Precision] = {"f32": "fp32", "f16": "fp16", "int8": "int8"}


class UnreadableEngine(EngineError):
    """The library refuses an engine that was found sound. Doesn't leave this package but as an `EngineError`."""


class TensorRtNetwork:
    """See `Network`. `compiled` is where TensorRT-RTX's just-in-time kernels are kept, which else are made at every opening."""

    def __init__(self, gpu: Gpu, library: Library, data: bytes, compiled: Path | None) -> None:
        self._gpu, self._name = gpu, library
        self._library = load_library(library)
        self._scratch: dict[int, int] = {}
        with capture_errors(library) as said:
            try:
                self._runtime = self._library.Runtime(library_logger(library))
            except TypeError as error:  # of the bindings, where the library gives no runtime
                gpu.check(library)
                raise EngineError(f"{library} can't run here: {said[0] if said else 'no reason given'}") from error
            self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            gpu.check(library)
            raise UnreadableEngine(f"{library} can't read its engine: {said[0] if said else 'no reason given'}")
        self._kernels = _Compiled(self._engine, compiled)

    def bind(self, place: BatchBinding) -> ExecutionContext:
        """A pass at `place`."""
        with capture_errors(self._name) as said:
            return _Bound(self._gpu, self._name, self.context(place.stream, said), place, said)

    def context(self, stream: int, said: list[str]) -> Any:
        """An execution context that works in `stream`; `said` is what the library logs meanwhile. Raises `EngineError`."""
        size = max(int(self._engine.device_memory_size_v2), 1)
        if stream not in self._scratch:
            self._scratch[stream] = self._gpu.allocate(size)
        context = self._kernels.context(self._library.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            self._gpu.check(self._name)
            raise EngineError(f"{self._name} gives no context: {said[0] if said else 'is there enough memory?'}")
        context.set_device_memory(self._scratch[stream], size)
        return context

    def close(self) -> None:
        """Frees engine and scratch memory."""
        if self._engine is not None:
            self._kernels.keep()
        # in this order: what was made of the engine, the engine, and what made it
        self._kernels = self._engine = self._runtime = None  # type: ignore[assignment]
        for address in self._scratch.values():
            self._gpu.free(address)
        self._scratch = {}


class _Bound:
    """One context with its addresses."""

    def __init__(self, gpu: Gpu, name: Library, context: Any, place: BatchBinding, said: list[str]) -> None:
        self._gpu, self._name, self._context, self._place = gpu, name, context, place
        self._held = ExitStack()
        try:
            self._bind(said)
        except BaseException:
            self.close()
            raise

    @property
    def recordable(self) -> bool:
        """Asked for after the first run, which settles what the library runs."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(self._place.stream))

    def enqueue(self) -> None:
        with capture_errors(self._name) as said:
            if not self._context.execute_async_v3(self._place.stream):
                self._gpu.check(self._name)
                raise EngineError(f"{self._name}: {said[0] if said else 'inference failed, no reason given'}")

    def close(self) -> None:
        self._context = None
        self._held.close()

    def _bind(self, said: list[str]) -> None:
        context, engine, place = self._context, self._context.engine, self._place
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        shapes = {name: [int(size) for size in engine.get_tensor_shape(name)] for name in names}
        answer, self.answer_shape = answer_output(shapes, f"{self._name} engine")
        if context.active_optimization_profile != 0:
            self._require(context.set_optimization_profile_async(0, place.stream), "its profile", said)
            self._gpu.wait(place.stream)
        side = engine.get_tensor_shape("crops")[1]
        self._require(context.set_input_shape("crops", (place.batch, side, side, 3)), f"a batch of {place.batch}", said)
        places = {"crops": place.crops, answer: place.answers}
        for name in names:
            self._require(context.set_tensor_address(name, places.get(name) or self._unread(name)), f"'{name}'", said)

    def _unread(self, name: str) -> int:
        """Memory for an output that nobody reads: the vote is counted again on the host, in one way for all engines."""
        address = self._gpu.allocate(max(math.prod(self._context.get_tensor_shape(name)), 1) * _WIDEST)
        self._held.callback(self._gpu.free, address)
        return address

    def _require(self, done: bool, what: str, said: list[str]) -> None:
        if not done:
            raise EngineError(f"{self._name}: the engine doesn't take {what}: {said[0] if said else 'no reason given'}")


class _Compiled:
    """How contexts are made; with TensorRT-RTX, what it compiles for this GPU is kept from one process to the next."""

    def __init__(self, engine: Any, path: Path | None) -> None:
        self._engine, self._path = engine, path
        self._config: Any = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
        self._cache: Any = None
        if path is not None and self._config is not None and hasattr(self._config, "create_runtime_cache"):
            self._cache = self._config.create_runtime_cache()
            with suppress(Unusable):
                # like an engine it is code: only this user's own file is read; the library refuses what isn't its own
                self._cache.deserialize(read_own(path, _MOST_COMPILED))
            self._config.set_runtime_cache(self._cache)

    def context(self, strategy: Any) -> Any:
        """A context whose scratch memory is given to it."""
        config = self._config
        if config is None:
            return self._engine.create_execution_context(strategy)
        config.set_execution_context_allocation_strategy(strategy)
        for name, choice in (("dynamic_shapes_kernel_specialization_strategy", "EAGER"), ("cuda_graph_strategy", "DISABLED")):
            # kernels for a shape at once, not some time later in a thread; and no graphs inside of ours
            if hasattr(config, name):
                setattr(config, name, getattr(type(getattr(config, name)), choice))
        return self._engine.create_execution_context(config)

    def keep(self) -> None:
        """Writes what was compiled; a cache that can't be written only costs time."""
        data = None if self._cache is None else self._cache.serialize()
        if data is not None and self._path is not None:
            content = bytes(data)
            with suppress(OSError):
                write_content(self._path, content, private=True)


class Runner:
    """See `BackendModule`; `device` is the GPU's number."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def executions(self, device: str) -> tuple[Execution, ...]:
        """Raises `DriverError`, `DeviceError`, and `MissingLibrary`, `EngineError` where the library can't be loaded."""
        find_gpu(int(device))
        library_version(self._library)
        return tuple(_GRAPHS)

    def fingerprint(self, device: str) -> dict[str, str]:
        """The library's version, the GPU and its driver."""
        gpu, version = find_gpu(int(device)), library_version(self._library)
        return {"backend": self._library, "version": version, "gpu": gpu.name, "driver": gpu.driver}

    def prepared(self, sha256: str, options: EngineOptions) -> bool:
        """Whether the engine is in the cache."""
        key = self._key(sha256, options)
        return options.cache_dir is not None and find_engine(options.cache_dir, key) is not None

    def open_engine(self, graph: Path, sha256: str, options: EngineOptions) -> Engine:
        """The engine of `graph`, from the cache or built now, which takes seconds to minutes. Raises `UnavailableError`s."""
        key = self._key(sha256, options)
        found = self._obtain(graph, key, options)
        try:
            return self._load(key, found, options)
        except UnreadableEngine as error:
            if found.built:
                raise
            # sound, known here, and yet not to this library's taste: its place is taken
            notes = f"an engine in the cache was replaced: {error}"
            data = build_engine(graph, key, cancelled=options.cancelled, device_context=self._device_context(options))
            if options.cache_dir is not None:
                with suppress(OSError):
                    store_engine(options.cache_dir, key, data)
            return self._load(key, found._replace(data=data, built=True, note=notes), options)

    def build(self, graph: Path, sha256: str, options: EngineOptions) -> None:
        """Puts the engine of `graph` into the cache."""
        self._obtain(graph, self._key(sha256, options), options)

    def _load(self, key: EngineKey, found: EngineBlob, options: EngineOptions) -> Engine:
        gpu = open_gpu(int(options.device))
        compiled = found.path.with_suffix(".jit") if options.cache_dir else None
        notes = [f"the {key.precision} engine was built just now, by {key.library} for {key.place}"] if found.built else []
        if compiled and options.rebuild and found.built:
            compiled.unlink(missing_ok=True)  # the other engine's kernels, and perhaps why it answered wrongly
            notes.insert(0, "an engine in the cache was replaced: it failed the golden set")
        engine = make_engine(
            gpu,
            lambda: TensorRtNetwork(gpu, self._library, found.data, compiled),
            options,
            name=self._library,
            execution=options.execution,
            digest=key.digest,
            notes=(*notes, *((found.note,) if found.note else ())),
        )
        # no `content_sha256`: driver and just-in-time kernels have a part in the answers, so the golden set is run whole
        return replace(engine, from_cache=not (found.built or found.rebuilt))

    def _obtain(self, graph: Path, key: EngineKey, options: EngineOptions) -> EngineBlob:
        cache = options.cache_dir
        if options.rebuild:
            text = "the %s engine of %s in the cache fails the golden set: building it anew, once: seconds to minutes"
            logger.warning(text, key.precision, key.library)
        elif cache is None or find_engine(cache, key) is None:
            text = "building the %s engine of %s for this GPU, once: seconds to minutes"
            logger.info(text, key.precision, key.library)
        cancelled, device_context = options.cancelled, self._device_context(options)
        if cache is None:
            return EngineBlob(build_engine(graph, key, cancelled=cancelled, device_context=device_context), graph, True, None)
        return obtain_engine(cache, graph, key, cancelled=cancelled, device_context=device_context, rebuild=options.rebuild)

    def _device_context(self, options: EngineOptions) -> DeviceContext:
        """What makes the engine's GPU the current one where it is built: the library tunes it on that."""
        return lambda: open_gpu(int(options.device)).current()

    def _key(self, sha256: str, options: EngineOptions) -> EngineKey:
        if options.execution not in _GRAPHS:
            offered = ", ".join(_GRAPHS)
            raise DeviceError(f"{self._library} computes in {offered}; {options.execution} is not offered")
        return EngineKey(
            graph=sha256,
            models="ensemble",
            precision=_GRAPHS[options.execution],
            library=self._library,
            version=library_version(self._library),
            platform=platform_name(),
            gpu=gpu_facts(find_gpu(int(options.device))),
        )


TENSORRT = Runner("tensorrt")
TENSORRT_RTX = Runner("tensorrt-rtx")
