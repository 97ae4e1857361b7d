"""What the pipeline asks of an inference library: a fused graph that reads crops and writes answers where it is told to.

Work on one stream, recorded where that can be done: one launch from the upload to the answers, or three steps in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from blastscope.runtime.cuda.protocol import Gpu, Recording, Work
from blastscope.runtime.errors import DeviceError, DeviceLost, EngineError, OutOfDeviceMemory


class BatchBinding(NamedTuple):
    """Where one batch lies on the device, and the stream that works on it."""

    batch: int
    crops: int  # address of (batch, S, S, 3) uint8
    answers: int  # address of float32 (batch, *shape), `ExecutionContext.answer_shape`
    stream: int


class ExecutionContext(Protocol):
    """The network bound to one place. Used by one thread at a time, inside the GPU's `current`."""

    answer_shape: tuple[int, int]  # of one crop, see `protocol.answer_output`

    @property
    def recordable(self) -> bool:
        """Whether `enqueue` does nothing but queue work on the stream, so that it can be recorded."""
        ...

    def enqueue(self) -> None:
        """Queues the network on the stream. Raises `EngineError`, `DeviceError`s."""
        ...

    def close(self) -> None:
        """Frees what the pass holds."""
        ...


class Network(Protocol):
    """A fused graph, loaded. Its passes work side by side."""

    def bind(self, place: BatchBinding) -> ExecutionContext:
        """A pass that reads and writes at `place`. Raises `EngineError`, `DeviceError`s."""
        ...

    def close(self) -> None:
        """Frees the graph, after its passes."""
        ...


Tell = Callable[[str], None]


def capture_graph(gpu: Gpu, stream: int, network: ExecutionContext, tell: Tell, *, before: Work, after: Work) -> Recording:
    """`before`, the network, `after`, done once and then recorded; with the network in between where it can't be recorded.

    `tell` gets the reason where the network was thought to be recordable and isn't.
    """

    def whole() -> None:
        before()
        network.enqueue()
        after()

    whole()  # libraries and kernels get ready at their first use, which no recording may hold
    gpu.wait(stream)
    if network.recordable:
        try:
            return gpu.record(stream, whole)
        except (DeviceLost, OutOfDeviceMemory):
            raise
        except (DeviceError, EngineError) as error:
            tell(f"the network can't be recorded, so a call is three steps instead of one launch: {error}")
    return _Interrupted(gpu.record(stream, before), network, after)


class _Interrupted:
    """A recording, then a network that queues its own work, then what follows."""

    def __init__(self, before: Recording, network: ExecutionContext, after: Work) -> None:
        self._before, self._network, self._after = before, network, after

    def launch(self) -> None:
        self._before.launch()
        self._network.enqueue()
        self._after()

    def resize(self, target: int, size: int) -> None:
        self._before.resize(target, size)

    def close(self) -> None:
        self._before.close()
