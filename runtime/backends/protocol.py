"""What every inference library shows to the runtime: lanes of three members, and an engine that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.classes import Execution

Workload = Literal["latency", "throughput"]


class Backend(Protocol):
    """One loaded fused graph. Not thread-safe. Owns its memory until `close`; `infer` may reuse its output buffer."""

    name: str  # as in benchmark rows, such as 'openvino'

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, 3, 2) of `crops` (N, S, S, 3). Raises `EngineError`."""
        ...

    def close(self) -> None:
        """Frees what the backend holds. Safe to call twice."""
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a graph is to be loaded."""

    workload: Workload = "latency"  # one answer as soon as possible, or as many a second as possible
    execution: Execution = "f32"
    threads: int | None = None  # None: what the process may use
    cache_dir: Path | None = None  # where compiled engines are kept; None: nowhere
    device: str = "CPU"  # as the inference library calls it


@dataclass(frozen=True, slots=True)
class Engine:
    """A graph loaded for one device: as many lanes as can work at the same time, each for one thread at a time."""

    lanes: tuple[Backend, ...]
    backend: str
    device: str
    execution: Execution  # read back from the library
    digest: str  # of everything that can change the engine: graph, library, device, execution, threads
    batch: int = 1  # crops that a lane likes to get at once
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """Closes every lane. Safe to call twice."""
        for lane in self.lanes:
            lane.close()


class BackendModule(Protocol):
    """A module of this folder, as the table in engines.py finds it."""

    def executions(self, device: str) -> tuple[Execution, ...]:
        """What `device` can compute in. Raises `MissingLibrary` and `DeviceError`."""
        ...

    def fingerprint(self, device: str) -> dict[str, str]:
        """What of library and device can change an engine or its speed."""
        ...

    def open_engine(self, graph: Path, sha256: str, options: EngineOptions) -> Engine:
        """Loads the ONNX file `graph`, whose digest is `sha256`. Raises `UnavailableError`s."""
        ...
