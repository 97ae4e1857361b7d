"""Engines of NVIDIA's libraries: built from a bundle's graph, kept in the user's cache, and never taken from anywhere else.

`EngineKey` says what an engine depends on, `engine_key` makes one; `obtain_engine` finds that engine or builds it, while
`find_engine` and `build_engine` do one of the two; `load_library` is where both libraries are imported.
"""

from blastscope.runtime.engines.build import BuildStep, build_engine
from blastscope.runtime.engines.cache import Obtained, find_engine, obtain_engine
from blastscope.runtime.engines.key import BatchProfile, EngineKey, GpuFacts, Library, engine_key
from blastscope.runtime.engines.library import is_installed, library_version, load_library

__all__ = [
    "BatchProfile",
    "BuildStep",
    "EngineKey",
    "GpuFacts",
    "Library",
    "Obtained",
    "build_engine",
    "engine_key",
    "find_engine",
    "is_installed",
    "library_version",
    "load_library",
    "obtain_engine",
]
