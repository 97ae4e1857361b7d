"""What a session chose, passed over, measured and built, as typed events. Each is logged when it happens.

A program that wants them as they come adds a handler to the logger `blastscope`; `Scope.events` has those of one session.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from blastscope.runtime.types import Execution, Precision, Voter

logger = logging.getLogger(__name__)
logging.getLogger("blastscope").addHandler(logging.NullHandler())  # a program that sets up no logging sees nothing of it


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that a session did or found. `str(event)` is a sentence for people.

    Attributes
    ----------
    level : int
        The `logging` level under which it is logged: INFO for what was chosen, DEBUG for measurements that go on while a
        session answers, WARNING for what failed in the background.
    """

    level: ClassVar[int] = logging.INFO


@dataclass(frozen=True, slots=True)
class DeviceSelected(SessionEvent):
    """What `device="auto"` became. With a `reason` it is the CPU, since no GPU could be used.

    Attributes
    ----------
    device : str
        As the engine calls it.
    backend : str
        Name of the backend that answers.
    reason : str
        Why it is the CPU; empty for a GPU.
    """

    device: str
    backend: str
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"device auto is the CPU here: {self.reason}"
        return f"device auto is {self.device} here, computed by {self.backend}"


@dataclass(frozen=True, slots=True)
class PassedOver(SessionEvent):
    """A backend, or an engine of it, that can't be used here.

    Attributes
    ----------
    name : str
        The backend or engine.
    reason : str
        The reason in words.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} is passed over: {self.reason}"


@dataclass(frozen=True, slots=True)
class FailedBefore(SessionEvent):
    """Engines that are not tried, since they failed on this machine when they were last measured.

    Attributes
    ----------
    names : tuple of str
        The engines.
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.names)} failed on this machine when last measured"


@dataclass(frozen=True, slots=True)
class EngineSelected(SessionEvent):
    """The engine that answers, and why it was taken.

    Attributes
    ----------
    name : str
        The engine.
    reason : str
        The reason in words.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"took {self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ComputedIn(SessionEvent):
    """The fp16 graph is computed in another number type than f16.

    Attributes
    ----------
    precision : Precision
        Number type of the graph's file.
    execution : Execution
        Number type that is computed in.
    """

    precision: Precision
    execution: Execution

    def __str__(self) -> str:
        return f"the {self.precision} graph is computed in {self.execution} on this device"


@dataclass(frozen=True, slots=True)
class CascadeEnabled(SessionEvent):
    """The first voter may decide alone.

    Attributes
    ----------
    first : Voter
        The voter that is run first.
    threshold : float
        It decides where its larger probability is at least this.
    flip_rate : float
        Share of the judged calls that the cascade changed.
    """

    first: Voter
    threshold: float
    flip_rate: float

    def __str__(self) -> str:
        cost = f"{100 * self.flip_rate:.2f} % of the calls that were judged"
        return f"cascade: {self.first} decides alone from {self.threshold:.4g} on, which changed {cost}"


@dataclass(frozen=True, slots=True)
class EngineNote(SessionEvent):
    """What a backend says of an engine that it loaded: a cache that can't be written, an entry that it replaced.

    Attributes
    ----------
    text : str
        The sentence.
    """

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Measured(SessionEvent):
    """The autotuner timed an engine in turn with the one that answers.

    Attributes
    ----------
    name : str
        The engine.
    ms : float
        Its time for a crop, in milliseconds.
    selected : str
        The engine that answers.
    selected_ms : float
        The answering engine's time for a crop, in milliseconds.
    """

    level: ClassVar[int] = logging.DEBUG
    name: str
    ms: float
    selected: str
    selected_ms: float

    def __str__(self) -> str:
        return f"measured {self.name}: {self.ms:.1f} ms a crop, {self.selected} {self.selected_ms:.1f} ms"


@dataclass(frozen=True, slots=True)
class NotMeasured(SessionEvent):
    """The autotuner couldn't time an engine. A later opening tries again.

    Attributes
    ----------
    name : str
        The engine.
    reason : str
        The reason in words.
    yet : bool
        False where the bundle was replaced meanwhile.
    """

    level: ClassVar[int] = logging.DEBUG
    name: str
    reason: str
    yet: bool = True

    def __str__(self) -> str:
        return f"{self.name} is not measured{' yet' if self.yet else ''}: {self.reason}"


@dataclass(frozen=True, slots=True)
class TimesNotKept(SessionEvent):
    """The cache of measured times can't be written.

    Attributes
    ----------
    reason : str
        The reason in words.
    """

    level: ClassVar[int] = logging.DEBUG
    reason: str

    def __str__(self) -> str:
        return f"what was measured can't be kept: {self.reason}"


@dataclass(frozen=True, slots=True)
class BuildStarted(SessionEvent):
    """A GPU's engine is being built while the CPU answers.

    Attributes
    ----------
    engine : str
        Which engine, and for which GPU, in words.
    """

    engine: str

    def __str__(self) -> str:
        return f"{self.engine} is being built; the CPU answers until reopen() is called"


@dataclass(frozen=True, slots=True)
class BuildFinished(SessionEvent):
    """The GPU's engine is in the cache.

    Attributes
    ----------
    engine : str
        Which engine, and for which GPU, in words.
    """

    engine: str

    def __str__(self) -> str:
        return f"{self.engine} is built: reopen() takes it"


@dataclass(frozen=True, slots=True)
class BuildFailed(SessionEvent):
    """The GPU's engine couldn't be built.

    Attributes
    ----------
    engine : str
        Which engine, and for which GPU, in words.
    reason : str
        The reason in words.
    """

    level: ClassVar[int] = logging.WARNING
    engine: str
    reason: str

    def __str__(self) -> str:
        return f"{self.engine} could not be built: {self.reason}"


class EventLog:
    """The events of one session, in the order in which people read them. Any thread may add to it."""

    def __init__(self) -> None:
        self._events: list[SessionEvent] = []
        self._lock = threading.Lock()

    def add(self, *events: SessionEvent) -> None:
        """Adds events at the end, and logs them."""
        with self._lock:
            self._events += events
        _log(events)

    def add_first(self, *events: SessionEvent) -> None:
        """Adds events before all others, and logs them: of the choice of a device, which is over when its engine is loaded."""
        with self._lock:
            self._events[:0] = events
        _log(events)

    def events(self) -> tuple[SessionEvent, ...]:
        """A copy of the events so far.

        Returns
        -------
        tuple of SessionEvent
        """
        with self._lock:
            return tuple(self._events)


def _log(events: Iterable[SessionEvent]) -> None:
    for event in events:
        logger.log(event.level, "%s", event)
