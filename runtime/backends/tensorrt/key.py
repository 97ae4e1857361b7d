"""What an engine depends on, as one record. Its digest names the engine, so a stale one can't be picked up.

The builder (builder.py) takes nothing but a key and the graph's bytes: what can change an engine stands here or changes
nothing.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from blastscope.runtime.bundle.manifest import Digest, FileEntry, GraphEntry
from blastscope.runtime.cuda.driver import GpuFacts
from blastscope.runtime.errors import EngineError, MissingLibrary, UsageError
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Precision

Library = Literal["tensorrt", "tensorrt-rtx"]
Target = Annotated[str, StringConstraints(pattern=r"^sm[1-9][0-9]{1,2}$")]

EngineModels = Literal["ensemble", "a", "b", "combined", "detector"]

LAYOUT = 1  # of what build.py makes of a graph: raise it when it makes something else
LARGEST_BATCH = 1024
PORTABLE_FROM = (8, 0)  # docs of TensorRT-RTX 1.7: an engine for no named GPU runs on Ampere and later
MODULES: dict[Library, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
LIBRARIES: tuple[Library, ...] = get_args(Library)
OLDEST_TENSORRT = (10, 3)  # JetPack 6


class BatchProfile(StrictModel):
    """How many crops a call of the engine may hold, and for how many it is tuned.

    Attributes
    ----------
    least, most : int
        Fewest and most crops of a call, 1 to 1024.
    likely : int
        For how many it is tuned.
    """

    least: int = Field(default=1, ge=1)
    likely: int = 8
    most: int = Field(default=64, le=LARGEST_BATCH)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The profile in `least:likely:most`, such as 1:8:64; a single number stands for all three. Raises `UsageError`."""
        found = re.fullmatch(r"([0-9]{1,5})(?::([0-9]{1,5}):([0-9]{1,5}))?", text)
        numbers = [int(part or found[1]) for part in found.groups()] if found else []
        if not numbers or not 1 <= numbers[0] <= numbers[1] <= numbers[2] <= LARGEST_BATCH:
            raise UsageError(f"batch '{text}' is not LEAST:LIKELY:MOST, rising from 1 to {LARGEST_BATCH}: say 1:8:64")
        return cls(least=numbers[0], likely=numbers[1], most=numbers[2])

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.least <= self.likely <= self.most:
            raise ValueError(f"the batch must rise from least to most, not {self}")
        return self

    def __str__(self) -> str:
        return f"{self.least}:{self.likely}:{self.most}"


class EngineKey(StrictModel):
    """Everything that can change an engine.

    Attributes
    ----------
    layout : int
        Version of what our builder makes of a graph.
    graph : str
        SHA-256 of the ONNX file, in hex.
    models : {'ensemble', 'a', 'b', 'combined', 'detector'}
        Which models the graph holds.
    precision : {'fp32', 'fp16', 'int8'}
        Number type of the graph's file.
    library : {'tensorrt', 'tensorrt-rtx'}
        What builds and runs it.
    version : str
        The library's.
    platform : str
        Operating system and processor.
    profile : BatchProfile
        How many crops it takes; a detector one picture, of any size.
    gpu : GpuFacts or None
        The GPU that it was built on; None where it was built ahead of time, on a machine that need not have one.
    targets : tuple of str
        Built ahead of time: the kinds of GPU that were named, such as 'sm86', in rising order; empty for a portable engine.
    """

    layout: int = LAYOUT
    graph: Digest
    models: EngineModels
    precision: Precision
    library: Library
    version: str = Field(min_length=1)
    platform: str
    profile: BatchProfile = BatchProfile()
    gpu: GpuFacts | None = None
    targets: tuple[Target, ...] = ()

    @model_validator(mode="after")
    def _is_for_one_machine_or_for_named_ones(self) -> Self:
        if self.gpu is not None and self.targets:
            raise ValueError("an engine is for the GPU at hand or for named ones, not both")
        if self.gpu is None and self.library != "tensorrt-rtx":
            raise ValueError(f"{self.library} builds only on the GPU that will run the engine")
        if list(self.targets) != sorted(set(self.targets), key=_order):
            raise ValueError("targets stand once each, in rising order")
        return self

    @property
    def digest(self) -> str:
        """sha256 over every field."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def place(self) -> str:
        """The GPUs that it is for, in a word: here-sm86, sm86+sm120, portable."""
        return f"here-{self.gpu.target}" if self.gpu else "+".join(self.targets) or "portable"

    @property
    def name(self) -> str:
        """The engine's file name, less its ending: what people want to read, and enough of the digest to be the only one."""
        return f"{self.models}-{self.precision}-{self.library}-{self.place}-{self.digest[:16]}"

    def serves(self, wanted: EngineKey) -> bool:
        """True if an engine of this key may run where one of the key `wanted`, built on its GPU, was asked for."""
        if self == wanted:
            return True
        if self.gpu is not None or wanted.gpu is None or not runs_on(self.targets, wanted.gpu):
            return False
        return self == wanted.model_copy(update={"gpu": None, "targets": self.targets})


def runs_on(targets: tuple[str, ...], gpu: GpuFacts) -> bool:
    """True if an engine built ahead of time for `targets` (none: portable) runs on `gpu`."""
    if targets:
        return gpu.target in targets
    major, minor = gpu.capability.split(".")
    return (int(major), int(minor)) >= PORTABLE_FROM


def sorted_targets(names: list[str]) -> tuple[str, ...]:
    """`names` of kinds of GPU as a key holds them. Raises `UsageError` for what is no such name."""
    for name in names:
        if not re.fullmatch(r"sm[1-9][0-9]{1,2}", name):
            raise UsageError(f"gpu '{name}' is not the name of a kind of GPU: say sm86, sm89, sm120 ...")
    return tuple(sorted(set(names), key=_order))


def _order(target: str) -> int:
    return int(target[2:])


def platform_name() -> str:
    """The operating system and processor: engines don't move between them."""
    return f"{sys.platform}-{platform.machine().lower()}"


def engine_key(
    entry: GraphEntry,
    library: Library,
    version: str,
    *,
    profile: BatchProfile | None = None,
    gpu: GpuFacts | None = None,
    targets: tuple[str, ...] = (),
) -> EngineKey:
    """The key of an engine of one of the bundle's graphs, for the GPU at hand or ahead of time.

    Parameters
    ----------
    entry : GraphEntry
        The graph.
    library : {'tensorrt', 'tensorrt-rtx'}
        What builds and runs it.
    version : str
        `library_version(library)`.
    profile : BatchProfile, optional
        How many crops it takes.
    gpu : GpuFacts, optional
        The GPU at hand; without it the engine is built ahead of time.
    targets : tuple of str
        Ahead of time: kinds of GPU, such as 'sm86'; empty for a portable engine.

    Returns
    -------
    EngineKey

    Raises
    ------
    UsageError
        The library can't build such an engine.
    """
    if gpu is None and library != "tensorrt-rtx":
        raise UsageError(f"{library} builds only on the GPU that will run the engine: for another machine take tensorrt-rtx")
    return EngineKey(
        graph=entry.sha256,
        models=entry.models,
        precision=entry.precision,
        library=library,
        version=version,
        platform=platform_name(),
        profile=profile or BatchProfile(),
        gpu=gpu,
        targets=targets,
    )


def detector_key(
    graph: FileEntry,
    precision: Precision,
    library: Library,
    version: str,
    *,
    gpu: GpuFacts | None = None,
    targets: tuple[str, ...] = (),
) -> EngineKey:
    """The key of an engine of the graph of a bundle's detector in `precision`; for the rest as `engine_key`."""
    return EngineKey(
        graph=graph.sha256,
        models="detector",
        precision=precision,
        library=library,
        version=version,
        platform=platform_name(),
        profile=BatchProfile(least=1, likely=1, most=1),
        gpu=gpu,
        targets=targets,
    )


def is_installed(name: Library) -> bool:
    """True if the library can be found; it is not loaded."""
    return find_spec(MODULES[name]) is not None


def load_library(name: Library) -> Any:
    """The library's module. Raises `MissingLibrary`, and `EngineError` where it is too old or broken."""
    module = MODULES[name]
    try:
        library = import_module(module)
    except ModuleNotFoundError as error:
        raise MissingLibrary(module, name) from error
    except (ImportError, OSError, RuntimeError) as error:
        remedy = f"pip install --force-reinstall 'blastscope[{name}]'"
        raise EngineError(f"'{module}' is installed and can't be loaded ({error}): {remedy}") from error
    version = str(library.__version__)
    if name == "tensorrt" and _numbers(version) < OLDEST_TENSORRT:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise EngineError(f"tensorrt {version} is older than {oldest}: pip install --upgrade 'blastscope[tensorrt]'")
    return library


def library_version(name: Library) -> str:
    """The version of the installed library. Raises as `load_library` does."""
    return str(load_library(name).__version__)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


@contextmanager
def capture_errors(name: Library) -> Iterator[list[str]]:
    """The errors that the library logs meanwhile, in this thread or in its own ones."""
    log = library_logger(name)
    found: list[str] = []
    log.listeners.append(found)
    try:
        yield found
    finally:
        log.listeners[:] = [one for one in log.listeners if one is not found]


@cache
def library_logger(name: Library) -> Any:
    """The logger for builders, parsers and runtimes of the library: silent, but for those who listen by `capture_errors`.

    One for the process, never freed: the library keeps the first that it is given, and calls it as long as it lives.
    """
    library = load_library(name)

    class Log(library.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.listeners: list[list[str]] = []
            self._lock = threading.Lock()

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                with self._lock:
                    for listener in self.listeners:
                        listener.append(" ".join(str(message).split()))

    return Log()
