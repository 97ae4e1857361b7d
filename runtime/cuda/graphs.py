"""CUDA graphs, events and errors by `cuda-bindings`, which pycuda lacks: work captured from a stream and launched at once.

Capture is relaxed: what other threads and libraries do meanwhile, or Python's garbage collection in this one, doesn't break it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.cuda.driver import GpuDevice, cuda_error
from blastscope.runtime.cuda.kernels.crop_launch_plan import Launch
from blastscope.runtime.errors import DeviceError, DeviceLost, EngineError, MissingLibrary

Work = Callable[[], None]
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING


class Recording(Protocol):
    """Work that was recorded on a stream, and is queued again in one launch. It keeps the addresses of its recording."""

    def launch(self) -> None:
        """Queues the work on its stream, and returns at once. Raises `DeviceError`s."""
        ...

    def resize(self, target: int, size: int) -> None:
        """From the next launch on the upload to `target` copies `size` bytes, at most those of the recording. No allocation."""
        ...

    def close(self) -> None:
        """Forgets the work. Safe to call twice."""
        ...


class Gpu(Protocol):
    """One GPU. What fails raises a `DeviceError`: `OutOfDeviceMemory`, `DeviceLost` or another."""

    @property
    def found(self) -> GpuDevice:
        """What the driver says of it."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Makes the GPU this thread's own meanwhile, and afterwards the one that was so before."""
        ...

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of device memory, at a multiple of 256, zeroed."""
        ...

    def free(self, address: int) -> None:
        """Gives device memory back. Doesn't raise: what is lost needs no freeing."""
        ...

    def holds(self, address: int) -> bool:
        """Whether `address` is in memory of this GPU, no matter which library allocated it."""
        ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of host memory that the GPU copies from and to by itself, zeroed."""
        ...

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        """Gives pinned memory back: `memory` must not be used again. Doesn't raise."""
        ...

    def open_stream(self) -> int:
        """A new stream, which waits for no other one."""
        ...

    def close_stream(self, stream: int) -> None:
        """Ends a stream once its work is done. Doesn't raise."""
        ...

    def upload(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        """Queues the copy of pinned bytes to the device."""
        ...

    def download(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        """Queues the copy of device bytes to pinned ones."""
        ...

    def launch(self, launch: Launch, stream: int) -> None:
        """Queues a crop kernel."""
        ...

    def follow(self, stream: int, other: int) -> None:
        """What is queued on `stream` from now on waits for what `other`, anybody's stream, holds now."""
        ...

    def wait(self, stream: int) -> None:
        """Returns once all that was queued on `stream` is done. Raises what the work met with."""
        ...

    def record(self, stream: int, work: Work) -> Recording:
        """What `work` queues on `stream`, recorded instead of done. All of it must have been done once before."""
        ...

    def check(self, doing: str) -> None:
        """Raises `DeviceLost` where nothing answers any more, for those who got an error from elsewhere."""
        ...


def load_graphs() -> Graphs:
    """CUDA graphs, by cuda-bindings. Raises `MissingLibrary`."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MissingLibrary("cuda-bindings", "gpu") from error
    return Graphs(driver)


class Graphs:
    """The part of the driver that is called through cuda-bindings. All of it inside the GPU's `current`."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def call(self, name: str, *arguments: object) -> Any:
        """What the driver's function gives beside its code. Raises `DeviceError`s."""
        code, *results = getattr(self.driver, name)(*arguments)
        if int(code):
            raise cuda_error(int(code), name)
        return results[0] if len(results) == 1 else tuple(results)

    def capture(self, stream: int, work: Work) -> Recording:
        """What `work` queues on `stream`, as a graph. Raises what `work` raises."""
        own = self.driver.CUstream(stream)
        self.call("cuStreamBeginCapture", own, self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
        try:
            work()
        except BaseException:
            # the stream must be let out of the capture whatever has happened in it
            _, graph = self.driver.cuStreamEndCapture(own)
            if graph is not None and int(graph):
                self.driver.cuGraphDestroy(graph)
            raise
        return _CapturedGraph(self, own, self.call("cuStreamEndCapture", own))

    def open_event(self) -> Event:
        """An event, by which one stream waits for another."""
        return Event(self, self.call("cuEventCreate", _NO_TIMING))

    def ordinal_of(self, address: int) -> int | None:
        """The number of the GPU in whose memory `address` lies, if in any's."""
        attribute = self.driver.CUpointer_attribute
        kind, ordinal = (
            self.driver.cuPointerGetAttribute(one, self.driver.CUdeviceptr(address))
            for one in (attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
        )
        if int(kind[0]) or int(ordinal[0]) or int(kind[1]) != int(self.driver.CUmemorytype.CU_MEMORYTYPE_DEVICE):
            return None
        return int(ordinal[1])

    def check(self, doing: str) -> None:
        """Raises `DeviceLost` where the context answers no more."""
        # Any call would tell, but one that waits for the context would break what another thread is capturing.
        error = cuda_error(int(self.driver.cuMemGetInfo()[0]), doing)
        if isinstance(error, DeviceLost):
            raise error

    def explained(self, doing: str, said: str) -> DeviceError:
        """The error for a call that failed with the message `said`: `DeviceLost` if the context no longer works."""
        try:
            self.check(doing)
        except DeviceLost as lost:
            return lost
        return DeviceError(f"{doing}: {said}")

    def leave(self) -> None:
        """Takes the context off this thread's stack, which pycuda leaves to the driver when it lets go of a primary one."""
        self.driver.cuCtxPopCurrent()


class Event:
    """One event, lent to one pair of streams after the other."""

    def __init__(self, graphs: Graphs, event: Any) -> None:
        self._graphs, self._event = graphs, event
        self._lock = threading.Lock()  # an event that is marked anew before it was waited for would mean another stream

    def follow(self, stream: int, other: int) -> None:
        """What comes on `stream` waits for what is on `other` now."""
        driver = self._graphs.driver
        with self._lock:
            self._graphs.call("cuEventRecord", self._event, driver.CUstream(other))
            self._graphs.call("cuStreamWaitEvent", driver.CUstream(stream), self._event, 0)


class _CapturedGraph:
    """See `Recording`."""

    def __init__(self, graphs: Graphs, stream: Any, graph: Any) -> None:
        self._graphs, self._stream = graphs, stream
        self._graph: Any = graph  # kept: its nodes are how the running one is changed
        self._running: Any = None
        try:
            self._running = graphs.call("cuGraphInstantiate", graph, 0)
            self._uploads = self._find_uploads()
            graphs.call("cuGraphUpload", self._running, stream)
        except BaseException:
            self.close()
            raise

    def launch(self) -> None:
        code = int(self._graphs.driver.cuGraphLaunch(self._running, self._stream)[0])
        if code:
            raise cuda_error(code, "the recorded work")

    def resize(self, target: int, size: int) -> None:
        if target not in self._uploads:
            raise EngineError(f"the recorded work holds no upload to {target:#x}: the driver recorded it as something else")
        node, copy = self._uploads[target]
        copy.WidthInBytes = size
        context = self._graphs.call("cuCtxGetCurrent")
        self._graphs.call("cuGraphExecMemcpyNodeSetParams", self._running, node, copy, context)

    def close(self) -> None:
        # not raising: in a lost context nothing is left to be freed
        if self._running is not None:
            self._graphs.driver.cuGraphExecDestroy(self._running)
        if self._graph is not None:
            self._graphs.driver.cuGraphDestroy(self._graph)
        self._running = self._graph = None

    def _find_uploads(self) -> dict[int, tuple[Any, Any]]:
        """The graph's copies, with what they copy, by the address that they copy to."""
        driver = self._graphs.driver
        copies = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY
        _, count = self._graphs.call("cuGraphGetNodes", self._graph, 0)
        nodes, _ = self._graphs.call("cuGraphGetNodes", self._graph, count)
        found: dict[int, tuple[Any, Any]] = {}
        for node in nodes:
            if self._graphs.call("cuGraphNodeGetType", node) != copies:
                continue
            copy = self._graphs.call("cuGraphMemcpyNodeGetParams", node)
            found.setdefault(int(copy.dstDevice), (node, copy))
        return found
