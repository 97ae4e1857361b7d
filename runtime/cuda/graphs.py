"""CUDA graphs, events and errors by `cuda-bindings`, which pycuda lacks: work captured from a stream and launched at once.

Capture is relaxed: what other threads and libraries do meanwhile, or Python's garbage collection in this one, doesn't break it.
"""

from __future__ import annotations

import threading
from typing import Any

from blastscope.runtime.cuda.driver import cuda_error
from blastscope.runtime.cuda.protocol import Recording, Work
from blastscope.runtime.errors import DeviceError, DeviceLost, EngineError, MissingLibrary

_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING


def load_graphs() -> Graphs:
    """Raises `MissingLibrary`."""
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
        """What makes one stream follow another."""
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
        """The error for something that failed with the words `said`: lost, if nothing works any more."""
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
