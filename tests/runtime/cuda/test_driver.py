"""The driver is asked without one, with a bad one and with one on paper: it says what is wrong, and never ends the process."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

import pytest
from fake_driver_build import load_paper, paper_library

from blastscope.runtime.cuda import driver
from blastscope.runtime.cuda import driver as management
from blastscope.runtime.cuda.driver import OLDEST, GpuDevice, cuda_error, find_gpu, gpu_facts, probe
from blastscope.runtime.cuda.kernels.fatbin import read_record
from blastscope.runtime.errors import DeviceError, DeviceLost, DriverError, OutOfDeviceMemory

ABSENT = "libcuda-that-is-not-here.so.1"


@pytest.fixture
def paper() -> Iterator[ctypes.CDLL]:
    library = load_paper(paper_library("libpaper.so"))
    library.paper_reset(1, 13000)
    yield library
    library.paper_reset(1, 13000)


@pytest.fixture
def place() -> str:
    return str(paper_library("libpaper.so"))


def test_without_a_driver_the_remedy_is_named_and_next_to_no_time_is_lost() -> None:
    start = time.perf_counter()
    with pytest.raises(DriverError, match=r"no NVIDIA driver is installed .*: install NVIDIA's driver 580") as caught:
        probe(ABSENT)
    assert time.perf_counter() - start < 0.1
    assert caught.value.reason == "missing"
    assert caught.value.exit_code == 4


def test_a_driver_tells_its_gpus(paper: ctypes.CDLL, place: str) -> None:
    paper.paper_reset(2, 13010)
    found = probe(place)
    assert found.cuda == (13, 1)
    assert [gpu.name for gpu in found.gpus] == ["Paper GPU 0", "Paper GPU 1"]
    gpu = found.gpu(1)
    assert (gpu.ordinal, gpu.capability, gpu.target, gpu.memory, gpu.pci) == (1, (8, 6), "sm86", 1 << 34, "0000:02:00.0")
    assert gpu.driver == found.version == (management.kernel_driver() or "CUDA 13.1")
    assert gpu_facts(gpu).model_dump() == {"name": "Paper GPU 1", "capability": "8.6", "driver": gpu.driver}
    with pytest.raises(DeviceError, match="no GPU 'cuda:2' here: there is cuda:0 Paper GPU 0, cuda:1"):
        found.gpu(2)


def test_a_driver_that_is_too_old_is_told_from_a_missing_one(paper: ctypes.CDLL, place: str) -> None:
    paper.paper_reset(1, 12040)
    with pytest.raises(DriverError, match=r"serves CUDA 12\.4, and CUDA 13\.0 is needed") as caught:
        probe(place)
    assert caught.value.reason == "too old"


def test_the_oldest_driver_is_the_one_that_loads_what_nvcc_made() -> None:
    assert read_record().nvcc.split(".")[0] == str(OLDEST[0])
    targets = read_record().targets
    assert f"sm_{driver.OLDEST_CAPABILITY[0]}{driver.OLDEST_CAPABILITY[1]}" == min(
        targets, key=lambda one: int(one.split("_")[1])
    )


def test_a_driver_without_a_gpu_says_so(paper: ctypes.CDLL, place: str) -> None:
    paper.paper_reset(0, 13000)
    with pytest.raises(DriverError, match="finds no GPU: install") as caught:
        probe(place)
    assert caught.value.reason == "no gpu"


@pytest.mark.parametrize(
    "name", ["cuInit", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetPCIBusId"]
)
@pytest.mark.parametrize("code", [1, 3, 34, 100, 719, 803, 999])
def test_whatever_fails_in_the_driver_is_a_driver_error_with_a_remedy(
    paper: ctypes.CDLL, place: str, name: str, code: int
) -> None:
    paper.paper_fail(name.encode(), code)
    with pytest.raises(DriverError, match=r"install|restart") as caught:
        probe(place)
    assert "device='cpu'" in str(caught.value)


def test_a_library_that_is_no_driver_is_no_crash() -> None:
    with pytest.raises(DriverError, match="has no cuDriverGetVersion: install"):
        probe("libc.so.6")


def test_a_gpu_older_than_the_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = GpuDevice(0, "GTX 1080", (6, 1), 1 << 33, "0000:01:00.0", "580.1")
    monkeypatch.setattr(driver, "probe", lambda library: driver.DriverInfo((13, 0), "580.1", (old,)))
    with pytest.raises(DeviceError, match=r"GTX 1080 is of compute capability 6\.1, and 7\.5 is the least"):
        find_gpu(0)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (2, OutOfDeviceMemory, "smaller batches"),
        (35, DriverError, "too old"),
        (100, DriverError, "no GPU"),
        (209, DriverError, "can't load the kernels"),
        (222, DriverError, "can't load the kernels"),
        (201, DeviceLost, "reopen"),
        (214, DeviceLost, "reopen"),
        (700, DeviceLost, "reopen"),
        (719, DeviceLost, "start the process anew"),
        (999, DeviceLost, "device='cpu'"),
        (900, DeviceError, "CUDA error 900"),
        (1, DeviceError, "CUDA error 1"),
    ],
)
def test_each_code_of_cuda_becomes_what_the_caller_can_do_about_it(code: int, kind: type[DeviceError], words: str) -> None:
    error = cuda_error(code, "cuSomething")
    assert type(error) is kind
    assert words in str(error)
    if isinstance(error, DeviceLost):
        assert (error.code, error.doing) == (code, "cuSomething")


def test_the_management_library_is_not_needed() -> None:
    assert management.kernel_driver("libnothing.so") is None
    assert management.free_memory("0000:01:00.0", "libnothing.so") is None
    assert management.kernel_driver("libc.so.6") is None
