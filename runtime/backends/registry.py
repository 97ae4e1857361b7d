"""The backends by name, imported when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import cast

from blastscope.runtime.backends.protocol import Engine, EngineOptions, GpuBackendModule, HostBackendModule
from blastscope.runtime.errors import UsageError
from blastscope.runtime.io.hashing import file_sha256

BACKENDS = {
    "openvino": "blastscope.runtime.backends.openvino.backend",
    "onnxruntime": "blastscope.runtime.backends.onnxruntime.cpu",
}
# on an NVIDIA GPU, the likely fastest first; the two TensorRTs are one module's
GPU_BACKENDS = {
    "tensorrt": "blastscope.runtime.backends.tensorrt.backend:TENSORRT",
    "tensorrt-rtx": "blastscope.runtime.backends.tensorrt.backend:TENSORRT_RTX",
    "onnxruntime": "blastscope.runtime.backends.onnxruntime.gpu",
}


def load_backend(name: str) -> HostBackendModule:
    """The module of the backend `name`. Raises `UsageError`; a missing library is told by its functions."""
    return cast(HostBackendModule, _load(name, BACKENDS, "device='cuda'" if name in GPU_BACKENDS else ""))


def load_gpu_backend(name: str) -> GpuBackendModule:
    """The same for an NVIDIA GPU."""
    return cast(GpuBackendModule, _load(name, GPU_BACKENDS, "device='cpu'" if name in BACKENDS else ""))


def _load(name: str, table: Mapping[str, str], elsewhere: str) -> object:
    if name not in table:
        problem = f"is of another device ({elsewhere})" if elsewhere else "is not known"
        raise UsageError(f"backend '{name}' {problem}: say {' or '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def open_engine(graph: Path, options: EngineOptions, *, backend: str = "openvino", sha256: str | None = None) -> Engine:
    """The fused graph in the ONNX file `graph`, loaded by `backend`. `sha256` saves reading the file where it is known."""
    return load_backend(backend).open_engine(graph, sha256 or file_sha256(graph), options)
