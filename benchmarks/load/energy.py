"""Energy that a measurement took: RAPL's counters of a CPU's packages, NVML's of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from blastscope.runtime.cuda.driver import total_energy_mj

POWERCAP = Path("/sys/class/powercap")


class Energy(NamedTuple):
    """What a meter read."""

    joules: float | None  # None: it can't be had
    note: str  # what was measured, or why not


class EnergyMeter:
    """Reads the energy since its construction.

    A CPU's counters are those of its packages: whatever runs on them counts, other processes too. On most virtual machines, and
    for users other than root, there are none to read; `read` then says so.

    Parameters
    ----------
    device
        As a prediction's audit has it: 'cuda:0', say, reads that GPU; anything else the CPU.
    powercap
        Folder of the kernel's power capping framework.
    """

    def __init__(self, device: str, powercap: Path = POWERCAP) -> None:
        self._gpu = int(device.partition(":")[2] or 0) if device.startswith("cuda") else None
        self._powercap = powercap
        self._packages = {} if self._gpu is not None else self._read_packages()
        self._gpu_mj = None if self._gpu is None else total_energy_mj(self._gpu)

    def read(self) -> Energy:
        """The energy since construction."""
        if self._gpu is not None:
            now = total_energy_mj(self._gpu)
            if now is None or self._gpu_mj is None:
                return Energy(None, "can't be had: NVML doesn't tell this GPU's energy")
            return Energy((now - self._gpu_mj) / 1e3, "NVML, the GPU alone")
        if not self._packages:
            return Energy(None, f"can't be had: no readable RAPL counter below {self._powercap}")
        now_uj, joules = self._read_packages(), 0.0
        for zone, before in self._packages.items():
            if zone not in now_uj:
                return Energy(None, f"can't be had: {zone} can't be read any more")
            spent = now_uj[zone] - before
            joules += (spent if spent >= 0 else spent + self._wraps_at(zone)) / 1e6
        return Energy(joules, f"RAPL, {len(self._packages)} package{'s' if len(self._packages) > 1 else ''}, all processes")

    def _read_packages(self) -> dict[str, int]:
        """Microjoules of each package; sub-zones, such as intel-rapl:0:1, are part of them."""
        found = {}
        for zone in sorted(self._powercap.glob("*-rapl:*")):
            if zone.name.count(":") == 1:
                try:
                    if (zone / "name").read_text(encoding="ascii").startswith("package"):
                        found[zone.name] = int((zone / "energy_uj").read_text(encoding="ascii"))
                except (OSError, ValueError):
                    continue
        return found

    def _wraps_at(self, zone: str) -> int:
        return int((self._powercap / zone / "max_energy_range_uj").read_text(encoding="ascii"))
