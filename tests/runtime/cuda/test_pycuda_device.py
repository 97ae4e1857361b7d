"""pycuda and cuda-bindings: every name that is used is there, and the path through them runs on a driver of paper."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_cuda import FakeCuda
from fake_driver_build import paper_library

from blastscope.runtime.cuda import driver, graphs
from blastscope.runtime.cuda import pycuda_device as pycuda_gpu
from blastscope.runtime.cuda.driver import GpuDevice
from blastscope.runtime.cuda.kernels.crop_launch_plan import Address, Launch
from blastscope.runtime.cuda.pycuda_device import open_gpu
from blastscope.runtime.errors import DeviceError, DeviceLost, DriverError, MissingLibrary

ROOT = Path(__file__).resolve().parents[3]
GPU = GpuDevice(0, "Test GPU", (8, 6), 1 << 33, "0000:01:00.0", "580.1")


def installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


needs_pycuda = pytest.mark.skipif(
    not (installed("pycuda") and installed("cuda.bindings")),
    reason="pycuda or cuda-bindings is not installed: pip install 'blastscope[gpu]' needs CUDA's headers",
)


def on_paper(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that finds the paper driver where a real one would be."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(paper_library("libcuda.so.1").parent)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.gpu
@needs_pycuda
def test_the_road_runs_through_pycuda_and_cuda_bindings_to_the_driver(tmp_path: Path) -> None:
    done = on_paper(str(ROOT / "tests" / "support" / "fake_cuda_driver" / "on_paper.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all right\nclosed in time\n"
    assert "Traceback" not in done.stderr


def names_used(file: str, owner: str) -> set[str]:
    """The attributes that `file` asks of what it calls `owner`, such as self._cuda, and functions named in texts."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith(owner)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return own | {text for text in texts if owner == "driver" and text.startswith("cu") and text.isidentifier()}


def test_the_names_are_found_in_the_sources() -> None:
    assert {"cuGraphInstantiate", "cuStreamBeginCapture", "CUstream"} <= names_used("runtime/cuda/graphs.py", "driver")
    assert {"mem_alloc", "pagelocked_empty", "Stream"} <= names_used("runtime/cuda/pycuda_device.py", "_cuda")


@needs_pycuda
def test_every_name_that_is_used_exists() -> None:
    ours = names_used("runtime/cuda/pycuda_device.py", "_cuda")
    theirs = names_used("runtime/cuda/graphs.py", "driver")
    code = (
        "import pycuda.driver\nfrom cuda.bindings import driver\n"
        f"print([name for name in {sorted(ours)} if not hasattr(pycuda.driver, name)])\n"
        f"print([name for name in {sorted(theirs)} if not hasattr(driver, name)])\n"
    )
    done = on_paper("-c", code)
    assert done.stdout == "[]\n[]\n", done.stderr


def test_a_missing_pycuda_names_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pycuda_gpu, "find_gpu", lambda ordinal: GPU)
    monkeypatch.setattr(pycuda_gpu, "load_graphs", lambda: None)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingLibrary, match=r"'pycuda' is not installed: pip install 'blastscope\[gpu\]'"):
        open_gpu(0)


def test_missing_cuda_bindings_name_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)  # which a PyTorch with CUDA brings and may have loaded
    with pytest.raises(MissingLibrary, match=r"'cuda-bindings' is not installed: pip install 'blastscope\[gpu\]'"):
        graphs.load_graphs()


def test_without_a_driver_pycuda_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.probe, "__defaults__", ("libcuda-that-is-not-here.so.1",))
    monkeypatch.setattr(driver.find_gpu, "__defaults__", ("libcuda-that-is-not-here.so.1",))
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(DriverError, match="no NVIDIA driver is installed"):
        open_gpu(0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """pycuda's stack of contexts under a GPU of ours; none is open yet."""
    fake = FakeCuda()
    monkeypatch.setattr(pycuda_gpu, "_pycuda", lambda: fake)
    monkeypatch.setattr(pycuda_gpu, "find_gpu", lambda ordinal: GPU)
    monkeypatch.setattr(pycuda_gpu, "load_graphs", lambda: graphs.Graphs(fake.driver))
    monkeypatch.setattr(pycuda_gpu, "_open", {})
    monkeypatch.setattr(pycuda_gpu.weakref, "finalize", lambda *wanted: None)
    return fake


def test_a_gpu_that_cannot_be_opened_is_not_called_lost(cuda: FakeCuda) -> None:
    cuda.fails = {"retain"}
    with pytest.raises(DeviceError, match=r"cuda:0 Test GPU can't be opened: .*device unavailable") as told:
        open_gpu(0)
    assert not isinstance(told.value, DeviceLost)


def test_kernels_that_cannot_be_loaded_leave_no_context_behind(cuda: FakeCuda) -> None:
    cuda.fails = {"module_from_buffer"}
    with pytest.raises(DeviceError, match="loading the crop kernels"):
        open_gpu(0)
    assert (cuda.stack, cuda.depth, cuda.retained) == ([], 0, 0)


def test_a_gpu_that_stays_lost_may_be_asked_for_again_and_again(cuda: FakeCuda) -> None:
    gpu = open_gpu(0)
    assert open_gpu(0) is gpu
    cuda.lost = 719
    for _ in range(3):  # another library holds the broken context, so that it isn't made anew
        with pytest.raises(DeviceLost):
            open_gpu(0)
    pycuda_gpu._leave_all()
    assert (cuda.stack, cuda.depth, cuda.retained) == ([], 0, 0)
    cuda.lost = 0
    assert open_gpu(0) is not gpu
    assert cuda.retained == 1


def test_a_loss_that_is_noticed_on_leaving_is_told_as_one(cuda: FakeCuda) -> None:
    gpu = open_gpu(0)
    with pytest.raises(DeviceLost), gpu.current():
        cuda.lost, cuda.fails = 700, {"pop"}


def test_a_kernel_is_prepared_once_before_other_threads_see_it(cuda: FakeCuda) -> None:
    gpu = open_gpu(0)
    with gpu.current():
        stream = gpu.open_stream()
        for _ in range(3):
            gpu.launch(Launch("crop_gray", (1, 1, 1), (256, 1, 1), 0, (Address(4096), 7)), stream)
    (function,) = cuda.functions
    assert len(function.prepared) == 1
    assert len(function.calls) == 3
