"""A GPU as the key of an engine names it."""

from __future__ import annotations

from blastscope.runtime.engines import GpuFacts
from blastscope.runtime.gpu.driver import FoundGpu


def facts_of(found: FoundGpu) -> GpuFacts:
    """What of `found` an engine depends on: whoever builds and whoever looks for one must say the same."""
    return GpuFacts(name=found.name, capability=f"{found.capability[0]}.{found.capability[1]}", driver=found.driver)
