"""TensorRT 10.3 to 11 and TensorRT-RTX: one runner for both, since their APIs match. What only some have is asked for by name.

The engine comes from the user's cache or is built there (backends/tensorrt/engine_store.py).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from blastscope.runtime.backends.nvidia.engine_factory import make_engine
from blastscope.runtime.backends.protocol import Engine, EngineOptions
from blastscope.runtime.backends.tensorrt.builder import Within, build_engine
from blastscope.runtime.backends.tensorrt.context import TensorRtNetwork, UnreadableEngine
from blastscope.runtime.backends.tensorrt.engine_store import EngineBlob, find_engine, obtain_engine, store_engine
from blastscope.runtime.backends.tensorrt.key import EngineKey, Library, library_version, platform_name
from blastscope.runtime.cuda.driver import find_gpu, gpu_facts
from blastscope.runtime.cuda.pycuda_device import open_gpu
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.types import Execution, Precision

logger = logging.getLogger(__name__)

# strongly typed: a graph is computed in what it is written in, and in nothing else
_GRAPHS: dict[Execution, Precision] = {"f32": "fp32", "f16": "fp16", "int8": "int8"}


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
            data = build_engine(graph, key, cancelled=options.cancelled, within=self._within(options))
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
        built = (f"the {key.precision} engine was built just now, by {key.library} for {key.place}",) if found.built else ()
        return make_engine(
            gpu,
            lambda: TensorRtNetwork(gpu, self._library, found.data, compiled),
            options,
            name=self._library,
            execution=options.execution,
            digest=key.digest,
            notes=(*built, *((found.note,) if found.note else ())),
        )

    def _obtain(self, graph: Path, key: EngineKey, options: EngineOptions) -> EngineBlob:
        cache = options.cache_dir
        if cache is None or find_engine(cache, key) is None:
            text = "building the %s engine of %s for this GPU, once: seconds to minutes"
            logger.info(text, key.precision, key.library)
        cancelled, within = options.cancelled, self._within(options)
        if cache is None:
            return EngineBlob(build_engine(graph, key, cancelled=cancelled, within=within), graph, True, None)
        return obtain_engine(cache, graph, key, cancelled=cancelled, within=within)

    def _within(self, options: EngineOptions) -> Within:
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
