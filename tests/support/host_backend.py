"""A library of engines for the host's GPU, as the table of GPU backends finds it: ONNX Runtime on the CPU in TensorRT's place.

An engine is "built" by touching a file in the cache, so that building, finding and cancelling are those of a real one.
"""

from __future__ import annotations

import threading
from pathlib import Path

from host_gpu import FOUND, HostGpu, RecordableNetwork
from host_kernels import HostKernels

from blastscope.runtime.backends.blob_store import engine_digest
from blastscope.runtime.backends.nvidia.engine_factory import make_engine
from blastscope.runtime.backends.onnxruntime.gpu import BoundNetwork
from blastscope.runtime.backends.protocol import Engine, EngineOptions, read_fused
from blastscope.runtime.errors import EngineError
from blastscope.runtime.types import Execution


class HostRunner:
    """See `GpuBackendModule`."""

    def __init__(self, name: str = "tensorrt", *, recordable: bool = True) -> None:
        self.name, self.recordable = name, recordable
        self.gpu: HostGpu | None = None
        self.builds = 0
        self.may_build = threading.Event()
        self.may_build.set()
        self.fails: Exception | None = None
        self.offered: tuple[Execution, ...] = ("f32", "f16", "int8")

    def executions(self, device: str) -> tuple[Execution, ...]:
        return self.offered

    def fingerprint(self, device: str) -> dict[str, str]:
        return {"backend": self.name, "gpu": FOUND.name}

    def prepared(self, sha256: str, options: EngineOptions) -> bool:
        return self._file(sha256, options).exists()

    def build(self, graph: Path, sha256: str, options: EngineOptions) -> None:
        file = self._file(sha256, options)
        while not self.may_build.wait(0.01):
            if options.cancelled and options.cancelled():
                raise EngineError("a build on the host was cancelled")
        if self.fails:
            raise self.fails
        self.builds += 1
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def open_engine(self, graph: Path, sha256: str, options: EngineOptions) -> Engine:
        if not self.prepared(sha256, options):
            self.build(graph, sha256, options)
        if self.gpu is None or self.gpu.lost:
            self.gpu = HostGpu(HostKernels().launch)
        gpu = self.gpu
        content = read_fused(graph, sha256, options)

        def load() -> RecordableNetwork | BoundNetwork:
            bound = BoundNetwork(gpu, content, "CPUExecutionProvider")
            return RecordableNetwork(gpu, bound) if self.recordable else bound

        digest = engine_digest({"graph": sha256, "execution": options.execution})
        return make_engine(gpu, load, options, name=self.name, execution=options.execution, digest=digest)

    def _file(self, sha256: str, options: EngineOptions) -> Path:
        assert options.cache_dir is not None
        return options.cache_dir / f"{self.name}-{sha256[:16]}-{options.execution}"
