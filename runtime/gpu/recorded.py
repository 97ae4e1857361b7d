"""Work on one stream, recorded where that can be done: one launch from the upload to the answers, or three steps in a row."""

from __future__ import annotations

from collections.abc import Callable

from blastscope.runtime.errors import DeviceError, DeviceLost, EngineError, OutOfDeviceMemory
from blastscope.runtime.gpu.network import Pass
from blastscope.runtime.gpu.protocol import Gpu, Recording, Work

Tell = Callable[[str], None]


def record_around(gpu: Gpu, stream: int, network: Pass, tell: Tell, *, before: Work, after: Work) -> Recording:
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

    def __init__(self, before: Recording, network: Pass, after: Work) -> None:
        self._before, self._network, self._after = before, network, after

    def launch(self) -> None:
        self._before.launch()
        self._network.enqueue()
        self._after()

    def resize(self, target: int, size: int) -> None:
        self._before.resize(target, size)

    def close(self) -> None:
        self._before.close()
