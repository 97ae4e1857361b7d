"""Which device a string names, and how much of this machine the process may use."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

KNOWN = "auto, cpu, cuda, cuda:N or openvino:NAME"
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")  # each adds products of 8 bits in 32 bits
_OPENCV = {"avx2": 11, "avx512f": 13, "avx512_vnni": 23}  # numbers of cv::CpuFeatures


def usable_threads() -> int:
    """How many threads this process can keep busy.

    Returns
    -------
    int
        The cores that it may run on, without their second threads, within its CPU quota; at least 1.
    """
    allowed = allowed_cpus()
    cores = len({_siblings(cpu) for cpu in allowed})
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota + 0.5) if quota else cores))


def cpu_identity() -> str:
    """A text that tells this CPU from others. Compiled engines must not travel between CPUs of different instruction sets.

    Returns
    -------
    str
        Several lines; on Linux from /proc/cpuinfo.
    """
    try:
        block = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU part", "Features")
    lines = [line for line in block.splitlines() if line.partition("\t")[0].partition(":")[0].strip() in wanted]
    return "\n".join([platform.machine(), *lines])


def cpu_name() -> str:
    """The processor's name as its maker gives it.

    Returns
    -------
    str
    """
    found = re.search(r"^model name\s*:\s*(.+)$", cpu_identity(), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def cpu_features() -> frozenset[str]:
    """The instruction sets of this CPU.

    Returns
    -------
    frozenset of str
        Linux' names, such as 'avx512_vnni'; on other systems only some that OpenCV looks for.
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpu_identity(), re.MULTILINE)
    if found:
        return frozenset(found[1].split())
    import cv2

    return frozenset(name for name, number in _OPENCV.items() if cv2.checkHardwareSupport(number))


def int8_sums_overflow() -> bool:
    """Whether this CPU adds products of uint8 and int8 in 16 bits, where sums can overflow, as x86 does without VNNI.

    Returns
    -------
    bool
        False where it isn't known.
    """
    features = cpu_features()
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    # AVX-VNNI, of CPUs without AVX-512, is told by Linux alone
    known = sys.platform == "linux" or "avx512f" in features
    return is_x86 and known and not features.intersection(VNNI)


def allowed_cpus() -> list[int]:
    """The numbers of the CPUs that this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """The hardware threads of `cpu`'s core, as Linux writes them; elsewhere every thread passes for a core."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The smallest CPU quota, in cores, of this process's control group and those above it."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    quotas = []
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = (root, root / "unified")  # where the older ones are mounted as well it is beside them
            quotas += [_quota_v2(folder / "cpu.max") for mount in mounts for folder in _upwards(mount, path)]
        elif "cpu" in controllers.split(","):
            mounts = (root / "cpu", root / controllers)  # the first is a link to the second where somebody made one
            quotas += [_quota_v1(folder) for mount in mounts for folder in _upwards(mount, path)]
    return min((quota for quota in quotas if quota), default=None)


def _upwards(root: Path, path: str) -> list[Path]:
    """The folder of `path` below `root`, and those above it up to `root`: in a container `path` may not be visible."""
    steps = [step for step in path.split("/") if step not in ("", "..")]
    return [root.joinpath(*steps[:count]) for count in range(len(steps), -1, -1)]


def _quota_v2(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
