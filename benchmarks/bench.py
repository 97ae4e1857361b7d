"""`bench`: every engine of a network in turn with its peers, one run, one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from blastscope import Scope
from blastscope.benchmarks.baseline_int8 import PeerGraphs, peer_graphs
from blastscope.benchmarks.baselines import BASELINE, FAMILIES, RECIPES, Family, Task, openings
from blastscope.benchmarks.cold_start import Cold, measure_cold
from blastscope.benchmarks.contenders import crop_all, handle, separate_models
from blastscope.benchmarks.interleaved_timing import Image, Pace, Side, Turn, run_in_turn
from blastscope.benchmarks.models import Contender
from blastscope.benchmarks.openvino_benchmark_app import SOURCE, benchmark_app, engine_layers, told
from blastscope.benchmarks.reference_labels import SURPLUS, Probabilities, References, clearest, expected, graph_answers
from blastscope.benchmarks.roofline import Peak, measure_peaks, multiply_adds
from blastscope.benchmarks.runtime_targets import (
    ENGINE,
    Wish,
    first_alone,
    network_alone,
    only_first,
    open_first_alone,
    open_own,
)
from blastscope.benchmarks.schema import ALONE, BenchResult, Row, make_row, this_machine, threads_of, versions, with_floor
from blastscope.runtime.backends.onnxruntime.cpu import is_onnxruntime_error
from blastscope.runtime.backends.protocol import Workload
from blastscope.runtime.backends.registry import load_backend
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.errors import BlastscopeError, DeviceError, EngineError, UsageError
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.types import LAYOUTS, PRECISIONS, ClassName, Execution, Layout, Precision

EXECUTIONS: dict[Precision, tuple[Execution, ...]] = {
    "fp32": ("f32", "bf16"),
    "fp16": ("f32", "bf16", "f16"),
    "int8": ("int8",),
}
NATURAL: dict[Precision, Execution] = {"fp32": "f32", "fp16": "f16", "int8": "int8"}
OUTSIDE_ROUNDS = 2  # benchmark_app loads the graph each time

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run of `bench` compares."""

    against_torch: bool = True
    batches: tuple[int, ...] = (1, 8)
    pace: Pace = field(default_factory=Pace)
    threads: int | None = None
    peers: tuple[Family, ...] = ()  # beside the PyTorch side that the ratios are of
    own: bool = True  # whether the runtime itself takes part
    layouts: tuple[Layout, ...] = ()  # of the runtime; none: those that are worth measuring here
    cascade: bool = False  # whether the network in stages takes part, with all voters and with the first one alone
    cold: bool = True  # whether cold starts are measured, each in a process of its own
    outside: bool = False  # whether benchmark_app checks the network's own figures
    data: Path | None = None  # real cells, for the peers' int8 ranges


def bench(contenders: Sequence[Contender], plan: Plan, tell: Tell) -> BenchResult:
    """Rows of every contender, precision, execution and batch that this machine can run; what it can't is in the notes.

    Answers are compared with those of another engine on the same graph file: a side that is fast and wrong raises
    `WrongAnswer`.
    """
    if plan.against_torch:
        import torch  # noqa: F401  a machine without it says so now, not after the first measurement
    tell("measuring the machine's peak")
    peaks = list(measure_peaks(plan.threads))
    rows: list[Row] = []
    notes: list[str] = []
    for contender in contenders:
        comparison = _Comparison(contender, plan, peaks, notes)
        found: list[Row] = []
        for batch in plan.batches:
            tell(f"{contender.name}, batch {batch}")
            found += comparison.rows(batch, tell)
        if plan.outside:
            tell(f"{contender.name}: benchmark_app")
            found += comparison.checked_outside()
        if plan.own:
            comparison.tell_layers()
        rows += _with_cold(found, contender, tell) if plan.cold else found
    machine = this_machine(peaks)
    return BenchResult(machine=machine, versions=versions(), rows=tuple(rows), notes=tuple(dict.fromkeys(notes)))


class _Comparison:
    """One network: its sides, what is right, and the rows that come of them."""

    def __init__(self, contender: Contender, plan: Plan, peaks: Sequence[Peak], notes: list[str]) -> None:
        self._contender, self._plan, self._peaks, self._notes = contender, plan, peaks, notes
        self._bundle: Bundle = read_bundle(contender.bundle)
        self._references = References(self._bundle.manifest.crop, SURPLUS * max(plan.batches), contender.cache)
        self._answers = graph_answers(contender.bundle, self._references)
        self._graphs: PeerGraphs | None = None
        entries = [entry for entry in map(self._bundle.graph, PRECISIONS) if entry]
        self._gmac = multiply_adds(self._bundle.file(entries[0])) / 1e9
        self._told: dict[str, tuple[str, ...]] = {}

    def rows(self, batch: int, tell: Tell) -> list[Row]:
        """Every side at `batch`."""
        places = self._places(tell)[:batch]
        images = [self._references.images[place] for place in places]
        with ExitStack() as stack:
            sides = [*self._peers(images, places, tell), *self._own(images, places, stack)]
            times = run_in_turn(sides, images, self._plan.pace)
        return self._rows_of(times, batch)

    def checked_outside(self) -> list[Row]:
        """The network alone at batch 1, in turn with benchmark_app."""
        rows = []
        for precision, execution, name in self._computed():
            side = f"{self._contender.name}/{name}/{ENGINE}"
            try:
                with open_own(self._contender, Wish(precision, execution, "latency", "fused", self._plan.threads)) as scope:
                    turns, theirs = self._beside_benchmark_app(scope, precision, execution)
            except DeviceError:
                continue  # the comparison has said so already
            except BlastscopeError as error:
                self._notes.append(f"{side}: no outside check: {error}")
                continue
            facts = {"what": "outside", "outside_ms": float(np.mean(theirs)), "source": SOURCE}
            rows.append(self._finished(make_row(side, 1, turns).model_copy(update=facts), execution))
        return rows

    def tell_layers(self) -> None:
        """Notes how much of the int8 network computes in 8 bits."""
        entry = self._bundle.graph("int8")
        if entry is None:
            return
        found = told(engine_layers(self._bundle.file(entry), "int8", cache_dir=default_cache_dir()))
        self._notes.append(f"{self._contender.name}/int8/{ENGINE}: {found}")

    def _beside_benchmark_app(self, scope: Scope, precision: Precision, execution: Execution) -> tuple[list[Turn], list[float]]:
        entry = self._bundle.graph(precision)
        assert entry is not None  # the caller goes through what is there
        graph, pace = self._bundle.file(entry), self._plan.pace
        images = self._references.images[:1]
        crops = crop_all(images, self._bundle.manifest.crop)
        turns: list[Turn] = []
        theirs = []
        for _ in range(OUTSIDE_ROUNDS):
            turns += run_in_turn([Side("", network_alone(scope, crops))], images, replace(pace, rounds=1))[""]
            shape = list(crops.shape)
            theirs.append(benchmark_app(graph, shape, execution, seconds=pace.seconds, threads=self._plan.threads))
        return turns, theirs

    def _places(self, tell: Tell) -> list[int]:
        """The clearest cells, in the graphs of the bundle and in those of the peers."""
        answers = list(self._answers.values())
        if {"onnxruntime", "openvino"} & set(self._plan.peers):
            graphs = self._peer_graphs(tell)
            answers += [self._of_peer(graphs, "fp32"), self._of_peer(graphs, "int8")]
        return clearest(answers, max(self._plan.batches))

    def _peer_graphs(self, tell: Tell) -> PeerGraphs:
        if self._graphs is None:
            self._graphs = peer_graphs(self._contender, self._plan.data, tell)
        return self._graphs

    def _of_peer(self, graphs: PeerGraphs, precision: Precision) -> Probabilities:
        graph, engine = (graphs.fp32, "onnxruntime") if precision == "fp32" else (graphs.int8, "openvino")
        return self._references.of(graph, precision=precision, engine=engine)

    def _peers(self, images: Sequence[Image], places: Sequence[int], tell: Tell) -> Iterator[Side]:
        name = self._contender.name
        if self._plan.against_torch:
            answer = separate_models(self._contender.run, threads=self._plan.threads)
            yield Side(f"{name}/{BASELINE}", answer, self._right(BASELINE, places))
        for family in (one for one in FAMILIES if one in self._plan.peers):
            for side, opening in openings(family, self._task(len(images), family, tell)):
                if side == BASELINE:
                    continue
                tell(f"{name}, opening {side}")
                try:
                    answer = opening()
                    answer(images)  # compiles here, where a failure leaves the others standing
                except failures() as error:
                    self._notes.append(f"{name}/{side} left out: {(str(error).splitlines() or [repr(error)])[0]}")
                    continue
                yield Side(f"{name}/{side}", answer, self._right(side, places))

    def _task(self, batch: int, family: Family, tell: Tell) -> Task:
        graphs: dict[str, Path] = {}
        if family in ("onnxruntime", "openvino"):
            made = self._peer_graphs(tell)
            own = self._bundle.graph("int8")
            graphs = {f"fp32/{'openvino-plain' if family == 'openvino' else family}": made.fp32}
            if family == "onnxruntime":
                graphs["int8/onnxruntime-own-int8"] = made.int8
                if own:
                    graphs["int8/onnxruntime"] = self._bundle.file(own)
            else:
                graphs["int8/openvino-plain"] = self._bundle.file(own) if own else made.int8
        return Task(self._contender.run, graphs, self._bundle.manifest.crop, batch, self._plan.threads)

    def _right(self, side: str, places: Sequence[int]) -> tuple[ClassName | None, ...] | None:
        """The labels that a peer must give; None where nothing but itself could say."""
        precision, engine = side.split("/")
        own = self._answers.get("int8" if precision == "int8" else "fp32") if self._contender.same_weights else None
        if precision == "int8" and (engine == "onnxruntime-own-int8" or own is None):
            own = self._of_peer(self._graphs, "int8") if self._graphs else None
        elif own is None and self._graphs:
            own = self._of_peer(self._graphs, "fp32")
        return None if own is None else expected(own, places)

    def _own(self, images: Sequence[Image], places: Sequence[int], stack: ExitStack) -> Iterator[Side]:
        workload: Workload = "latency" if len(images) == 1 else "throughput"
        offered = load_backend(ENGINE).offered_layouts("CPU", workload, self._plan.threads)
        layouts = dict.fromkeys((*(self._plan.layouts or offered), *(("staged",) if self._plan.cascade else ())))
        for precision, execution, name in self._computed() if self._plan.own else ():
            for layout in layouts:
                # the first is what stands unmeasured; named, so that nothing is measured behind our back meanwhile
                side = f"{self._contender.name}/{name}/{ENGINE}" + ("" if layout == offered[0] else f"-{layout}")
                wish = Wish(precision, execution, workload, layout, self._plan.threads)
                try:
                    scope = stack.enter_context(open_own(self._contender, wish))
                    alone = self._first_alone(wish, places, stack) if layout == "staged" and self._plan.cascade else None
                except (DeviceError, EngineError, UsageError) as error:
                    self._notes.append(f"{side} left out: {error}")
                    if isinstance(error, DeviceError):
                        break
                    continue
                self._told[side] = tuple(scope.notes)
                yield Side(side, handle(scope), expected(self._answers[precision], places))
                if alone:
                    yield replace(alone, name=side.removesuffix("-staged") + ALONE)

    def _first_alone(self, wish: Wish, places: Sequence[int], stack: ExitStack) -> Side:
        lanes = open_first_alone(self._bundle, wish)
        stack.callback(lanes.close)
        right = expected(only_first(self._answers[wish.precision]), places)
        return Side("", first_alone(lanes, self._bundle), right)

    def _computed(self) -> Iterator[tuple[Precision, Execution, str]]:
        """How to run each graph. An fp16 graph beside an fp32 one would only repeat its times in f32 and bf16."""
        for precision in self._answers:
            repeated = precision == "fp16" and "fp32" in self._answers
            for execution in (NATURAL[precision],) if repeated else EXECUTIONS[precision]:
                yield precision, execution, precision if execution == NATURAL[precision] else f"{precision}-{execution}"

    def _rows_of(self, times: dict[str, list[Turn]], batch: int) -> list[Row]:
        baseline = times.get(f"{self._contender.name}/{BASELINE}")
        rows = []
        for name, turns in times.items():
            graph, engine = name.removeprefix(f"{self._contender.name}/").split("/")
            precision, _, execution = graph.partition("-")
            row = make_row(name, batch, turns, baseline)
            if recipe := RECIPES.get(engine):
                row = row.model_copy(update={"how": recipe.how, "source": recipe.source})
            rows.append(self._finished(row, execution or NATURAL[precision]))  # type: ignore[arg-type, index]
        return rows

    def _finished(self, row: Row, execution: Execution) -> Row:
        facts = {
            "execution": execution,
            "gmac": self._gmac * row.batch if row.whole else None,
            "threads": threads_of(self._plan.threads),
            "notes": self._told.get(row.name, ()),
        }
        return with_floor(row.model_copy(update=facts), self._peaks)


def failures() -> tuple[type[Exception], ...]:
    """What a peer's library may raise where it can't be opened here; ONNX Runtime's classes have no root in common."""
    known: tuple[type[Exception], ...] = (BlastscopeError, ImportError, OSError, RuntimeError, ValueError, TypeError)
    return (*known, *is_onnxruntime_error()) if find_spec("onnxruntime") else known


def _with_cold(rows: Sequence[Row], contender: Contender, tell: Tell) -> list[Row]:
    found = {name: _cold(name, contender, tell) for name in dict.fromkeys(row.name for row in rows if row.what == "pixels")}
    cold = {name: {"load_s": one.load_s, "peak_mib": one.peak_mib} for name, one in found.items() if one}
    return [row.model_copy(update=cold.get(row.name, {})) if row.what == "pixels" else row for row in rows]


def _cold(name: str, contender: Contender, tell: Tell) -> Cold | None:
    """Of the runtime and of three PyTorch models; compiling is no start, and other peers start as their library does."""
    graph, engine = name.removeprefix(f"{contender.name}/").split("/")
    ours = {ENGINE: "fused", **{f"{ENGINE}-{layout}": layout for layout in LAYOUTS}}
    if engine != "torch" and (engine not in ours or engine == f"{ENGINE}-paired"):  # of the other workload
        return None
    tell(f"cold start of {name}")
    if engine == "torch":
        return measure_cold(contender.run, "fp32", "f32", "torch")
    precision, _, execution = graph.partition("-")
    execution = execution or NATURAL[precision]  # type: ignore[index]
    return measure_cold(contender.bundle, precision, execution, ENGINE, layout=ours[engine])
