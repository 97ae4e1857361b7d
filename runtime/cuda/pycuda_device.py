"""A real GPU: pycuda for context, memory, streams and kernels, on the device's primary context, which PyTorch, CuPy and OpenCV
share. One for each device and process, held to the end: every object of pycuda must die while its context can be entered.

pycuda keeps a stack of contexts for every thread, and ends the process when a thread dies with a context on it: so contexts are
pushed and popped in pairs, always by `current`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.cuda.driver import GpuDevice, find_gpu
from blastscope.runtime.cuda.graphs import Gpu, Graphs, Recording, Work, load_graphs
from blastscope.runtime.cuda.kernels.crop_launch_plan import Address, Launch
from blastscope.runtime.cuda.kernels.fatbin import crop_fatbin
from blastscope.runtime.errors import BlastscopeError, DeviceError, DeviceLost, DriverError, MissingLibrary, OutOfDeviceMemory

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: doesn't wait for what others do on the default stream
_open: dict[int, _PyCudaGpu] = {}
_opening = threading.Lock()


def open_gpu(ordinal: int) -> Gpu:
    """The GPU `cuda:ordinal`, its primary context retained. Raises `MissingLibrary`, `DriverError`, `DeviceError`s.

    A GPU that was lost is entered anew.
    """
    found = find_gpu(ordinal)  # before pycuda is imported, which fails without a driver
    with _opening:
        gpu = _open.get(ordinal)
        if gpu is None or not gpu.answers():
            if gpu is not None:
                gpu.leave()
            elif not _open:
                # made before those of the handles on it, so that it runs after them when the process ends
                weakref.finalize(open_gpu, _leave_all)
            gpu = _open[ordinal] = _PyCudaGpu(found, load_graphs())
        return gpu


def require_pycuda() -> None:
    """Raises `MissingLibrary`, `DriverError` where pycuda or cuda-bindings can't be loaded. Opens nothing."""
    _pycuda()
    load_graphs()


def _leave_all() -> None:
    """At the process's end: pycuda's own way of dropping a primary context asks the driver for the wrong thing."""
    for gpu in _open.values():
        gpu.leave()


class _PyCudaGpu:
    """See `Gpu`. Streams and addresses are the driver's own, so that TensorRT, ONNX Runtime and others can take them."""

    def __init__(self, found: GpuDevice, graphs: Graphs) -> None:
        self.found = found
        self._cuda = _pycuda()
        self._graphs = graphs
        self._streams: dict[int, Any] = {}
        self._memory: dict[int, Any] = {}
        self._functions: dict[str, Any] = {}
        self._left = False
        self._context = self._retained()
        try:
            with self.current(), self._told("loading the crop kernels"):
                self._module = self._cuda.module_from_buffer(crop_fatbin())
                self._cleaning = self._cuda.Stream(_NON_BLOCKING)
                self._event = graphs.open_event()
        except BaseException:
            self.leave()
            raise

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._left:
            raise DeviceLost("entering the GPU")  # another handle found it lost, and was reopened
        with self._told("entering the GPU"):
            self._context.push()
        try:
            yield
        finally:
            with self._told("leaving the GPU"):  # in a context that broke this may be what tells of it
                self._cuda.Context.pop()

    def allocate(self, size: int) -> int:
        with self._told(f"taking {size} bytes of device memory"):
            memory = self._cuda.mem_alloc(max(size, 1))
            self._memory[int(memory)] = memory
            # on a stream of its own: the default one would not be waited for by ours
            self._cuda.memset_d8_async(int(memory), 0, max(size, 1), self._cleaning)
            self._cleaning.synchronize()
        return int(memory)

    def free(self, address: int) -> None:
        self._let_go(self._memory.pop(address).free)

    def holds(self, address: int) -> bool:
        return self._graphs.ordinal_of(address) == self.found.ordinal

    def pinned(self, size: int) -> NDArray[np.uint8]:
        with self._told(f"taking {size} bytes of pinned memory"):
            memory: NDArray[np.uint8] = self._cuda.pagelocked_empty(size, np.uint8)
        memory[...] = 0
        return memory

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        self._let_go(memory.base.free)  # type: ignore[union-attr]  # pycuda's allocation

    def open_stream(self) -> int:
        with self._told("opening a stream"):
            stream = self._cuda.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def close_stream(self, stream: int) -> None:
        ended = self._streams.pop(stream)
        self._let_go(ended.synchronize)
        del ended  # its end destroys the stream, which must happen while the context is this thread's

    def upload(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        with self._told("an upload"):
            self._cuda.memcpy_htod_async(target, source, self._streams[stream])

    def download(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        with self._told("a download"):
            self._cuda.memcpy_dtoh_async(target, source, self._streams[stream])

    def launch(self, launch: Launch, stream: int) -> None:
        with self._told(f"kernel {launch.kernel}"):
            function = self._functions.get(launch.kernel)
            if function is None:
                function = self._module.get_function(launch.kernel)
                # once, and before other threads see it, since pycuda writes the form bit by bit; it is the same in every plan
                function.prepare([np.uint64 if isinstance(one, Address) else np.int32 for one in launch.arguments])
                self._functions[launch.kernel] = function
            arguments = [int(one) for one in launch.arguments]
            shared = launch.shared_bytes
            function.prepared_async_call(launch.grid, launch.block, self._streams[stream], *arguments, shared_size=shared)

    def follow(self, stream: int, other: int) -> None:
        self._event.follow(stream, other)

    def wait(self, stream: int) -> None:
        with self._told("work on the GPU"):
            self._streams[stream].synchronize()  # lets go of Python's lock

    def record(self, stream: int, work: Work) -> Recording:
        return self._graphs.capture(stream, work)

    def check(self, doing: str) -> None:
        self._graphs.check(doing)

    def answers(self) -> bool:
        """Whether the context still works."""
        try:
            with self.current():
                self.check("looking at the GPU")
        except DeviceError:
            return False
        return True

    def leave(self) -> None:
        """Lets go of the context, once. One that broke is made anew for the next who asks, if no other library holds it."""
        if self._left:
            return  # entered again it would stay on pycuda's stack, which ends the process
        self._left = True
        with suppress(self._cuda.Error):
            self._context.push()
            try:
                self._context.detach()  # from here on pycuda takes what lived in it for gone
            finally:
                self._graphs.leave()

    def _retained(self) -> Any:
        """The device's primary context. Nothing is current yet, so that what fails here can't tell of a loss."""
        try:
            self._cuda.init()
            return self._cuda.Device(self.found.ordinal).retain_primary_context()
        except self._cuda.MemoryError as error:
            raise OutOfDeviceMemory("opening the GPU") from error
        except self._cuda.Error as error:
            raise DeviceError(f"cuda:{self.found.ordinal} {self.found.name} can't be opened: {error}") from error

    def _let_go(self, release: Callable[[], object]) -> None:
        with suppress(self._cuda.Error):  # in a lost context nothing is left to be freed
            release()

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Turns what pycuda raises into `DeviceError`s."""
        try:
            yield
        except BlastscopeError:
            raise
        except self._cuda.MemoryError as error:
            raise OutOfDeviceMemory(doing) from error
        except self._cuda.Error as error:
            raise self._graphs.explained(doing, str(error)) from error


def _pycuda() -> Any:
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError as error:
        raise MissingLibrary("pycuda", "gpu") from error
    except ImportError as error:
        raise DriverError(f"pycuda is installed and can't be loaded ({error}): build it anew for this driver") from error
    return cuda
