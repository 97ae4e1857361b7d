"""`Diagnostics`: devices of this machine, the libraries that serve each, and why one is unavailable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from blastscope.runtime.backends.protocol import BACKENDS, GPU_BACKENDS, load_backend, load_gpu_backend
from blastscope.runtime.backends.tensorrt.catalog import EngineHost, StoredEngine, list_engines
from blastscope.runtime.backends.tensorrt.key import LIBRARIES
from blastscope.runtime.cuda.driver import GpuDevice, probe
from blastscope.runtime.cuda.kernels.fatbin import crop_fatbin, read_record
from blastscope.runtime.errors import BlastscopeError, DriverError
from blastscope.runtime.io.cpu_info import cpu_name
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Execution

PACKAGES = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx"),
    "pycuda": ("pycuda",),
    "cuda-bindings": ("cuda-bindings",),
}


class LibraryStatus(StrictModel):
    """One library on one device.

    Attributes
    ----------
    library : str
        Its name.
    version : str or None
        Its version; None where it isn't installed.
    computes : tuple of Execution
        Number types that it can compute in there.
    engines : tuple of str
        Names of the cached engines that may run there.
    problem : str or None
        Why it can't be used.
    """

    library: str
    version: str | None
    computes: tuple[Execution, ...] = ()
    engines: tuple[str, ...] = ()
    problem: str | None = None


class DeviceState(StrictModel):
    """One device, as `device=` names it.

    Attributes
    ----------
    device : str
        As `device=` names it.
    name : str
        The maker's name for it.
    capability : str or None
        CUDA's compute capability, such as '8.6'; None for a CPU.
    memory_mib : int or None
        Memory of a GPU in MiB.
    free_mib : int or None
        Of this, what is free.
    services : tuple of LibraryStatus
        The libraries on it.
    """

    device: str
    name: str
    capability: str | None = None
    memory_mib: int | None = None
    free_mib: int | None = None
    services: tuple[LibraryStatus, ...]

    @property
    def usable(self) -> bool:
        """Whether `open_bundle` can use it."""
        return any(service.computes for service in self.services)


class Diagnostics(StrictModel):
    """The machine. `parts` are what a GPU's engines are made of, whether a GPU is here or not; all need the first three.

    Attributes
    ----------
    driver : str or None
        Version of NVIDIA's driver; None without one.
    cuda : str or None
        Newest CUDA that the driver serves.
    no_gpu : str or None
        Why there is no GPU; None where there is one.
    devices : tuple of DeviceState
        The devices.
    parts : tuple of LibraryStatus
        What a GPU's engines are made of.
    other_engines : mapping of str to str
        Cached engines that can't be used, with the reason.
    """

    driver: str | None
    cuda: str | None
    no_gpu: str | None
    devices: tuple[DeviceState, ...]
    parts: tuple[LibraryStatus, ...]
    other_engines: dict[str, str]


def collect_diagnostics(cache_dir: Path) -> Diagnostics:
    """What is here. Takes no GPU memory; raises nothing for what is missing."""
    engines = list_engines(cache_dir, EngineHost.here())
    hosts = (_host("cpu", cpu_name(), "CPU", BACKENDS), *_openvino_devices())
    needed = (_kernels(), _package("pycuda", "gpu"), _package("cuda-bindings", "gpu"))
    parts = (*needed, *(_package(name, name) for name in LIBRARIES))
    others = {engine.name: f"{engine.state}: {'; '.join(engine.reasons)}" for engine in engines if engine.state != "ready"}
    try:
        driver = probe()
    except DriverError as error:
        return Diagnostics(driver=None, cuda=None, no_gpu=str(error), devices=hosts, parts=parts, other_engines=others)
    return Diagnostics(
        driver=driver.version,
        cuda=f"{driver.cuda[0]}.{driver.cuda[1]}",
        no_gpu=None,
        devices=(*(_gpu(gpu, needed, engines) for gpu in driver.gpus), *hosts),
        parts=parts,
        other_engines=others,
    )


def _gpu(gpu: GpuDevice, needed: tuple[LibraryStatus, ...], engines: list[StoredEngine]) -> DeviceState:
    lacking = next((service.problem for service in needed if service.problem), None)
    free = gpu.free()

    def served(name: str) -> LibraryStatus:
        ready = tuple(engine.name for engine in engines if engine.state == "ready" and _is_for(engine, name, gpu))
        return _service(name, lambda: load_gpu_backend(name).executions(str(gpu.ordinal)), lacking, ready)

    return DeviceState(
        device=f"cuda:{gpu.ordinal}",
        name=gpu.name,
        capability=f"{gpu.capability[0]}.{gpu.capability[1]}",
        memory_mib=gpu.memory >> 20,
        free_mib=None if free is None else free >> 20,
        services=tuple(served(name) for name in GPU_BACKENDS),
    )


def _is_for(engine: StoredEngine, library: str, gpu: GpuDevice) -> bool:
    key = engine.key
    return key is not None and key.library == library and (key.gpu is None or key.gpu.name == gpu.name)


def _openvino_devices() -> Iterator[DeviceState]:
    """The devices of OpenVINO's plugins beside the CPU."""
    try:
        from blastscope.runtime.backends.openvino.backend import available_devices

        found = available_devices()
    except BlastscopeError:
        return
    for name, full_name in found.items():
        if name != "CPU":
            yield _host(f"openvino:{name}", full_name, name, ("openvino",))


def _host(device: str, name: str, own: str, libraries: Iterable[str]) -> DeviceState:
    def served(library: str) -> LibraryStatus:
        return _service(library, lambda: load_backend(library).executions(own))

    return DeviceState(device=device, name=name, services=tuple(map(served, libraries)))


def _service(
    name: str, computes: Callable[[], tuple[Execution, ...]], lacking: str | None = None, engines: tuple[str, ...] = ()
) -> LibraryStatus:
    found = _version(name)
    try:
        offered = computes()
    except BlastscopeError as error:
        return LibraryStatus(library=name, version=found, engines=engines, problem=str(error))
    if lacking:
        return LibraryStatus(library=name, version=found, engines=engines, problem=lacking)
    return LibraryStatus(library=name, version=found, computes=offered, engines=engines)


def _package(name: str, extra: str) -> LibraryStatus:
    found = _version(name)
    problem = None if found else f"not installed: pip install 'blastscope[{extra}]'"
    return LibraryStatus(library=name, version=found, problem=problem)


def _kernels() -> LibraryStatus:
    try:
        crop_fatbin()
        return LibraryStatus(library="crop kernels", version=f"nvcc {read_record().nvcc}")
    except BlastscopeError as error:
        return LibraryStatus(library="crop kernels", version=None, problem=str(error))


def _version(name: str) -> str | None:
    for package in PACKAGES[name]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
