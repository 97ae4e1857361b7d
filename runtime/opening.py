"""From a verified bundle to an engine that has proved itself on the golden set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar, get_args

import platformdirs

from blastscope.runtime.backends.engines import engine_digest, load_backend, open_engine
from blastscope.runtime.backends.protocol import EngineOptions, Workload
from blastscope.runtime.bundle import Bundle, Golden, check_golden, read_golden
from blastscope.runtime.choose import Candidate, Memory, Survey, admitted, in_order_of_speed
from blastscope.runtime.classes import EXECUTIONS, PRECISIONS, Execution, Precision
from blastscope.runtime.device import Device, parse_device, require_served
from blastscope.runtime.errors import (
    BlastscopeError,
    DeviceError,
    EngineError,
    GoldenMismatch,
    UngatedBundle,
    UsageError,
)
from blastscope.runtime.lanes import Lanes
from blastscope.runtime.prediction import Audit

T = TypeVar("T", bound=str)

WORKLOADS: tuple[Workload, ...] = get_args(Workload)


def user_cache() -> Path:
    """Where engines and measurements are kept unless the caller says otherwise."""
    return Path(platformdirs.user_cache_dir("blastscope", appauthor=False))


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller of `open_bundle` asked for. None: choose."""

    device: Device
    precision: Precision | None
    execution: Execution | None
    backend: str
    workload: Workload
    threads: int | None
    allow_ungated: bool
    cache_dir: Path

    @classmethod
    def checked(
        cls,
        *,
        device: str = "auto",
        precision: str = "auto",
        execution: str | None = "auto",
        backend: str = "auto",
        workload: str = "latency",
        threads: int | None = None,
        allow_ungated: bool = False,
        cache_dir: Path,
    ) -> Self:
        """The wish in these words. Raises `UsageError` for a word that is not known, `DeviceError` for a device not served."""
        named = parse_device(device)
        require_served(named)
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}: at least 1 is needed")
        return cls(
            device=named,
            precision=None if precision == "auto" else _one_of("precision", precision, PRECISIONS),
            execution=None if execution in ("auto", None) else _one_of("execution", execution, EXECUTIONS),
            backend="openvino" if backend == "auto" else backend,
            workload=_one_of("workload", workload, WORKLOADS),
            threads=threads,
            allow_ungated=allow_ungated,
            cache_dir=cache_dir,
        )

    def options(self, execution: Execution) -> EngineOptions:
        """How an engine is to be loaded."""
        return EngineOptions(self.workload, execution, self.threads, self.cache_dir, self.device.name)


def _one_of(what: str, value: str, known: tuple[T, ...]) -> T:
    found = next((one for one in known if one == value), None)
    if found is None:
        auto = "" if what == "workload" else "auto, "
        raise UsageError(f"{what} '{value}' is not known: say {auto}{', '.join(known)}")
    return found


@dataclass(slots=True)
class Opened:
    """An engine that passed the golden set, with what is to be told of how it was chosen."""

    candidate: Candidate
    lanes: Lanes
    notes: list[str]
    survey: Survey | None = field(default=None)

    def audit(self, bundle: Bundle) -> Audit:
        """What every prediction of this engine says of its origin."""
        engine = self.lanes.engine
        precision = self.candidate.entry.precision
        return Audit(bundle.digest, engine.digest, engine.backend, engine.device, precision, engine.execution)

    def answered(self) -> None:
        """To be called after an answer: the first one lets the measurement of the other candidates begin."""
        if self.survey:
            self.survey.start()

    def close(self) -> None:
        """Ends the measurement, finishes the calls under way, frees the engine."""
        self.lanes.stop()
        if self.survey:
            self.survey.finish()
        self.lanes.close()


def open_wished(bundle: Bundle, wish: Wish) -> Opened:
    """The engine that was wished for, or the fastest of those that the wish leaves open. Raises `BlastscopeError`s."""
    if bundle.manifest.gate != "held" and not wish.allow_ungated:
        raise UngatedBundle(
            bundle.path,
            f"its gate is '{bundle.manifest.gate}', so its calls mean nothing; allow_ungated=True opens it anyway",
        )
    backend = load_backend(wish.backend)
    notes: list[str] = []
    offered = backend.executions(wish.device.name)
    candidates = admitted(bundle, wish.precision, wish.execution, offered)
    facts = {"bundle": bundle.digest, "workload": wish.workload, "threads": str(wish.threads)}
    memory = Memory(wish.cache_dir, engine_digest({**backend.fingerprint(wish.device.name), **facts}))
    opener = _Opener(bundle, wish, read_golden(bundle))
    ranked = in_order_of_speed(candidates, memory.read())
    opened = _open_first(ranked, opener, notes)
    _tell(opened, candidates, memory)
    others = [candidate for candidate in candidates if candidate != opened.candidate]
    unknown = [candidate for candidate in others if candidate.name not in memory.read()]
    if unknown:
        opened.survey = Survey((opened.candidate, opened.lanes), unknown, opener, memory, notes)
    return opened


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens candidates of one bundle, and holds each to the golden set."""

    bundle: Bundle
    wish: Wish
    golden: Golden

    def open(self, candidate: Candidate) -> Lanes:
        """Raises `GoldenMismatch`, `EngineError`, `DeviceError`."""
        entry, execution = candidate
        options = self.wish.options(execution)
        engine = open_engine(self.bundle.file(entry), options, backend=self.wish.backend, sha256=entry.sha256)
        lanes = Lanes(engine)
        try:
            if engine.execution != execution:
                raise DeviceError(f"{engine.backend} was asked for {execution} and computes in {engine.execution}")
            tolerance = entry.tolerances[execution]
            check = check_golden(lanes, self.golden, tolerance)
            if not check.passed:
                raise GoldenMismatch(
                    self.bundle.path,
                    f"{entry.file} computed in {execution} by {engine.backend} differs from the trained networks by "
                    f"{check.difference:.2g} (at most {tolerance:.2g}), and {check.flips} calls changed",
                )
        except BaseException:
            lanes.close()
            raise
        return lanes


def _open_first(ranked: Sequence[Candidate], opener: _Opener, notes: list[str]) -> Opened:
    """The first candidate that opens and passes; the others' reasons go to the notes."""
    failures: list[BlastscopeError] = []
    for candidate in ranked:
        try:
            lanes = opener.open(candidate)
        except (GoldenMismatch, EngineError, DeviceError) as error:
            failures.append(error)
            notes.append(f"{candidate.name} is passed over: {error}")
            continue
        notes.extend(lanes.engine.notes)
        return Opened(candidate, lanes, notes)
    # a wrong answer says more of the bundle than a library that broke off
    raise next((error for error in failures if isinstance(error, GoldenMismatch)), failures[-1])


def _tell(opened: Opened, candidates: Sequence[Candidate], memory: Memory) -> None:
    """Notes what was taken and why."""
    candidate, known = opened.candidate, memory.read()
    if candidate.entry.precision == "fp16" and candidate.execution != "f16":
        opened.notes.append(f"the fp16 graph is computed in {candidate.execution} on this device")
    if len(candidates) < 2:
        opened.notes.append(f"took {candidate.name}: the only one to choose from")
        return
    timed = [f"{one.name} {known[one.name]:.1f} ms" for one in candidates if known.get(one.name) is not None]
    others = [one.name for one in candidates if one != candidate]
    if all(name in known and known[name] is None for name in others):
        opened.notes.append(f"took {candidate.name}: {', '.join(others)} failed on this machine when last measured")
    elif known.get(candidate.name) is not None:
        opened.notes.append(f"took {candidate.name}: fastest of what was measured on this machine ({', '.join(timed)} a crop)")
    else:
        opened.notes.append(
            f"took {candidate.name}: not measured on this machine yet; the others are measured after the first answer, "
            f"and the fastest is taken at the next opening"
        )
