"""Protocols of the inference backends: `Backend`, `Engine` and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.graphs import read_graph
from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.errors import EngineError, UsageError
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.types import CLASSES, VOTERS, Box, Execution, Layout, Refusal

Workload = Literal["latency", "throughput"]
PLAIN_OUTPUT, NOVELTY_OUTPUT = "probabilities", "answers"
ANSWER_SHAPES = {PLAIN_OUTPUT: (len(VOTERS), len(CLASSES)), NOVELTY_OUTPUT: (len(VOTERS) + 1, len(CLASSES))}
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


class Backend(Protocol):
    """One loaded fused graph. Not thread-safe. Owns its memory until `close`; `infer` may reuse its output buffer."""

    name: str  # as in benchmark rows, such as 'openvino'

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answers (N, R, 2) on `crops` (N, S, S, 3), see `answer_output`. Raises `EngineError`."""
        ...

    def close(self) -> None:
        """Frees what the backend holds. Safe to call twice."""
        ...


class Cascade(NamedTuple):
    """When the voter that is run first decides alone.

    Attributes
    ----------
    first : int
        The voter that runs first, as an index into `VOTERS`: a or b.
    threshold : float
        It decides alone where its larger probability is at least this.
    """

    first: int
    threshold: float


class PartialInference(Backend, Protocol):
    """A lane that can leave voters out."""

    def infer_in_turn(self, crops: NDArray[np.uint8], cascade: Cascade) -> NDArray[np.float32]:
        """Answers (N, R, 2), NaN for the voters that were not run. Raises `EngineError`."""
        ...


class BatchResult(NamedTuple):
    """What an engine answered to a batch of images.

    Attributes
    ----------
    found : list of (x0, y0, x1, y1) or Refusal
        For each image the cell's box in its pixels, or why there is none.
    answers : (n, R, 2) float32 array
        The network's answers, see `answer_output`; those of a refused image mean nothing.
    """

    found: list[Box | Refusal]
    answers: NDArray[np.float32]


class ImageLane(Backend, Protocol):
    """A lane that crops by itself, so that an image is handed over once and only the answer comes back."""

    def infer_images(self, images: Sequence[Any]) -> BatchResult:
        """What becomes of `images`, each as `ImageInput.check` gave it. Raises `EngineError`, `DeviceError`s."""
        ...


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The lanes of an engine once more, for images instead of crops.

    Attributes
    ----------
    lanes : tuple of ImageLane
        As many as the engine's.
    check : callable
        Takes an image as the caller has it, in the caller's thread, and gives it as `infer_images` wants it; or raises
        `ImageError`.
    retain : callable
        Takes what `check` gave, and gives a copy, so that the caller's buffer may be used again.
    """

    lanes: tuple[ImageLane, ...]
    check: Callable[[object], Any]
    retain: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a graph is to be loaded.

    Attributes
    ----------
    workload : {'latency', 'throughput'}
        One answer as soon as possible, or as many a second as possible.
    execution : {'f32', 'bf16', 'f16', 'int8'}
        The number type to compute in.
    layout : {'fused', 'side-by-side', 'paired', 'staged'}
        How the network lies on the cores.
    threads : int or None
        None: as many as the process may use.
    cache_dir : Path or None
        Where compiled engines are kept; None: nowhere.
    device : str
        As the inference library calls it.
    crop : CropSpecification or None
        For engines that crop by themselves.
    rebuild : bool
        Takes no engine from the cache, since the one there answers wrongly.
    defer_save : bool
        Puts a compiled engine into the cache only when `Engine.save_to_cache` is called.
    cancelled : callable or None
        Asked again and again during a build that takes long; true ends it.
    """

    workload: Workload = "latency"
    execution: Execution = "f32"
    layout: Layout = "fused"
    threads: int | None = None
    cache_dir: Path | None = None
    device: str = "CPU"
    crop: CropSpecification | None = None
    rebuild: bool = False
    defer_save: bool = False
    cancelled: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """A graph loaded for one device: as many lanes as can work at the same time, each for one thread at a time.

    Attributes
    ----------
    lanes : tuple of Backend
        Each for one thread at a time.
    backend, device : str
        Names of the backend and of the device.
    execution : {'f32', 'bf16', 'f16', 'int8'}
        The number type that it computes in, as the library says.
    digest : str
        SHA-256, in hex, over all that can change the engine: graph, library, device, execution, threads.
    batch : int
        How many crops a lane likes to get at once.
    notes : tuple of str
        What its user should know, in sentences.
    layout : {'fused', 'side-by-side', 'paired', 'staged'}
        How the network lies on the cores.
    image_input : ImageInput or None
        The same lanes for images, where the engine crops by itself.
    partial_lanes : tuple of PartialInference
        The same lanes, where they can leave voters out.
    content_sha256 : bytes or None
        SHA-256 of the cached file that it was loaded from; None: of none.
    from_cache : bool
        Whether it was loaded from a file that `EngineOptions.rebuild` may replace by a better one.
    save_to_cache : callable or None
        To be called once. Gives None, or the reason why it can't be saved.
    on_close : callable or None
        Frees what the lanes share. May be called twice.
    """

    lanes: tuple[Backend, ...]
    backend: str
    device: str
    execution: Execution
    digest: str
    batch: int = 1
    notes: tuple[str, ...] = ()
    layout: Layout = "fused"
    image_input: ImageInput | None = None
    partial_lanes: tuple[PartialInference, ...] = ()
    content_sha256: bytes | None = None
    from_cache: bool = False
    save_to_cache: Callable[[], str | None] | None = None
    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Closes every lane, and then what they share. Safe to call twice."""
        for lane in self.lanes:
            lane.close()
        if self.on_close:
            self.on_close()


class BackendModule(Protocol):
    """What `BACKENDS` and `GPU_BACKENDS` name: a backend's module, or an object in one."""

    def executions(self, device: str) -> tuple[Execution, ...]:
        """What `device` can compute in. Raises `MissingLibrary` and `DeviceError`."""
        ...

    def fingerprint(self, device: str) -> dict[str, str]:
        """What of library and device can change an engine or its speed."""
        ...

    def open_engine(self, graph: Path, sha256: str, options: EngineOptions) -> Engine:
        """Loads a graph.

        Parameters
        ----------
        graph : Path
            The ONNX file.
        sha256 : str
            Its digest in hex: other bytes are refused.
        options : EngineOptions
            How it is loaded.

        Returns
        -------
        Engine

        Raises
        ------
        UnavailableError
            The library or the device is missing, or can't take the graph.
        """
        ...


class HostBackendModule(BackendModule, Protocol):
    """The same for a CPU, whose cores can be shared out in several ways."""

    def offered_layouts(self, device: str, workload: Workload, threads: int | None) -> tuple[Layout, ...]:
        """The layouts worth measuring on `device`, the one that is taken unmeasured first."""
        ...


class GpuBackendModule(BackendModule, Protocol):
    """The same for an NVIDIA GPU, where an engine may take minutes to build. `device` is the GPU's number."""

    def prepared(self, sha256: str, options: EngineOptions) -> bool:
        """Whether `open_engine` finds what it needs in the cache, or needs nothing from there."""
        ...

    def build(self, graph: Path, sha256: str, options: EngineOptions) -> None:
        """Puts into the cache what `open_engine` needs. Raises `UnavailableError`s."""
        ...


def read_fused(graph: Path, sha256: str, options: EngineOptions) -> bytes:
    """The bytes of the fused graph at `graph`, verified and examined. Raises `RefusedGraph`, which is an `EngineError`."""
    side_px = options.crop.side_px if options.crop else None  # told for a bundle's graph
    return read_graph(graph, sha256, models="ensemble" if options.crop else None, side_px=side_px)


def first_voter_decides(pairs: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Which cells a first voter with the probabilities `pairs` (N, 2) decides alone, (N,).

    Those whose larger probability is at least `threshold`, both as float32. Raises `EngineError` where one is not a number.
    """
    require_finite(pairs)
    sure: NDArray[np.bool_] = pairs.max(axis=1, initial=0) >= np.float32(threshold)
    return sure


def answer_output(shapes: Mapping[str, Sequence[object]], graph: object) -> tuple[str, tuple[int, int]]:
    """The output of a fused graph that lanes give, and its shape (R, 2) for one crop.

    Its rows are the probabilities of a, b and combined; where the graph has `answers`, a fourth row holds the cell's novelty
    twice (runtime/FORMAT.md). `shapes` are the graph's outputs by name, the batch first. Raises `EngineError` for a graph that
    is not a fused one, and names it as `graph`.
    """
    name = NOVELTY_OUTPUT if NOVELTY_OUTPUT in shapes else PLAIN_OUTPUT
    if tuple(shapes.get(name, ()))[1:] != ANSWER_SHAPES[name]:
        raise EngineError(f"'{graph}' is not a fused graph: its outputs are {dict(shapes)}")
    return name, ANSWER_SHAPES[name]


def require_finite(probabilities: NDArray[np.float32]) -> None:
    """Raises `EngineError` where one of `probabilities` is NaN or infinite."""
    if not np.isfinite(probabilities).all():
        raise EngineError("a network answered with something that is not a number")


def load_backend(name: str) -> HostBackendModule:
    """The module of the backend `name`. Raises `UsageError`; its functions raise `MissingLibrary`."""
    return cast(HostBackendModule, _load(name, BACKENDS, "device='cuda'" if name in GPU_BACKENDS else ""))


def load_gpu_backend(name: str) -> GpuBackendModule:
    """The module of a backend for NVIDIA GPUs."""
    return cast(GpuBackendModule, _load(name, GPU_BACKENDS, "device='cpu'" if name in BACKENDS else ""))


def _load(name: str, table: Mapping[str, str], elsewhere: str) -> object:
    if name not in table:
        problem = f"is of another device ({elsewhere})" if elsewhere else "is not known"
        raise UsageError(f"backend '{name}' {problem}: say {' or '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def open_engine(graph: Path, options: EngineOptions, *, backend: str = "openvino", sha256: str | None = None) -> Engine:
    """The fused graph in an ONNX file, loaded by a backend.

    Parameters
    ----------
    graph : Path
        The file.
    options : EngineOptions
        How it is loaded.
    backend : str
        One of `BACKENDS`.
    sha256 : str, optional
        The file's digest in hex; saves reading it where it is known.

    Returns
    -------
    Engine
    """
    return load_backend(backend).open_engine(graph, sha256 or file_sha256(graph), options)
