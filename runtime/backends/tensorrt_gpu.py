"""TensorRT 10.3 to 11 and TensorRT-RTX: one runner for both, since their APIs match. What only some have is asked for by name.

The engine comes from the user's cache or is built there (runtime/engines/).
"""

from __future__ import annotations

from pathlib import Path

from blastscope.runtime.backends.protocol import Engine, EngineOptions
from blastscope.runtime.backends.tensorrt_network import TensorRtNetwork
from blastscope.runtime.classes import Execution, Precision
from blastscope.runtime.engines import EngineKey, Library, build_engine, find_engine, library_version, obtain_engine
from blastscope.runtime.engines.cache import engine_path
from blastscope.runtime.engines.key import platform_name
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.gpu.driver import find_gpu
from blastscope.runtime.gpu.engine import engine_on
from blastscope.runtime.gpu.facts import facts_of
from blastscope.runtime.gpu.pycuda_gpu import open_gpu

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
        data, notes = self._obtain(graph, key, options)
        gpu = open_gpu(int(options.device))
        compiled = engine_path(options.cache_dir, key).with_suffix(".jit") if options.cache_dir else None
        return engine_on(
            gpu,
            lambda: TensorRtNetwork(gpu, self._library, data, compiled),
            options,
            name=self._library,
            execution=options.execution,
            digest=key.digest,
            notes=notes,
        )

    def build(self, graph: Path, sha256: str, options: EngineOptions) -> None:
        """Puts the engine of `graph` into the cache. Needs the driver's facts, and nothing of the GPU's memory in here."""
        self._obtain(graph, self._key(sha256, options), options)

    def _key(self, sha256: str, options: EngineOptions) -> EngineKey:
        if options.execution not in _GRAPHS:
            offered = ", ".join(_GRAPHS)
            raise DeviceError(f"{self._library} computes in {offered}; {options.execution} is not offered")
        return EngineKey(
            graph=sha256,
            models="fused",
            precision=_GRAPHS[options.execution],
            library=self._library,
            version=library_version(self._library),
            platform=platform_name(),
            gpu=facts_of(find_gpu(int(options.device))),
        )

    def _obtain(self, graph: Path, key: EngineKey, options: EngineOptions) -> tuple[bytes, tuple[str, ...]]:
        if options.tell and (options.cache_dir is None or find_engine(options.cache_dir, key) is None):
            options.tell(f"building the {key.precision} engine of {key.library} for this GPU, once: seconds to minutes")
        if options.cache_dir is None:
            return build_engine(graph, key, cancelled=options.cancelled), ()
        found = obtain_engine(options.cache_dir, graph, key, tell=options.tell, cancelled=options.cancelled)
        built = (f"the {key.precision} engine was built just now, for {key.library} on {key.place}",) if found.built else ()
        return found.data, (*built, *((found.note,) if found.note else ()))


TENSORRT = Runner("tensorrt")
TENSORRT_RTX = Runner("tensorrt-rtx")
