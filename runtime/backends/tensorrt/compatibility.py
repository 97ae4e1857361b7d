"""Why an engine doesn't fit a machine or a bundle, field by field of its key.

What this machine has that an engine depends on: platform, libraries, GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from blastscope.runtime.backends.tensorrt.key import LAYOUT, EngineKey, Library, platform_name, runs_on
from blastscope.runtime.backends.tensorrt.library import LIBRARIES, is_installed, library_version
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.cuda.driver import GpuFacts, gpu_facts, probe
from blastscope.runtime.errors import DriverError, EngineError, MissingLibrary


def incompatibilities(key: EngineKey, machine: Machine, bundle: Bundle | None = None) -> list[str]:
    """The reasons why an engine of `key` can't be used on `machine`, and for `bundle` where one is named.

    That no GPU is here, or none that it is for, isn't among them: see `gpu_incompatibility`.
    """
    return [*_library(key, machine), *(_graph(key, bundle) if bundle else ())]


def _library(key: EngineKey, machine: Machine) -> Iterator[str]:
    if key.layout != LAYOUT:
        yield f"built by another version of blastscope (layout {key.layout}, this one makes {LAYOUT})"
    if key.platform != machine.platform:
        yield f"built on {key.platform}, this is {machine.platform}"
    version = machine.versions.get(key.library)
    if version is None:
        yield f"{key.library} is not installed here: pip install 'blastscope[{key.library}]'"
    elif version != key.version:
        yield f"built by {key.library} {key.version}, {version} is installed"


def _graph(key: EngineKey, bundle: Bundle) -> Iterator[str]:
    entry = next((entry for entry in bundle.manifest.graphs if entry.sha256 == key.graph), None)
    if entry is None:
        yield f"its graph {key.graph[:12]}… is not in bundle '{bundle.path}'"
        return
    if entry.models != key.models:
        yield f"its graph is that of '{entry.models}', its key says '{key.models}'"
    if entry.precision != key.precision:
        yield f"its graph is {entry.precision}, its key says {key.precision}"


def gpu_incompatibility(key: EngineKey, machine: Machine) -> str | None:
    """Why no GPU of `machine` can run an engine of `key`; None where one can."""
    if not machine.gpus:
        return "no GPU can be used here: 'blastscope devices' says why"
    if key.gpu is None:
        if any(runs_on(key.targets, gpu) for gpu in machine.gpus):
            return None
        have = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in machine.gpus)
        return f"built for {', '.join(key.targets) or 'GPUs from sm80 on'}, here is {have}"
    if key.gpu in machine.gpus:
        return None
    return min((_difference(key.gpu, gpu) for gpu in machine.gpus), key=len)


def _difference(built: GpuFacts, here: GpuFacts) -> str:
    if built.name != here.name:
        return f"built on '{built.name}', here is '{here.name}'"
    if built.capability != here.capability:
        return f"built for compute capability {built.capability}, here is {here.capability}"
    return f"built with driver {built.driver}, here is {here.driver}"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as engines see it."""

    platform: str
    versions: Mapping[Library, str]  # of the libraries that can be loaded
    gpus: tuple[GpuFacts, ...]
    no_gpu: str | None = None  # the reason, where there is none

    @classmethod
    def here(cls) -> Self:
        """The machine that runs this. Loads the libraries that are installed, and takes no GPU memory."""
        versions: dict[Library, str] = {}
        for library in LIBRARIES:
            try:
                if is_installed(library):
                    versions[library] = library_version(library)
            except (EngineError, MissingLibrary):
                continue  # too old or broken, which the verbs that need it say
        try:
            gpus = tuple(gpu_facts(gpu) for gpu in probe().gpus)
        except DriverError as error:
            return cls(platform_name(), versions, (), str(error))
        return cls(platform_name(), versions, gpus)
