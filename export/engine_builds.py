"""Builds TensorRT engines of a bundle's graphs, for the GPU at hand or ahead of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from blastscope.runtime.backends.tensorrt.builder import BuildStep
from blastscope.runtime.backends.tensorrt.catalog import EngineHost
from blastscope.runtime.backends.tensorrt.engine_store import obtain_engine
from blastscope.runtime.backends.tensorrt.key import (
    BatchProfile,
    EngineKey,
    Library,
    detector_key,
    engine_key,
    is_installed,
    library_version,
)
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.bundle.manifest import FileEntry, GraphEntry
from blastscope.runtime.errors import DriverError, EngineError, MissingLibrary, UsageError
from blastscope.runtime.types import Precision

Models = Literal["ensemble", "all"]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Which engines are to be built.

    Attributes
    ----------
    library : Library or None
        TensorRT or TensorRT-RTX; None: the one that is installed.
    precisions : tuple of Precision
        Precisions of the graphs; none: all that the bundle has.
    models : Models
        Which networks.
    profile : BatchProfile
        How many crops a call may hold.
    targets : tuple of str or None
        Kinds of GPU; (): portable; None: the GPU at hand, portable where there is none.
    """

    library: Library | None = None
    precisions: tuple[Precision, ...] = ()
    models: Models = "all"
    profile: BatchProfile = field(default_factory=BatchProfile)
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class PlannedEngine:
    """One engine to build.

    Attributes
    ----------
    entry : FileEntry
        The graph, as the manifest lists it.
    key : EngineKey
        What the engine was built from, for and by.
    """

    entry: FileEntry
    key: EngineKey


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """One engine that is in the cache now.

    Attributes
    ----------
    path : Path
        The file.
    key : EngineKey
        What the engine was built from, for and by.
    size : int
        Size in bytes.
    built : bool
        False where it was there.
    """

    path: Path
    key: EngineKey
    size: int
    built: bool


class BuildObserver(Protocol):
    """Called with the progress of builds."""

    def begin(self, planned: PlannedEngine) -> None:
        """The next engine is looked for."""
        ...

    def step(self, step: BuildStep) -> None:
        """Where its build stands; called from the build's thread."""
        ...


def plan_engines(bundle: Bundle, request: BuildRequest, machine: EngineHost) -> list[PlannedEngine]:
    """The engines that a request asks for, each with its key.

    Parameters
    ----------
    bundle : Bundle
        Whose graphs.
    request : BuildRequest
        Which library, precisions, batches and GPUs.
    machine : EngineHost
        What is here.

    Returns
    -------
    list of PlannedEngine

    Raises
    ------
    UsageError
        What is asked for isn't in the bundle, or not within the library's means.
    DriverError
        The library needs the GPU, and none is here.
    MissingLibrary
        The library isn't installed.
    """
    library = request.library or _installed(machine, ahead=request.targets is not None)
    entries = _entries(bundle, request)
    version = library_version(library)
    gpu = None
    if request.targets is None and machine.gpus:
        gpu = machine.gpus[0]
    elif request.targets is None and library == "tensorrt":
        raise DriverError(f"tensorrt builds only on the GPU that will run the engine, and {machine.no_gpu}", reason="no gpu")
    keys = [
        engine_key(one, library, version, profile=request.profile, gpu=gpu, targets=request.targets or ()) for one in entries
    ]
    planned = [PlannedEngine(entry, key) for entry, key in zip(entries, keys, strict=True)]
    detector = bundle.manifest.detector
    if detector:
        # with the ensemble in fp16 the detector runs in fp32, which it has in place of it
        wanted = dict.fromkeys(one.precision if one.precision in detector.graphs else "fp32" for one in entries)
        for precision in wanted:
            file = detector.graphs[precision]
            key = detector_key(file, precision, library, version, gpu=gpu, targets=request.targets or ())
            planned.append(PlannedEngine(file, key))
    return planned


def _installed(machine: EngineHost, *, ahead: bool) -> Library:
    """TensorRT where a GPU is here and nothing is to travel, since it tunes for that very GPU; else TensorRT-RTX."""
    if is_installed("tensorrt") and machine.gpus and not ahead:
        return "tensorrt"
    if not is_installed("tensorrt-rtx"):
        raise MissingLibrary("tensorrt_rtx", "tensorrt-rtx")
    return "tensorrt-rtx"


def _entries(bundle: Bundle, request: BuildRequest) -> list[GraphEntry]:
    graphs = [entry for entry in bundle.manifest.graphs if request.models == "all" or entry.models == "ensemble"]
    has = list(dict.fromkeys(entry.precision for entry in graphs))
    for precision in request.precisions:
        if precision not in has:
            remedy = f"blastscope calibrate makes {precision}" if precision == "int8" else "export the run anew"
            raise UsageError(f"bundle '{bundle.path}' has no {precision} graph, it has {', '.join(has)}: {remedy}")
    return [entry for entry in graphs if not request.precisions or entry.precision in request.precisions]


def build_engines(
    bundle: Bundle, planned: Sequence[PlannedEngine], cache_dir: Path, observer: BuildObserver
) -> Iterator[BuiltEngine]:
    """Builds what is not in the cache yet, one after the other. Raises `EngineError`, also where an engine can't be kept."""
    for one in planned:
        observer.begin(one)
        graph = bundle.file(one.entry)
        found = obtain_engine(cache_dir, graph, one.key, progress=observer.step, exact=True)
        if found.note:
            raise EngineError(found.note)
        yield BuiltEngine(found.path, one.key, len(found.data), found.built)
