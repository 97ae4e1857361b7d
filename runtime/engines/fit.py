"""Why an engine doesn't fit a machine or a bundle, field by field of its key."""

from __future__ import annotations

from collections.abc import Iterator

from blastscope.runtime.bundle import Bundle
from blastscope.runtime.engines.key import LAYOUT, EngineKey, GpuFacts, runs_on
from blastscope.runtime.engines.machine import Machine


def misfits(key: EngineKey, machine: Machine, bundle: Bundle | None = None) -> list[str]:
    """The reasons why an engine of `key` can't be used on `machine`, and for `bundle` where one is named.

    That no GPU is here, or none that it is for, isn't among them: see `gpu_misfit`.
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


def gpu_misfit(key: EngineKey, machine: Machine) -> str | None:
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
