"""The table of backends, and the cache of compiled engines: derived files, known by a digest of all that can change them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import Engine, EngineOptions, GpuBackendModule, HostBackendModule
from blastscope.runtime.bundle.atomic import write_file
from blastscope.runtime.bundle.digest import file_sha256
from blastscope.runtime.device import cpu_identity
from blastscope.runtime.errors import UsageError

BACKENDS = {
    "openvino": "blastscope.runtime.backends.openvino_cpu",
    "onnxruntime": "blastscope.runtime.backends.onnxruntime_cpu",
}
# on an NVIDIA GPU, the likely fastest first; the two TensorRTs are one module's
GPU_BACKENDS = {
    "tensorrt": "blastscope.runtime.backends.tensorrt_gpu:TENSORRT",
    "tensorrt-rtx": "blastscope.runtime.backends.tensorrt_gpu:TENSORRT_RTX",
    "onnxruntime": "blastscope.runtime.backends.onnxruntime_gpu",
}
LAYOUT = "4"  # of what the backends make of a graph: raise it when they make something else
_SEAL = 32  # bytes of sha256 at an engine file's end
_UNUSED_DAYS = 90


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


def engine_digest(facts: Mapping[str, str]) -> str:
    """The digest of `facts` and of the machine."""
    machine = {"layout": LAYOUT, "platform": f"{sys.platform} {platform.machine()}", "cpu": cpu_identity()}
    return hashlib.sha256(json.dumps({**machine, **facts}, sort_keys=True).encode()).hexdigest()


def engine_file(cache_dir: Path, digest: str) -> Path:
    """Where the engine of that digest is kept."""
    return cache_dir / "engines" / f"{digest}.engine"


class Kept(NamedTuple):
    """An engine from the cache."""

    data: NDArray[np.uint8]  # mapped: writing into it doesn't change the file
    seal: bytes  # its sha256


def read_engine(path: Path) -> Kept | None:
    """The engine kept at `path`; None where there is none or where it is damaged."""
    try:
        data = np.asarray(np.memmap(path, np.uint8, "c"))
        os.utime(path)
    except (OSError, ValueError):  # ValueError: an empty file
        return None
    body, seal = data[:-_SEAL], data[-_SEAL:].tobytes()
    return Kept(body, seal) if len(data) > _SEAL and hashlib.sha256(body.data).digest() == seal else None


def write_engine(path: Path, *pieces: bytes | memoryview) -> str | None:
    """Keeps `pieces` in a row at `path`, sealed with their digest. Gives the reason where the cache can't be written."""

    def fill(fresh: Path) -> None:
        digest = hashlib.sha256()
        with fresh.open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
                digest.update(piece)
            stream.write(digest.digest())

    try:
        write_file(path, fill)
        _drop_unused(path.parent)
    except OSError as error:
        return f"'{path.parent}' can't be written ({error.strerror or error})"
    return None


def _drop_unused(folder: Path) -> None:
    """Deletes engines that nobody has opened for months: of libraries and bundles that are gone."""
    oldest = time.time() - _UNUSED_DAYS * 86400
    for path in (*folder.glob("*.engine"), *folder.glob("*.proof")):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:
            continue  # another process was faster
