"""What the pipeline asks of an inference library: a fused graph that reads crops and writes answers where it is told to."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """Where one batch lies on the device, and the stream that works on it."""

    batch: int
    crops: int  # address of (batch, S, S, 3) uint8
    probabilities: int  # address of (batch, 3, 2) float32
    stream: int


class Pass(Protocol):
    """The network bound to one place. Used by one thread at a time, inside the GPU's `current`."""

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

    def bind(self, place: Place) -> Pass:
        """A pass that reads and writes at `place`. Raises `EngineError`, `DeviceError`s."""
        ...

    def close(self) -> None:
        """Frees the graph, after its passes."""
        ...
