"""What a benchmark prints: machine, versions, and a row for each side and batch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.record import Record

LIBRARIES = ("blastscope", "numpy", "openvino", "onnxruntime", "opencv-python-headless", "torch", "timm")


class Machine(Record):
    """Where the figures come from."""

    processor: str
    features: tuple[str, ...]  # instruction sets that decide how fast a precision can be
    cores: int  # those this process may use
    system: str
    python: str


class Row(Record):
    """One side at one batch, in milliseconds for the whole batch, from images in host memory to labels in host memory."""

    name: str  # network/precision/engine; precision-execution where the engine computes in another type than the graph's
    batch: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    ratio: float | None  # times faster than the PyTorch side at this batch, by the medians
    load_s: float | None = None  # in a process of its own: from its start to the first answer
    peak_mib: float | None = None  # of that process


class BenchResult(Record):
    """One run of `blastscope bench`."""

    machine: Machine
    versions: dict[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def make_row(name: str, batch: int, times_ms: NDArray[np.float64], peer_ms: NDArray[np.float64] | None) -> Row:
    """The row of one side's samples; no sample is dropped."""
    p50, p95, p99 = (float(value) for value in np.percentile(times_ms, (50, 95, 99)))
    ratio = None if peer_ms is None else float(np.median(peer_ms)) / p50
    return Row(
        name=name,
        batch=batch,
        calls=len(times_ms),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=float(times_ms.max()),
        ratio=ratio,
    )


def this_machine() -> Machine:
    """The machine this runs on."""
    text = cpu_text()
    flags = next((line.split(":", 1)[1].split() for line in text if line.startswith("flags")), [])
    model = next((line.split(":", 1)[1].strip() for line in text if line.startswith("model name")), platform.processor())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return Machine(
        processor=model or "unknown",
        features=tuple(flag for flag in wanted if flag in flags),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=platform.platform(terse=True),
        python=platform.python_version(),
    )


def cpu_text() -> list[str]:
    """The lines of /proc/cpuinfo, or none where there is no such file."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of those of `names` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
