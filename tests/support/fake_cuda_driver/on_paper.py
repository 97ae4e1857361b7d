"""The path through pycuda and cuda-bindings, on the fake driver: run by test_pycuda_device.py in a process of its own.

The library path leads to paper_cuda.c, so that what is called here is the code that a real GPU gets, up to the driver's edge;
the crop kernels run in the host shim, on the addresses and arguments that pycuda packed.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from asserts import is_right  # noqa: E402
from conftest import TinyBundle  # noqa: E402
from host_gpu import RecordableNetwork  # noqa: E402
from host_kernels import HostKernels  # noqa: E402

from blastscope.runtime.backends.nvidia.engine_factory import PixelPipeline  # noqa: E402
from blastscope.runtime.backends.onnxruntime.gpu import BoundNetwork  # noqa: E402
from blastscope.runtime.bundle import read_bundle  # noqa: E402
from blastscope.runtime.crop import crop_cell  # noqa: E402
from blastscope.runtime.cuda.kernels.crop_launch_plan import Address, CropPlan, Launch  # noqa: E402
from blastscope.runtime.cuda.memory import DeviceArrayImporter  # noqa: E402
from blastscope.runtime.cuda.pycuda_device import open_gpu  # noqa: E402
from blastscope.runtime.errors import DeviceLost, OutOfDeviceMemory  # noqa: E402

PAPER = ctypes.CDLL("libcuda.so.1")
PAPER.paper_memory.argtypes = [ctypes.c_size_t]
HOOK = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.c_size_t
)


class Kernels:
    """Unpacks what pycuda packed, by the kinds that the plan gives each kernel's arguments, and runs it in the shim."""

    def __init__(self, plan: CropPlan) -> None:
        self.kinds = {
            one.kernel: [isinstance(value, Address) for value in one.arguments] for one in plan.launches(256, 256, 256, 256)
        }
        self.kernels = HostKernels()
        self.hook = HOOK(self.run)
        PAPER.paper_on_kernel(self.hook)

    def run(self, name: bytes, grid: object, block: object, arguments: int, size: int) -> None:
        kinds = self.kinds[name.decode()]
        form = "@" + "".join("Q" if is_address else "i" for is_address in kinds)
        assert struct.calcsize(form) == size, (name, size)
        values = struct.unpack(form, ctypes.string_at(arguments, size))
        shapes = (tuple(grid[:3]), tuple(block[:3]))  # type: ignore[index]
        typed = tuple(Address(value) if kind else value for kind, value in zip(kinds, values, strict=True))
        self.kernels.launch(Launch(name.decode(), *shapes, 0, typed))


class OnDevice:
    """A device array as CuPy and others show it."""

    def __init__(self, gpu: object, image: np.ndarray, *, version: int = 3) -> None:
        self.address = gpu.allocate(image.nbytes)  # type: ignore[attr-defined]
        ctypes.memmove(self.address, np.ascontiguousarray(image).ctypes.data, image.nbytes)
        self.__cuda_array_interface__ = {
            "shape": image.shape, "typestr": "|u1", "data": (self.address, True), "strides": None, "version": version,
            "stream": None,
        }  # fmt: skip


def ended(pipeline: PixelPipeline) -> None:
    """At the end of the process, when the handles are closed."""
    assert PAPER.paper_retained() == 1
    pipeline.close()
    print("closed in time")


def main(folder: Path) -> None:
    tiny = TinyBundle(folder)
    bundle = read_bundle(tiny.make())
    spec = bundle.manifest.crop
    kernels = Kernels(CropPlan.make(spec, 1, 64))
    gpu = open_gpu(0)
    assert gpu.found.name == "Paper GPU 0"
    assert open_gpu(0) is gpu
    empty = PAPER.paper_blocks()
    network = RecordableNetwork(gpu, BoundNetwork(gpu, bundle.read(bundle.graph("fp32")), "CPUExecutionProvider"))
    pipeline = PixelPipeline("paper", gpu, network, spec, batches=(1, 4))
    importer = DeviceArrayImporter(gpu)
    images = [tiny.cell(seed, size_px=60 + 9 * seed) for seed in range(6)] + [np.zeros((30, 40, 3), np.uint8)]
    with gpu.current():
        device = [OnDevice(gpu, image, version=2 + number % 2) for number, image in enumerate(images)]

    def answers_are_right() -> None:
        for taken in (images, [importer.take(one) for one in device]):
            is_right(pipeline.infer_images(taken), images, tiny, spec)
        crops = tiny.crops(9)
        np.testing.assert_allclose(pipeline.infer(crops), tiny.expected(crops), atol=2e-6)

    answers_are_right()
    held = PAPER.paper_blocks()
    threads = [threading.Thread(target=answers_are_right) for _ in range(1)]
    for thread in threads:
        thread.start()
        thread.join()
    assert PAPER.paper_blocks() == held, "the steady state allocates"
    assert PAPER.paper_depth() == 0, "a context was left on the stack"
    PAPER.paper_memory(1000)
    with pytest.raises(OutOfDeviceMemory, match="smaller batches"):
        pipeline.infer_images([tiny.cell(0, size_px=900)])
    PAPER.paper_memory(1 << 33)
    answers_are_right()
    assert pipeline.infer_images([tiny.cell(0, size_px=900)]).found == [crop_cell(tiny.cell(0, size_px=900), spec).box]
    answers_are_right()
    importer.close()
    pipeline.close()
    with gpu.current():
        for one in device:
            gpu.free(one.address)
        network.close()
    assert PAPER.paper_blocks() == empty, "not everything was given back"

    pipeline = PixelPipeline("paper", gpu, network, spec, batches=(1,))
    PAPER.paper_lose(719)
    with pytest.raises(DeviceLost, match=r"reopen\(\)"):
        pipeline.infer_images(images[:1])
    pipeline.close()
    again = open_gpu(0)
    assert again is not gpu
    PixelPipeline("paper", again, RecordableNetwork(again, network.inner), spec, batches=(1,)).close()
    assert PAPER.paper_depth() == 0
    with pytest.raises(DeviceLost), gpu.current():
        pass  # who held the old one is told
    # forgotten by its owner: the process's end closes it, and then lets go of the context
    forgotten = PixelPipeline("paper", again, RecordableNetwork(again, network.inner), spec, batches=(1,))
    weakref.finalize(HOOK, ended, forgotten)
    del kernels
    print("all right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
