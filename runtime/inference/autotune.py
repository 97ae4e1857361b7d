"""`Autotuner`: measures the eligible graphs, executions and backends on this machine, and ranks them.

The measurement begins after the first answer, in a thread of its own, and its result counts from the next opening on. The
choice of an open handle holds, so that two images of one run are never judged by two engines.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from blastscope.runtime.backends.protocol import Workload
from blastscope.runtime.bundle import Bundle, Golden
from blastscope.runtime.bundle.manifest import GraphEntry
from blastscope.runtime.errors import BlastscopeError, Closed, DeviceError, DigestMismatch, UsageError
from blastscope.runtime.inference.background import DeferredTask
from blastscope.runtime.inference.events import EventLog, Measured, NotMeasured, PassedOver, TimesNotKept
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.atomic import clear_abandoned_files, write_content
from blastscope.runtime.io.own_files import Unusable, make_private_folder, read_own
from blastscope.runtime.types import PRECISIONS, Execution, Layout, Precision

OTHERWISE: tuple[Execution, ...] = ("bf16", "f16", "f32", "int8")
_BF16 = {"avx512_bf16", "amx_bf16"}


def likely_fastest(features: AbstractSet[str]) -> tuple[Execution, ...]:
    """The executions in the order in which a CPU with these `features`, named as in Linux, is likely fast, fastest first."""
    if "avx2" not in features:
        return OTHERWISE
    return ("int8", "bf16", "f32", "f16") if _BF16 & features else ("int8", "f32", "bf16", "f16")


NATURAL: dict[Precision, Execution] = {"fp32": "f32", "fp16": "f16", "int8": "int8"}  # what a graph is written in
MOST_TOLERANCE = 0.1  # of a probability, from which on an execution isn't taken unless it is asked for
_ROUNDS = (3, 20)  # at least and at most
_SECONDS = 1.0  # of measurement a candidate
_GLANCE_S = 0.05
_LEAST_CORE = 0.3  # of a core that this process must get while engines are timed: with less, their ratio is chance
_LEAST_TIMED_S = 0.1  # from which on that can be told: small networks wait for threads longer than they work
_TIMES_LIMIT = 1 << 20  # bytes of the file that keeps them
MEASUREMENT_PATIENCE_S = 120.0  # for the measurement under way, when the handle closes
logger = logging.getLogger(__name__)

Times = dict[str, float | None]  # ms a crop by a candidate's name; None: it failed


class EngineConfig(NamedTuple):
    """A fused graph, what it would be computed in, how it would lie on the cores, and by whom.

    Attributes
    ----------
    entry : GraphEntry
        The graph, as the manifest lists it.
    execution : Execution
        Number type that is computed in.
    layout : Layout
        How the network lies on the CPU's cores.
    backend : str
        A second backend's name; empty: the first, or only, one of those that are compared.
    """

    entry: GraphEntry
    execution: Execution
    layout: Layout = "fused"
    backend: str = ""  # a second one's name; nothing: the first, or only, backend of those that are compared

    @property
    def name(self) -> str:
        """As in benchmark rows: 'int8', 'fp32', 'fp32-bf16', 'int8 side-by-side', 'int8/onnxruntime'."""
        plain: Execution = "int8" if self.entry.precision == "int8" else "f32"
        name = self.entry.precision if self.execution == plain else f"{self.entry.precision}-{self.execution}"
        laid_out = name if self.layout == "fused" else f"{name} {self.layout}"
        return f"{laid_out}/{self.backend}" if self.backend else laid_out

    def differs_in_layout(self, other: EngineConfig) -> bool:
        """Whether the two differ in nothing else, or not at all."""
        return self._replace(layout=other.layout) == other


def eligible_configs(
    bundle: Bundle,
    precision: Precision | None,
    execution: Execution | None,
    offered: Sequence[Execution],
    *,
    typed: bool = False,
) -> list[EngineConfig]:
    """The candidates that options, bundle and device leave.

    Where the precision is open, an execution is taken from the first graph that has it: fp16 computed in f32 is fp32 with less
    in it.

    Parameters
    ----------
    bundle : Bundle
        Its graphs and their tolerances.
    precision : {'fp32', 'fp16', 'int8'} or None
        None: any.
    execution : {'f32', 'bf16', 'f16', 'int8'} or None
        None: any.
    offered : sequence of str
        Executions that the device offers.
    typed : bool
        Whether the device computes each graph in the type that it is written in.

    Returns
    -------
    list of EngineConfig

    Raises
    ------
    UsageError, DeviceError
        None is left.
    """
    # an int8 graph that did not pass its gate can't be here: the manifest of a bundle that holds its gate refuses it
    left: list[EngineConfig] = []
    reasons: list[BlastscopeError] = []
    for one in PRECISIONS if precision is None else (precision,):
        entry = bundle.graph(one)
        if entry is None:
            reasons.append(UsageError(f"bundle '{bundle.path}' has no fused {one} graph: it has {_fused(bundle)}"))
        else:
            natural = (NATURAL[one],) if NATURAL[one] in offered else ()
            left += _executed(bundle, entry, execution, natural if typed else offered, reasons)
    if not left:
        # what the bundle lacks says less than what was refused
        raise min(reasons, key=lambda reason: isinstance(reason, UsageError))
    first = {candidate.execution: candidate for candidate in reversed(left)}
    return [candidate for candidate in left if first[candidate.execution] is candidate]


def _executed(
    bundle: Bundle, entry: GraphEntry, wished: Execution | None, offered: Sequence[Execution], reasons: list[BlastscopeError]
) -> list[EngineConfig]:
    """`entry` in every execution that is wished, has a tolerance and is offered by the device.

    Where none is wished, one that rounds so coarsely that the golden set proves little is left out. int8 has a gate of its own.
    """
    fitting = [one for one in entry.tolerances if (one == "int8") == (entry.precision == "int8")]
    wanted = [one for one in fitting if wished == one]
    if wished is None:
        wanted = [one for one in fitting if one == "int8" or entry.tolerances[one] <= MOST_TOLERANCE] or fitting
    if not wanted:
        has = ", ".join(fitting) or "none"
        reasons.append(
            UsageError(f"bundle '{bundle.path}' gives no tolerance for {entry.precision} computed in {wished}: it gives {has}")
        )
    possible = [one for one in wanted if one in offered]
    if wanted and not possible:
        there = ", ".join(offered) or "nothing for that graph"
        reasons.append(DeviceError(f"{entry.precision} is to be computed in {' or '.join(wanted)}; the device offers {there}"))
    return [EngineConfig(entry, one) for one in possible]


def _fused(bundle: Bundle) -> str:
    return ", ".join(entry.precision for entry in bundle.manifest.graphs if entry.models == "ensemble")


def rank_by_latency(
    candidates: Sequence[EngineConfig], times: Times, guess: Sequence[Execution] = OTHERWISE
) -> list[EngineConfig]:
    """The measured ones, fastest first; then the others in the order of `guess`, and those that failed last."""

    def rank(candidate: EngineConfig) -> tuple[float, bool, int]:
        known = times.get(candidate.name, math.inf)
        failed = candidate.name in times and known is None
        return (math.inf if known is None else known, failed, guess.index(candidate.execution))

    return sorted(candidates, key=rank)


class TimingCache:
    """What was measured on this machine, in one small file of the cache. It may be lost at any time."""

    def __init__(self, cache_dir: Path, key: str) -> None:
        self._path = cache_dir / "choices" / f"{key}.json"

    def read(self) -> Times:
        """Milliseconds a crop by candidate; nothing where nothing is known or the file is damaged."""
        try:
            found = json.loads(read_own(self._path, _TIMES_LIMIT))
            times = found["ms_per_crop"]
            return {str(name): None if value is None else float(value) for name, value in times.items()}
        except (Unusable, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def remember(self, times: Times) -> None:
        """Adds `times`. Raises `OSError` where the cache can't be written."""
        make_private_folder(self._path.parent)
        write_content(self._path, json.dumps({"ms_per_crop": {**self.read(), **times}}, indent=1), private=True)
        clear_abandoned_files(self._path.parent)


class TimingCaches:
    """The timing caches of several backends as one: what was measured with each counts while that one stays as it is."""

    def __init__(self, caches: Mapping[str, TimingCache]) -> None:
        self._caches = caches  # by `EngineConfig.backend`

    def read(self) -> Times:
        """Milliseconds a crop by candidate, of all backends."""
        return {
            f"{name}/{backend}" if backend else name: value
            for backend, cache in self._caches.items()
            for name, value in cache.read().items()
        }

    def remember(self, times: Times) -> None:
        """Adds `times`. Raises `OSError` where the cache can't be written."""
        parts: dict[str, Times] = {}
        for name, value in times.items():
            plain, _, backend = name.partition("/")
            parts.setdefault(backend, {})[plain] = value
        for backend, part in parts.items():
            self._caches[backend].remember(part)


class Opener(Protocol):
    """Opens a candidate that passes the golden set."""

    @property
    def golden(self) -> Golden:
        """The golden set."""
        ...

    @property
    def workload(self) -> Workload:
        """What is to be fast: one answer, or many."""
        ...

    def open(self, candidate: EngineConfig) -> InferencePool:
        """An engine of this configuration. Raises `BlastscopeError`."""
        ...


class _Starved(Exception):  # no error: a later opening measures
    """Other programs left this one hardly any processor time."""


class Autotuner:
    """Measures the candidates that nobody has measured here yet, in turn with the one that is open."""

    def __init__(
        self,
        taken: tuple[EngineConfig, InferencePool],
        others: Sequence[EngineConfig],
        opener: Opener,
        memory: TimingCaches,
        events: EventLog,
    ) -> None:
        self._taken, self._lanes = taken
        self._layouts = [one for one in others if one.differs_in_layout(taken[0])]  # of what is open, in another layout
        self._others = [one for one in others if one not in self._layouts]
        self._opener = opener
        self._memory = memory
        self._events = events
        self._stop = threading.Event()
        self._work = DeferredTask(self._run, "blastscope-survey")

    def start(self) -> None:
        """Begins, unless it began already."""
        self._work.start()

    def finish(self) -> None:
        """Waits for the candidate that is being measured, in as few rounds as do; the others are left to the next opening.

        One that hangs is left behind after two minutes, with a warning in the log: a large network takes one to compile.
        """
        self._stop.set()
        if not self._work.finish(begin=False, timeout_s=MEASUREMENT_PATIENCE_S):
            logger.warning("a measurement in the background hasn't ended for %.0f s: it is left behind", MEASUREMENT_PATIENCE_S)

    def _run(self) -> None:
        for candidate in self._line():
            self._wait()  # so that two engines aren't held in memory all through a long job
            try:
                self._memory.remember(self._measure(candidate))
            except BlastscopeError as error:  # one of the two broke off, and the next opening may find out which
                self._events.add(NotMeasured(candidate.name, str(error)))
            except OSError as error:
                self._events.add(TimesNotKept(str(error.strerror or error)))
            if self._stop.is_set():
                return

    def _line(self) -> Iterator[EngineConfig]:
        """Who is measured, in turn: other layouts only of the fastest, which is the open one unless another proved faster."""
        yield from self._others
        times = self._memory.read()
        ours = times.get(self._taken.name)
        if ours is None or not any(ms is not None and ms < ours for ms in (times.get(one.name) for one in self._others)):
            yield from self._layouts

    def _measure(self, candidate: EngineConfig) -> Times:
        """Times of `candidate` and of the open engine, taken in turn, so that what else runs here slows both.

        All lanes of an engine work: for throughput, fewer lanes that are faster each may make more or less of the cores.
        """
        try:
            other = self._opener.open(candidate)
        except DigestMismatch as error:  # the bundle was replaced meanwhile: that says nothing of the candidate
            self._events.add(NotMeasured(candidate.name, str(error), yet=False))
            return {}
        except Closed:  # the process ends, which says nothing of the candidate
            raise
        except BlastscopeError as error:
            self._events.add(PassedOver(candidate.name, str(error)))
            return {candidate.name: None}
        try:
            ours, theirs = self._race(self._lanes, other)
        except _Starved:
            self._events.add(NotMeasured(candidate.name, "other programs keep the cores busy"))
            return {}
        finally:
            other.close()
        if math.isinf(ours):
            self._events.add(NotMeasured(candidate.name, "the handle was at work all the time"))
            return {}
        self._events.add(Measured(candidate.name, theirs, self._taken.name, ours))
        # The ratio counts. What the open engine was found to take stays, whatever else runs here today: else it would compare
        # badly with those that were measured in quieter hours.
        known = self._memory.read().get(self._taken.name) or ours
        return {self._taken.name: known, candidate.name: theirs * known / ours}

    def _race(self, ours: InferencePool, theirs: InferencePool) -> tuple[float, float]:
        """The best time of each, of rounds in which nobody else used our lanes: waiting for those isn't work.

        Raises `_Starved` where other programs left this one hardly any processor time. A GPU's work takes none of it.
        """
        best = [math.inf, math.inf]
        end, number = time.monotonic() + _SECONDS, 0
        spent = passed = 0.0
        for _ in range(_ROUNDS[1]):
            if number >= _ROUNDS[0] and (time.monotonic() > end or self._stop.is_set()):
                break
            self._wait()
            begun = ours.begun
            worked, clock = time.process_time(), time.perf_counter()
            times = [self._time(lanes) for lanes in (ours, theirs)]
            spent, passed = spent + time.process_time() - worked, passed + time.perf_counter() - clock
            if ours.begun == begun and not ours.busy:
                best = [min(pair) for pair in zip(best, times, strict=True)]
                number += 1
        if passed > _LEAST_TIMED_S and spent < _LEAST_CORE * passed and {ours.engine.device, theirs.engine.device} == {"CPU"}:
            raise _Starved
        return best[0], best[1]

    def _time(self, lanes: InferencePool) -> float:
        crops, count = self._opener.golden.crops, lanes.engine.batch if self._opener.workload == "throughput" else 1
        batch = [crops[np.arange(count) % len(crops)]] * len(lanes.engine.lanes)
        start = time.perf_counter()
        lanes.parallel_map(lanes.infer_on_lane, batch)  # outside of `call`: a handle that closes ends a race, not breaks it
        return 1000 * (time.perf_counter() - start) / (count * len(batch))

    def _wait(self) -> None:
        """Until nobody uses the handle, or it is being closed."""
        while self._lanes.busy and not self._stop.is_set():
            time.sleep(_GLANCE_S)
