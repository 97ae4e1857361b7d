"""Engines as a cache keeps them: the machines that ask for them, and their bytes."""

from __future__ import annotations

from blastscope.runtime.backends.tensorrt.catalog import EngineHost
from blastscope.runtime.backends.tensorrt.key import platform_name
from blastscope.runtime.cuda.driver import GpuFacts

GPU = GpuFacts(name="NVIDIA RTX A4000", capability="8.6", driver="580.65.06")
MACHINE = EngineHost(platform_name(), {"tensorrt-rtx": "1.7.1.116", "tensorrt": "10.16.1.11"}, (GPU,))
BARE = EngineHost(platform_name(), {"tensorrt-rtx": "1.7.1.116"}, (), "no NVIDIA driver is installed")
ENGINE = bytes(range(256)) * 4
