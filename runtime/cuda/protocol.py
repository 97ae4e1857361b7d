"""The `Gpu` protocol: memory, streams, kernels and graph capture; addresses and streams are integers.

`pycuda_gpu.open_gpu` gives a real one; the tests have one on the host. All of it may be called from any thread, but only inside
`current`; and one stream is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.cuda.driver import GpuDevice
from blastscope.runtime.cuda.kernels.crop_launch_plan import Launch

Work = Callable[[], None]


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
        """Whether anybody's memory on this GPU lies at `address`."""
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
