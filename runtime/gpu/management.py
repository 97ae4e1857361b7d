"""NVIDIA's management library (NVML): the driver's version and the free memory, told without creating a context."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


@cache
def kernel_driver(library: str = LIBRARY) -> str | None:
    """The version of the kernel's module, such as 580.95.05; None where nothing tells it."""
    text = ctypes.create_string_buffer(96)
    with _opened(library) as nvml:
        if nvml is None or nvml.nvmlSystemGetDriverVersion(text, len(text)):
            return None
    return text.value.decode() or None


def free_memory(pci: str, library: str = LIBRARY) -> int | None:
    """Bytes that nobody uses on the GPU at the bus address `pci`; None where nothing tells it."""
    handle, memory = ctypes.c_void_p(), _Memory()
    with _opened(library) as nvml:
        if nvml is None or nvml.nvmlDeviceGetHandleByPciBusId_v2(pci.encode(), ctypes.byref(handle)):
            return None
        if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            return None
    return int(memory.free)


@contextmanager
def _opened(library: str) -> Iterator[Any]:
    """The library, initialised; None where it isn't there, as on a Jetson."""
    try:
        nvml = ctypes.CDLL(library)
        failed = nvml.nvmlInit_v2()
    except (OSError, AttributeError):
        yield None
        return
    try:
        yield None if failed else nvml
    finally:
        if not failed:
            nvml.nvmlShutdown()
