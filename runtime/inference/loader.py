"""Loads a graph of a verified bundle on a device, and validates it on the golden set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from blastscope.runtime.backends.blob_store import engine_digest
from blastscope.runtime.backends.protocol import BackendModule, Engine, EngineOptions, Workload, load_backend, load_gpu_backend
from blastscope.runtime.bundle import Bundle, Golden, read_golden
from blastscope.runtime.bundle.graphs import RefusedGraph
from blastscope.runtime.errors import (
    BlastscopeError,
    DeviceError,
    DeviceLost,
    EngineError,
    GoldenMismatch,
    OutOfDeviceMemory,
    UnavailableError,
    UsageError,
)
from blastscope.runtime.inference.autotune import (
    OTHERWISE,
    Autotuner,
    EngineConfig,
    Times,
    TimingCache,
    TimingCaches,
    eligible_configs,
    likely_fastest,
    rank_by_latency,
)
from blastscope.runtime.inference.background import BackgroundBuild, DeferredTask
from blastscope.runtime.inference.events import (
    ComputedIn,
    EngineNote,
    EngineSelected,
    EventLog,
    FailedBefore,
    PassedOver,
)
from blastscope.runtime.inference.options import SessionOptions
from blastscope.runtime.inference.validation import validate_engine
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.cpu_info import cpu_features, usable_threads
from blastscope.runtime.types import Audit

_KEEP_DELAY_S = 0.5  # the library exports an engine without letting go of the interpreter: the first answer is out by then


@dataclass(slots=True)
class LoadedSession:
    """An engine that passed the golden set, and the events of how it was chosen.

    Attributes
    ----------
    candidate : EngineConfig
        The engine's configuration.
    lanes : InferencePool
        What infers.
    events : EventLog
        What happened on the way.
    autotuner : Autotuner or None
        Measures the other candidates, later; None where there are none.
    deferred_save : DeferredTask or None
        Puts the compiled engine into the cache, later.
    building : BackgroundBuild or None
        Builds the GPU's engine while the CPU answers.
    """

    candidate: EngineConfig
    lanes: InferencePool
    events: EventLog
    autotuner: Autotuner | None = None
    deferred_save: DeferredTask | None = None
    building: BackgroundBuild | None = None

    def audit(self, bundle: Bundle) -> Audit:
        """What every prediction of this engine says of its origin."""
        engine = self.lanes.engine
        precision = self.candidate.entry.precision
        origin = (bundle.digest, engine.digest, engine.backend, engine.device)
        return Audit(*origin, precision, engine.execution, engine.layout)

    def on_first_result(self) -> None:
        """To be called after an answer: the first one lets begin what was put off until then."""
        if self.deferred_save:
            self.deferred_save.start()
        if self.autotuner:
            self.autotuner.start()

    def close(self) -> None:
        """Ends the measurement, finishes the calls under way, frees the engine. In a forked child nothing."""
        if self.lanes.inherited:
            return  # it would wait for threads that only the parent has
        self.lanes.stop()
        if self.building:
            self.building.cancel()
        if self.autotuner:
            self.autotuner.finish()
        if self.deferred_save:
            self.deferred_save.finish()
        self.lanes.close()


@dataclass(frozen=True, slots=True)
class BackendPlan:
    """One or several backends on a device, and what is known of their candidates.

    Attributes
    ----------
    bundle : Bundle
        The bundle.
    options : SessionOptions
        What the caller asked for.
    name : str
        The first backend's.
    backends : mapping of str to BackendModule
        The backends, by `EngineConfig.backend`.
    memory : TimingCaches
        Times that were measured earlier.
    candidates : list of EngineConfig
        The engines that may be opened.
    layouts : list of EngineConfig
        The same in other layouts.
    ranked : list of EngineConfig
        The candidates in the order in which they are tried.
    at_hand : list of EngineConfig
        Those that open without a long build.
    """

    bundle: Bundle
    options: SessionOptions
    name: str
    backends: Mapping[str, BackendModule]
    memory: TimingCaches
    candidates: list[EngineConfig]
    layouts: list[EngineConfig]
    ranked: list[EngineConfig]
    at_hand: list[EngineConfig]

    @property
    def must_build(self) -> bool:
        """Whether the first one that is tried has to be built first."""
        return self.ranked[0] not in self.at_hand


def plan_backend(bundle: Bundle, options: SessionOptions, name: str, *others: str) -> BackendPlan:
    """What backends can do on a device.

    Parameters
    ----------
    bundle : Bundle
        Its graphs and tolerances.
    options : SessionOptions
        The device, and what else was asked for.
    name : str
        The backend that has to be there.
    *others : str
        On a CPU, further backends, which take part where they are there.

    Returns
    -------
    BackendPlan

    Raises
    ------
    UsageError, UnavailableError
        The backend `name` can't do what was asked for.
    """
    if options.device.kind == "cuda":
        return _choose_on_gpu(bundle, options, name)
    found = {"": _host_part(bundle, options, name)}
    for other in others:
        with suppress(UsageError, UnavailableError):
            found[other] = _host_part(bundle, options, other)
    candidates = [one._replace(backend=key) for key, part in found.items() for one in part.candidates]
    layouts = [one._replace(backend=key) for key, part in found.items() for one in part.layouts]
    memory = TimingCaches({key: part.memory for key, part in found.items()})
    backends = {key: part.backend for key, part in found.items()}
    known = memory.read()
    guess = likely_fastest(cpu_features()) if options.device.name == "CPU" else OTHERWISE
    # a layout that was not measured is never taken: it may be slower, or not to be had of this graph
    ranked = rank_by_latency([*candidates, *(one for one in layouts if known.get(one.name))], known, guess)
    return BackendPlan(bundle, options, name, backends, memory, candidates, layouts, ranked, candidates)


class _HostPart(NamedTuple):
    """A CPU backend's share of a plan.

    Attributes
    ----------
    backend : BackendModule
        The backend.
    candidates : list of EngineConfig
        Graphs and executions, in the plain layout.
    layouts : list of EngineConfig
        The same in each other layout.
    memory : TimingCache
        What was measured before.
    """

    backend: BackendModule
    candidates: list[EngineConfig]
    layouts: list[EngineConfig]
    memory: TimingCache


def _host_part(bundle: Bundle, options: SessionOptions, name: str) -> _HostPart:
    backend, device = load_backend(name), options.device.name
    plain, *others = (options.layout,) if options.layout else backend.offered_layouts(device, options.workload, options.threads)
    found = eligible_configs(bundle, options.precision, options.execution, backend.executions(device))
    return _HostPart(
        backend,
        [one._replace(layout=plain) for one in found],
        [one._replace(layout=layout) for one in found for layout in others],
        _memory(bundle, options, backend, threads=options.threads or usable_threads()),
    )


def _choose_on_gpu(bundle: Bundle, options: SessionOptions, name: str) -> BackendPlan:
    gpu = load_gpu_backend(name)
    candidates = eligible_configs(bundle, options.precision, options.execution, gpu.executions(options.device.name), typed=True)
    memory = TimingCaches({"": _memory(bundle, options, gpu, threads=options.threads)})
    at_hand = [one for one in candidates if gpu.prepared(one.entry.sha256, options.engine_options(one.execution))]
    ranked = rank_by_latency(candidates, memory.read())
    ranked.sort(key=lambda one: one not in at_hand)  # stable: among those at hand the fastest stays first
    return BackendPlan(bundle, options, name, {"": gpu}, memory, candidates, [], ranked, at_hand)


def _memory(bundle: Bundle, options: SessionOptions, backend: BackendModule, *, threads: int | None) -> TimingCache:
    facts = {"bundle": bundle.digest, "workload": options.workload, "threads": str(threads)}
    return TimingCache(options.cache_dir, engine_digest({**backend.fingerprint(options.device.name), **facts}))


def load_plan(choice: BackendPlan) -> LoadedSession:
    """The first of the ranked candidates that passes the golden set. Raises `BlastscopeError`s."""
    events = EventLog()
    bundle, memory = choice.bundle, choice.memory
    opener = _Opener(bundle, choice.options, choice.backends, read_golden(bundle))
    opened = _open_first(choice.ranked, opener, events)
    known = memory.read()
    if save := opened.lanes.engine.save_to_cache:
        opened.deferred_save = DeferredTask(
            lambda: events.add(*map(EngineNote, filter(None, [save()]))), "blastscope-keep", delay_s=_KEEP_DELAY_S
        )
    ours = [one for one in choice.layouts if one.differs_in_layout(opened.candidate)]
    _tell(opened, [*ours, *choice.candidates], known)
    at_hand = [one for one in choice.ranked if one in choice.at_hand]  # the likely fastest is measured first
    unknown = [one for one in (*at_hand, *ours) if one != opened.candidate and one.name not in known]
    if unknown:
        opened.autotuner = Autotuner((opened.candidate, opened.lanes), unknown, opener, memory, events)
    return opened


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens candidates of one bundle, and holds each to the golden set.

    Attributes
    ----------
    bundle : Bundle
        Whose graphs.
    options : SessionOptions
        What the caller asked for.
    backends : mapping of str to BackendModule
        By name.
    golden : Golden
        What every engine must reproduce.
    """

    bundle: Bundle
    options: SessionOptions
    backends: Mapping[str, BackendModule]
    golden: Golden

    @property
    def workload(self) -> Workload:
        """What is to be fast."""
        return self.options.workload

    def open(self, candidate: EngineConfig, *, measured: bool = True) -> InferencePool:
        """An engine to be measured, or one that answers, whose keeping is put off. Raises `BlastscopeError`s."""
        options = replace(
            self.options.engine_options(candidate.execution, candidate.layout),
            crop=self.bundle.manifest.crop,
            defer_save=not measured,
        )
        engine = self._load(candidate, options)
        try:
            return self._validated(engine, candidate)
        except (DeviceLost, OutOfDeviceMemory):  # say nothing of the engine
            raise
        except (GoldenMismatch, EngineError, DeviceError):
            # on a GPU a build takes minutes: a measurement in the background would keep the handle from closing so long
            if not engine.from_cache or (measured and self.options.device.kind == "cuda"):
                raise
        # sound, and yet it answers wrongly: its place is taken, or it would be refused at every opening from now on
        return self._validated(self._load(candidate, replace(options, rebuild=True)), candidate)

    def _load(self, candidate: EngineConfig, engine_options: EngineOptions) -> Engine:
        entry = candidate.entry
        try:
            return self.backends[candidate.backend].open_engine(self.bundle.file(entry), entry.sha256, engine_options)
        except RefusedGraph as error:
            raise error.in_bundle(self.bundle.path, entry.file) from error

    def _validated(self, engine: Engine, candidate: EngineConfig) -> InferencePool:
        entry, execution = candidate.entry, candidate.execution
        lanes = InferencePool(engine)
        try:
            if engine.execution != execution:
                raise DeviceError(f"{engine.backend} was asked for {execution} and computes in {engine.execution}")
            tolerance = entry.tolerances[execution]
            check = validate_engine(lanes, engine, self.golden, tolerance, self.options.cache_dir)
            if not check.passed:
                raise GoldenMismatch(
                    self.bundle.path,
                    f"{entry.file} computed in {execution} by {engine.backend} differs from the trained networks by "
                    f"{check.difference:.2g} (at most {tolerance:.2g}), and {check.flips} calls changed: take another "
                    f"precision, backend or device",
                )
        except BaseException:
            lanes.close()
            raise
        return lanes


def _open_first(ranked: Sequence[EngineConfig], opener: _Opener, events: EventLog) -> LoadedSession:
    """The first candidate that opens and passes; the others' reasons go to the events."""
    failures: list[BlastscopeError] = []
    for candidate in ranked:
        try:
            lanes = opener.open(candidate, measured=False)
        except (GoldenMismatch, UnavailableError) as error:
            failures.append(error)
            events.add(PassedOver(candidate.name, str(error)))
            continue
        events.add(*map(EngineNote, lanes.engine.notes))
        return LoadedSession(candidate, lanes, events)
    # a wrong answer says more of the bundle than a library that broke off
    raise next((error for error in failures if isinstance(error, GoldenMismatch)), failures[-1])


def _tell(opened: LoadedSession, candidates: Sequence[EngineConfig], known: Times) -> None:
    """Adds what was taken and why to the session's events."""
    candidate, events = opened.candidate, opened.events
    if candidate.entry.precision == "fp16" and candidate.execution != "f16":
        events.add(ComputedIn("fp16", candidate.execution))
    if len(candidates) < 2:
        events.add(EngineSelected(candidate.name, "the only one to choose from"))
        return
    timed = [f"{one.name} {known[one.name]:.1f} ms" for one in candidates if known.get(one.name) is not None]
    others = [one.name for one in candidates if one != candidate]
    failed = [name for name in others if name in known and known[name] is None]
    if failed:
        events.add(FailedBefore(tuple(failed)))
    if failed == others:
        reason = "the only one that is left"
    elif known.get(candidate.name) is not None:
        reason = f"fastest of what was measured on this machine ({', '.join(timed)} a crop)"
    else:
        reason = (
            "not measured on this machine yet; the others are measured after the first answer, "
            "and the fastest is taken at the next opening"
        )
    events.add(EngineSelected(candidate.name, reason))
