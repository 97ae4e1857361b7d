"""A GPU on the host, for proofs without a GPU: numpy's memory at its own addresses, the crop kernels through the host shim.

It keeps a real one's promises and no more: what is recorded isn't done at that time and works on the recorded addresses; memory
that was given back is overwritten; everything happens inside `current`; and a loss is noticed by whatever comes next.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.nvidia.batch_executor import BatchBinding, ExecutionContext, GpuNetwork
from blastscope.runtime.cuda.driver import GpuDevice
from blastscope.runtime.cuda.graphs import Gpu, Recording, Work
from blastscope.runtime.cuda.kernels.crop_launch_plan import Launch
from blastscope.runtime.errors import DeviceLost, OutOfDeviceMemory

FOUND = GpuDevice(0, "Host GPU", (8, 6), 1 << 34, "0000:00:00.0", "999.99")
Step = Callable[[], None]


class HostGpu:
    """See `Gpu`. `memory` is how much there is; `counts` how often each verb was used."""

    found = FOUND

    def __init__(self, kernels: Callable[[Launch], None], *, memory: int = 1 << 32) -> None:
        self.counts: Counter[str] = Counter()
        self.lost = False
        self.left = memory
        self._kernels = kernels
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._pinned: list[NDArray[np.uint8]] = []
        self._streams = itertools.count(16)
        self._open: set[int] = set()
        self._recording: dict[int, list[Step]] = {}
        self._uploads: dict[int, dict[int, list[int]]] = {}
        self._inside = threading.local()

    @contextmanager
    def current(self) -> Iterator[None]:
        self._inside.depth = getattr(self._inside, "depth", 0) + 1
        try:
            yield
        finally:
            self._inside.depth -= 1

    def allocate(self, size: int) -> int:
        self._verb("allocate")
        if size > self.left:
            raise OutOfDeviceMemory(f"taking {size} bytes")
        self.left -= size
        memory = aligned_zeros(size)
        self._held[memory.ctypes.data] = memory
        return int(memory.ctypes.data)

    def free(self, address: int) -> None:
        self._verb("free", works=False)
        memory = self._held.pop(address)
        self.left += len(memory)
        memory[...] = 0xDD

    def holds(self, address: int) -> bool:
        return any(start <= address < start + len(memory) for start, memory in self._held.items())

    def pinned(self, size: int) -> NDArray[np.uint8]:
        self._verb("pinned")
        self._pinned.append(aligned_zeros(size))
        return self._pinned[-1]

    def unpin(self, memory: NDArray[np.uint8]) -> None:
        self._verb("unpin", works=False)
        self._pinned = [one for one in self._pinned if one is not memory]
        memory[...] = 0xDD

    def open_stream(self) -> int:
        self._verb("open_stream")
        self._open.add(stream := next(self._streams))
        return stream

    def close_stream(self, stream: int) -> None:
        self._verb("close_stream", works=False)
        self._open.remove(stream)

    def upload(self, target: int, source: NDArray[np.uint8], stream: int) -> None:
        self._verb("upload")
        assert self._is_pinned(source)
        size = [len(source)]
        if stream in self._recording:
            self._uploads[stream].setdefault(target, size)
        self._do(stream, lambda: self._copy(target, source.ctypes.data, size[0]))

    def download(self, target: NDArray[np.uint8], source: int, stream: int) -> None:
        self._verb("download")
        assert self._is_pinned(target)
        self._do(stream, lambda: self._copy(target.ctypes.data, source, len(target)))

    def launch(self, launch: Launch, stream: int) -> None:
        self._verb("launch")
        self._do(stream, lambda: self._kernels(launch))

    def enqueue(self, stream: int, work: Step) -> None:
        """What an inference library does on the stream."""
        self._verb("enqueue")
        self._do(stream, work)

    def follow(self, stream: int, other: int) -> None:
        self._verb("follow")
        assert stream in self._open

    def wait(self, stream: int) -> None:
        self._verb("wait")
        assert stream in self._open
        assert stream not in self._recording, "a stream that is recorded can't be waited for"

    def record(self, stream: int, work: Work) -> Recording:
        self._verb("record")
        steps = self._recording[stream] = []
        uploads = self._uploads[stream] = {}
        try:
            work()
        finally:
            del self._recording[stream]
        return _Recorded(self, steps, uploads)

    def check(self, doing: str) -> None:
        if self.lost:
            raise DeviceLost(doing, 719)

    @property
    def idle(self) -> bool:
        """Whether everything was given back."""
        return not (self._held or self._pinned or self._open)

    def _verb(self, name: str, *, works: bool = True) -> None:
        assert getattr(self._inside, "depth", 0) > 0, f"{name} outside `current`"
        self.counts[name] += 1
        if works:
            self.check(name)

    def _do(self, stream: int, step: Step) -> None:
        assert stream in self._open
        if stream in self._recording:
            self._recording[stream].append(step)
        else:
            step()

    def _copy(self, target: int, source: int, size: int) -> None:
        for address in (target, source):
            assert any(
                start <= address and address + size <= start + len(memory)
                for start, memory in [*self._held.items(), *((one.ctypes.data, one) for one in self._pinned)]
            ), "a copy outside of what is held"
        ctypes.memmove(target, source, size)

    def _is_pinned(self, array: NDArray[np.uint8]) -> bool:
        start = array.ctypes.data
        return any(one.ctypes.data <= start and start + array.nbytes <= one.ctypes.data + one.nbytes for one in self._pinned)


class _Recorded:
    def __init__(self, gpu: HostGpu, steps: list[Step], uploads: dict[int, list[int]]) -> None:
        self._gpu, self._steps, self._uploads = gpu, steps, uploads
        self._most = {target: size[0] for target, size in uploads.items()}

    def launch(self) -> None:
        self._gpu._verb("launch_recording")
        for step in self._steps:
            step()

    def resize(self, target: int, size: int) -> None:
        self._gpu._verb("resize")
        assert 0 < size <= self._most[target]
        self._uploads[target][0] = size

    def close(self) -> None:
        self._steps = []


def aligned_zeros(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes whose address is a multiple of 256."""
    room = np.zeros(size + 256, np.uint8)
    start = -room.ctypes.data % 256
    return room[start : start + size]


class RecordableNetwork:
    """A network whose work is recorded like TensorRT's: what a recording holds is done when it is launched, and not before.

    On a GPU that can't record foreign work (the paper driver), it is done in between instead.
    """

    def __init__(self, gpu: Gpu, inner: GpuNetwork) -> None:
        self.gpu, self.inner = gpu, inner

    def bind(self, place: BatchBinding) -> ExecutionContext:
        return _RecordablePass(self.gpu, self.inner.bind(place), place.stream)

    def close(self) -> None:
        self.inner.close()


class _RecordablePass:
    def __init__(self, gpu: Gpu, inner: ExecutionContext, stream: int) -> None:
        self._gpu, self._inner, self._stream = gpu, inner, stream
        self.recordable = isinstance(gpu, HostGpu)
        self.answer_shape = inner.answer_shape

    def enqueue(self) -> None:
        if isinstance(self._gpu, HostGpu):
            self._gpu.enqueue(self._stream, self._inner.enqueue)
        else:
            self._inner.enqueue()

    def close(self) -> None:
        self._inner.close()
