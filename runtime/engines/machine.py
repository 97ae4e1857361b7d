"""What this machine has that an engine depends on: platform, libraries, GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from blastscope.runtime.engines.key import GpuFacts, Library, platform_name
from blastscope.runtime.engines.library import LIBRARIES, is_installed, library_version
from blastscope.runtime.errors import DriverError, EngineError, MissingLibrary
from blastscope.runtime.gpu.driver import probe
from blastscope.runtime.gpu.facts import facts_of


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
            gpus = tuple(facts_of(gpu) for gpu in probe().gpus)
        except DriverError as error:
            return cls(platform_name(), versions, (), str(error))
        return cls(platform_name(), versions, gpus)
