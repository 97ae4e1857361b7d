"""NVIDIA's driver and its management library (NVML) through ctypes: which GPUs are there, or why none can be used.

Nothing here creates a context, so it takes no memory on the device. Without a driver it costs a tenth of a millisecond.
`GpuFacts` is what an engine's key says of a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from blastscope.runtime.errors import DeviceError, DeviceLost, DriverError, OutOfDeviceMemory
from blastscope.runtime.io.strict_model import StrictModel

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
OLDEST = (13, 0)  # the crop kernels are compiled by CUDA 13.0, and older drivers don't load what it makes
OLDEST_DRIVER = "580"
OLDEST_CAPABILITY = (7, 5)  # the kernels' oldest target
_REMEDY = f"install NVIDIA's driver {OLDEST_DRIVER} or later, or say device='cpu'"

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_OUT_OF_MEMORY = 2
# From these on every call in the context fails. 201: another library has reset it.
_LOST = {4, 201, 214, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720, 721, 999}
_NO_DRIVER = {3: "is not initialised", 34: "is a stub", 803: "and its kernel module differ in version", 35: "is too old"}
_NVML_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU that the driver offers.

    Attributes
    ----------
    ordinal : int
        Its number in the driver's order, which CUDA_VISIBLE_DEVICES changes.
    name : str
        As the driver calls it.
    capability : (int, int)
        CUDA's compute capability, major and minor.
    memory : int
        Size in bytes.
    pci : str
        Bus address, such as '0000:01:00.0'.
    driver : str
        Version of the kernel's module where it tells, else of CUDA.
    """

    ordinal: int
    name: str
    capability: tuple[int, int]
    memory: int
    pci: str
    driver: str

    @property
    def target(self) -> str:
        """The kind of GPU, such as 'sm86'."""
        return f"sm{self.capability[0]}{self.capability[1]}"

    def free(self) -> int | None:
        """Bytes of device memory that nobody uses; None where the management library doesn't tell."""
        return free_memory(self.pci)


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """A driver that can be used, with its GPUs; at least one.

    Attributes
    ----------
    cuda : (int, int)
        Newest CUDA that it serves, major and minor.
    version : str
        Version of the kernel's module where it tells, else of CUDA.
    gpus : tuple of GpuDevice
        The GPUs.
    """

    cuda: tuple[int, int]
    version: str
    gpus: tuple[GpuDevice, ...]

    def gpu(self, ordinal: int) -> GpuDevice:
        """The GPU of that number. Raises `DeviceError`."""
        if ordinal >= len(self.gpus):
            there = ", ".join(f"cuda:{gpu.ordinal} {gpu.name}" for gpu in self.gpus)
            raise DeviceError(f"there is no GPU 'cuda:{ordinal}' here: there is {there}")
        return self.gpus[ordinal]


def probe(library: str = LIBRARY) -> DriverInfo:
    """The driver and its GPUs. Raises `DriverError`: missing, too old, or without a GPU; never ends the process."""
    cuda = _load(library)
    version = ctypes.c_int()
    _check(cuda, "cuDriverGetVersion", ctypes.byref(version))
    newest = (version.value // 1000, version.value % 1000 // 10)
    if newest < OLDEST:
        raise DriverError(
            f"NVIDIA's driver serves CUDA {newest[0]}.{newest[1]}, and CUDA {OLDEST[0]}.{OLDEST[1]} is needed: {_REMEDY}",
            reason="too old",
        )
    _check(cuda, "cuInit", 0)
    count = ctypes.c_int()
    _check(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise DriverError("NVIDIA's driver is here and offers no GPU: is CUDA_VISIBLE_DEVICES set?", reason="no gpu")
    told = kernel_driver() or f"CUDA {newest[0]}.{newest[1]}"
    return DriverInfo(newest, told, tuple(_gpu(cuda, number, told) for number in range(count.value)))


def find_gpu(ordinal: int, library: str = LIBRARY) -> GpuDevice:
    """The GPU `cuda:ordinal`, fit for the crop kernels. Raises `DriverError`, `DeviceError`."""
    gpu = probe(library).gpu(ordinal)
    if gpu.capability < OLDEST_CAPABILITY:
        raise DeviceError(
            f"{gpu.name} is of compute capability {gpu.capability[0]}.{gpu.capability[1]}, and "
            f"{OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} is the least: say device='cpu'"
        )
    return gpu


def cuda_error(code: int, doing: str) -> DeviceError:
    """The error that goes with CUDA's result `code`, which `doing` got."""
    if code == _OUT_OF_MEMORY:
        return OutOfDeviceMemory(doing)
    if code in _LOST:
        return DeviceLost(doing, code)
    if code in _NO_DRIVER:
        return DriverError(f"NVIDIA's driver {_NO_DRIVER[code]}: {_REMEDY}", reason="missing" if code in (3, 34) else "too old")
    if code == 100:
        return DriverError(f"NVIDIA's driver is here and finds no GPU: {_REMEDY}", reason="no gpu")
    if code in (200, 209, 218, 222):
        return DriverError(f"{doing}: this GPU or its driver can't load the kernels (CUDA error {code}): {_REMEDY}")
    return DeviceError(f"{doing}: CUDA error {code}")


def _load(library: str) -> Any:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        raise DriverError(f"no NVIDIA driver is installed ('{library}' is not found): {_REMEDY}", reason="missing") from error


def _check(cuda: Any, name: str, *arguments: object) -> None:
    function: Callable[..., int] | None = getattr(cuda, name, None)
    if function is None:
        raise DriverError(f"NVIDIA's driver has no {name}: {_REMEDY}", reason="too old")
    code = function(*arguments)
    if code:
        error = cuda_error(code, name)
        if isinstance(error, DriverError):
            raise error
        # nothing was running that could have been lost
        raise DriverError(f"NVIDIA's driver fails in {name} (CUDA error {code}): restart the machine, or say device='cpu'")


def _gpu(cuda: Any, ordinal: int, driver: str) -> GpuDevice:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory, name, pci = ctypes.c_size_t(), ctypes.create_string_buffer(256), ctypes.create_string_buffer(64)
    _check(cuda, "cuDeviceGet", ctypes.byref(device), ordinal)
    _check(cuda, "cuDeviceGetName", name, len(name), device)
    _check(cuda, "cuDeviceGetAttribute", ctypes.byref(major), _CAPABILITY_MAJOR, device)
    _check(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), _CAPABILITY_MINOR, device)
    _check(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    _check(cuda, "cuDeviceGetPCIBusId", pci, len(pci), device)
    capability = (major.value, minor.value)
    return GpuDevice(ordinal, name.value.decode(), capability, memory.value, pci.value.decode(), driver)


def gpu_facts(found: GpuDevice) -> GpuFacts:
    """What of `found` an engine depends on: whoever builds and whoever looks for one must say the same."""
    return GpuFacts(name=found.name, capability=f"{found.capability[0]}.{found.capability[1]}", driver=found.driver)


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


@cache
def kernel_driver(library: str = _NVML_LIBRARY) -> str | None:
    """The version of the kernel's module, such as 580.95.05; None if it can't be read."""
    text = ctypes.create_string_buffer(96)
    with _opened(library) as nvml:
        if nvml is None or nvml.nvmlSystemGetDriverVersion(text, len(text)):
            return None
    return text.value.decode() or None


def free_memory(pci: str, library: str = _NVML_LIBRARY) -> int | None:
    """Free bytes of memory on the GPU at the bus address `pci`; None if NVML doesn't tell."""
    handle, memory = ctypes.c_void_p(), _Memory()
    with _opened(library) as nvml:
        if nvml is None or nvml.nvmlDeviceGetHandleByPciBusId_v2(pci.encode(), ctypes.byref(handle)):
            return None
        if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            return None
    return int(memory.free)


def total_energy_mj(index: int) -> int | None:
    """Millijoules that GPU `index` has used since its driver was loaded; None if NVML doesn't tell, as before Volta."""
    handle, found = ctypes.c_void_p(), ctypes.c_ulonglong()
    with _opened(_NVML_LIBRARY) as nvml:
        if nvml is None or nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
            return None
        if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(found)):
            return None
    return int(found.value)


@contextmanager
def _opened(library: str) -> Iterator[Any]:
    """The library, initialised; None where it isn't there, as on a Jetson."""
    try:
        nvml = ctypes.CDLL(library)
        failed = nvml.nvmlInit_v2()
    except (OSError, AttributeError):
        yield None
        return
    try:
        yield None if failed else nvml
    finally:
        if not failed:
            nvml.nvmlShutdown()


class GpuFacts(StrictModel):
    """The GPU that an engine was built on.

    Attributes
    ----------
    name : str
        As the driver calls it.
    capability : str
        CUDA's compute capability, such as '8.6'.
    driver : str
        The driver's version.
    """

    name: str = Field(min_length=1)
    capability: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]?\.[0-9]$")]
    driver: str = Field(min_length=1)

    @property
    def target(self) -> str:
        """The kind of GPU, such as 'sm86'."""
        return "sm" + self.capability.replace(".", "")
