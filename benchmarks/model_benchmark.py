"""`ModelBenchmark`: the runtime's engines of one network, interleaved with the baselines, and the rows that come of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from blastscope import Scope
from blastscope.benchmarks.baselines import (
    BASELINE_CONFIGS,
    FRAMEWORKS,
    TORCH_BASELINE,
    BaselineGraphs,
    BaselineTask,
    Framework,
    baseline_factories,
    baseline_graphs,
)
from blastscope.benchmarks.contenders import (
    BACKEND,
    CANDIDATES_PER_CELL,
    Probabilities,
    ReferencePredictions,
    RuntimeConfig,
    clearest_cells,
    expected_labels,
    first_voter_classifier,
    mask_other_voters,
    network_only,
    open_first_voter,
    open_runtime,
    predict_graphs,
    runtime_classifier,
    separate_torch_models,
)
from blastscope.benchmarks.interleaved_timing import Contender, Image, Round, TimingConfig, time_interleaved
from blastscope.benchmarks.models import BenchmarkModel, crop_images
from blastscope.benchmarks.native import ENGINE, native_classifier, open_native
from blastscope.benchmarks.openvino_benchmark_app import SOURCE, describe_layers, engine_layers, run_benchmark_app
from blastscope.benchmarks.roofline import Peak, multiply_adds
from blastscope.benchmarks.schema import (
    FIRST_VOTER_SUFFIX,
    Row,
    make_row,
    thread_count,
    with_roofline,
)
from blastscope.runtime.backends.onnxruntime.cpu import is_onnxruntime_error
from blastscope.runtime.backends.protocol import Workload, load_backend
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.errors import BlastscopeError, DeviceError, EngineError, UsageError
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.types import PRECISIONS, ClassName, Execution, Layout, Precision

logger = logging.getLogger(__name__)

EXECUTIONS: dict[Precision, tuple[Execution, ...]] = {
    "fp32": ("f32", "bf16"),
    "fp16": ("f32", "bf16", "f16"),
    "int8": ("int8",),
}
DEFAULT_EXECUTION: dict[Precision, Execution] = {"fp32": "f32", "fp16": "f16", "int8": "int8"}
BENCHMARK_APP_ROUNDS = 2  # it loads the graph each time


@dataclass(frozen=True)
class BenchmarkConfig:
    """What a run compares.

    Attributes
    ----------
    torch_baseline
        Whether the PyTorch baseline, whose time the ratios are of, takes part.
    batches
        Numbers of images in a call.
    timing
        Rounds and their length.
    threads
        Threads of every contender; None: one for each core that this process may use.
    frameworks
        Whose other baselines take part.
    runtime
        Whether this runtime takes part.
    layouts
        Layouts of the runtime; none: those that are worth measuring on this machine.
    cascade
        Whether the runtime's layout 'staged' takes part, with all voters and with the first one alone.
    cold_start
        Whether cold starts are measured, each in a process of its own.
    benchmark_app
        Whether OpenVINO's benchmark_app measures the network too.
    data
        Folder of C-NMC cells that set the int8 ranges of the baselines; None: synthetic cells set them.
    native
        libblastscope.so, which takes part at batch 1; None: it doesn't.
    """

    torch_baseline: bool = True
    batches: tuple[int, ...] = (1, 8)
    timing: TimingConfig = field(default_factory=TimingConfig)
    threads: int | None = None
    frameworks: tuple[Framework, ...] = ()
    runtime: bool = True
    layouts: tuple[Layout, ...] = ()
    cascade: bool = False
    cold_start: bool = True
    benchmark_app: bool = False
    data: Path | None = None
    native: Path | None = None


class ModelBenchmark:
    """One network: its contenders, their expected labels, and their rows.

    Parameters
    ----------
    model
        The network.
    config
        What is compared.
    peaks
        Of the machine, for the roofline.
    notes
        List that gets a line for each contender that can't run, and for other findings.
    """

    def __init__(self, model: BenchmarkModel, config: BenchmarkConfig, peaks: Sequence[Peak], notes: list[str]) -> None:
        self._model, self._config, self._peaks, self._notes = model, config, peaks, notes
        self._bundle: Bundle = read_bundle(model.bundle)
        cells = CANDIDATES_PER_CELL * max(config.batches)
        self._reference = ReferencePredictions(self._bundle.manifest.crop, cells, model.cache)
        self._predictions = predict_graphs(model.bundle, self._reference)
        self._graphs: BaselineGraphs | None = None
        entries = [entry for entry in map(self._bundle.graph, PRECISIONS) if entry]
        self._gmac = multiply_adds(self._bundle.file(entries[0])) / 1e9
        self._scope_notes: dict[str, tuple[str, ...]] = {}

    def compare_contenders(self, batch: int) -> list[Row]:
        """The rows of all contenders at `batch`."""
        cells = self._clearest_cells()[:batch]
        images = [self._reference.images[cell] for cell in cells]
        with ExitStack() as stack:
            contenders = [*self._baselines(images, cells), *self._runtime_contenders(images, cells, stack)]
            rounds = time_interleaved(contenders, images, self._config.timing)
        return self._make_rows(rounds, batch)

    def compare_benchmark_app(self) -> list[Row]:
        """The rows of the network alone at batch 1, interleaved with benchmark_app."""
        rows = []
        for precision, execution, graph_name in self._executions():
            name = f"{self._model.name}/{graph_name}/{BACKEND}"
            runtime_config = RuntimeConfig(precision, execution, "latency", "fused", self._config.threads)
            try:
                with open_runtime(self._model, runtime_config) as scope:
                    rounds, benchmark_app_ms = self._interleave_benchmark_app(scope, precision, execution)
            except DeviceError:
                continue  # the comparison of contenders has noted it already
            except BlastscopeError as error:
                self._notes.append(f"{name}: not measured by benchmark_app: {error}")
                continue
            fields = {"scope": "benchmark_app", "benchmark_app_ms": float(np.mean(benchmark_app_ms)), "source": SOURCE}
            rows.append(self._complete(make_row(name, 1, rounds).model_copy(update=fields), execution))
        return rows

    def note_int8_layers(self) -> None:
        """Notes how much of the int8 network computes in 8 bits."""
        entry = self._bundle.graph("int8")
        if entry is None:
            return
        text = describe_layers(engine_layers(self._bundle.file(entry), "int8", cache_dir=default_cache_dir()))
        self._notes.append(f"{self._model.name}/int8/{BACKEND}: {text}")

    def _interleave_benchmark_app(
        self, scope: Scope, precision: Precision, execution: Execution
    ) -> tuple[list[Round], list[float]]:
        """The network's rounds, and the medians of benchmark_app in milliseconds."""
        entry = self._bundle.graph(precision)
        assert entry is not None  # the caller goes through the graphs of the bundle
        graph, timing = self._bundle.file(entry), self._config.timing
        images = self._reference.images[:1]
        crops = crop_images(images, self._bundle.manifest.crop)
        rounds: list[Round] = []
        medians_ms = []
        for _ in range(BENCHMARK_APP_ROUNDS):
            rounds += time_interleaved([Contender("", network_only(scope, crops))], images, replace(timing, rounds=1))[""]
            shape = list(crops.shape)
            medians_ms.append(run_benchmark_app(graph, shape, execution, seconds=timing.seconds, threads=self._config.threads))
        return rounds, medians_ms

    def _clearest_cells(self) -> list[int]:
        """The cells with the largest margins in the graphs of the bundle and of the baselines."""
        predictions = list(self._predictions.values())
        if {"onnxruntime", "openvino"} & set(self._config.frameworks):
            graphs = self._baseline_graphs()
            predictions += [self._predict_baseline(graphs, "fp32"), self._predict_baseline(graphs, "int8")]
        return clearest_cells(predictions, max(self._config.batches))

    def _baseline_graphs(self) -> BaselineGraphs:
        if self._graphs is None:
            self._graphs = baseline_graphs(self._model, self._config.data)
        return self._graphs

    def _predict_baseline(self, graphs: BaselineGraphs, precision: Precision) -> Probabilities:
        graph, backend = (graphs.fp32, "onnxruntime") if precision == "fp32" else (graphs.int8, "openvino")
        return self._reference.predict(graph, precision=precision, backend=backend)

    def _baselines(self, images: Sequence[Image], cells: Sequence[int]) -> Iterator[Contender]:
        model = self._model.name
        if self._config.torch_baseline:
            classify = separate_torch_models(self._model.run, threads=self._config.threads)
            yield Contender(f"{model}/{TORCH_BASELINE}", classify, self._expected_labels(TORCH_BASELINE, cells))
        for framework in (one for one in FRAMEWORKS if one in self._config.frameworks):
            for name, load in baseline_factories(framework, self._baseline_task(len(images), framework)):
                if name == TORCH_BASELINE:
                    continue
                logger.info("%s, opening %s", model, name)
                try:
                    classify = load()
                    classify(images)  # compiles here, where a failure leaves the other contenders standing
                except baseline_errors() as error:
                    self._notes.append(f"{model}/{name} left out: {(str(error).splitlines() or [repr(error)])[0]}")
                    continue
                yield Contender(f"{model}/{name}", classify, self._expected_labels(name, cells))

    def _baseline_task(self, batch: int, framework: Framework) -> BaselineTask:
        graphs: dict[str, Path] = {}
        if framework in ("onnxruntime", "openvino"):
            baseline = self._baseline_graphs()
            int8 = self._bundle.graph("int8")
            graphs = {f"fp32/{'openvino-plain' if framework == 'openvino' else framework}": baseline.fp32}
            if framework == "onnxruntime":
                graphs["int8/onnxruntime-own-int8"] = baseline.int8
                if int8:
                    graphs["int8/onnxruntime"] = self._bundle.file(int8)
            else:
                graphs["int8/openvino-plain"] = self._bundle.file(int8) if int8 else baseline.int8
        return BaselineTask(self._model.run, graphs, self._bundle.manifest.crop, batch, self._config.threads)

    def _expected_labels(self, name: str, cells: Sequence[int]) -> tuple[ClassName | None, ...] | None:
        """The labels that the baseline `precision/engine` must give; None where no other engine runs its weights."""
        precision, engine = name.split("/")
        found = self._predictions.get("int8" if precision == "int8" else "fp32") if self._model.same_weights else None
        if precision == "int8" and (engine == "onnxruntime-own-int8" or found is None):
            found = self._predict_baseline(self._graphs, "int8") if self._graphs else None
        elif found is None and self._graphs:
            found = self._predict_baseline(self._graphs, "fp32")
        return None if found is None else expected_labels(found, cells)

    def _runtime_contenders(self, images: Sequence[Image], cells: Sequence[int], stack: ExitStack) -> Iterator[Contender]:
        workload: Workload = "latency" if len(images) == 1 else "throughput"
        offered = load_backend(BACKEND).offered_layouts("CPU", workload, self._config.threads)
        layouts = dict.fromkeys((*(self._config.layouts or offered), *(("staged",) if self._config.cascade else ())))
        for precision, execution, graph_name in self._executions() if self._config.runtime else ():
            for layout in layouts:
                # the first one is the default; each is named, so that no autotuning runs in the background meanwhile
                name = f"{self._model.name}/{graph_name}/{BACKEND}" + ("" if layout == offered[0] else f"-{layout}")
                runtime_config = RuntimeConfig(precision, execution, workload, layout, self._config.threads)
                try:
                    scope = stack.enter_context(open_runtime(self._model, runtime_config))
                    with_cascade = layout == "staged" and self._config.cascade
                    first_voter = self._first_voter_contender(name, runtime_config, cells, stack) if with_cascade else None
                except (DeviceError, EngineError, UsageError) as error:
                    reason = str(error).replace(
                        f"{self._bundle.path}{os.sep}", ""
                    )  # results are shared: no folder of this machine
                    self._notes.append(f"{name} left out: {reason}")
                    if isinstance(error, DeviceError):
                        break
                    continue
                self._scope_notes[name] = tuple(scope.notes)
                expected = expected_labels(self._predictions[precision], cells)
                yield Contender(name, runtime_classifier(scope), expected)
                if self._config.native and len(images) == 1 and layout == "fused":
                    native = stack.enter_context(open_native(self._config.native, self._model, runtime_config))
                    yield Contender(f"{name.removesuffix(BACKEND)}{ENGINE}", native_classifier(native), expected)
                if first_voter:
                    yield first_voter

    def _first_voter_contender(self, name: str, config: RuntimeConfig, cells: Sequence[int], stack: ExitStack) -> Contender:
        pool = open_first_voter(self._bundle, config)
        stack.callback(pool.close)
        expected = expected_labels(mask_other_voters(self._predictions[config.precision]), cells)
        return Contender(
            name.removesuffix("-staged") + FIRST_VOTER_SUFFIX, first_voter_classifier(pool, self._bundle), expected
        )

    def _executions(self) -> Iterator[tuple[Precision, Execution, str]]:
        """Precision, type to compute in, and name of each. Beside an fp32 graph an fp16 one isn't run in f32 and bf16 again."""
        for precision in self._predictions:
            repeated = precision == "fp16" and "fp32" in self._predictions
            default = DEFAULT_EXECUTION[precision]
            for execution in (default,) if repeated else EXECUTIONS[precision]:
                yield precision, execution, precision if execution == default else f"{precision}-{execution}"

    def _make_rows(self, rounds: dict[str, list[Round]], batch: int) -> list[Row]:
        baseline = rounds.get(f"{self._model.name}/{TORCH_BASELINE}")
        rows = []
        for name, own_rounds in rounds.items():
            graph, engine = name.removeprefix(f"{self._model.name}/").split("/")
            precision, _, execution = graph.partition("-")
            row = make_row(name, batch, own_rounds, baseline)
            if found := BASELINE_CONFIGS.get(engine):
                row = row.model_copy(update={"config": found.config, "source": found.source})
            rows.append(self._complete(row, execution or DEFAULT_EXECUTION[precision]))  # type: ignore[arg-type, index]
        return rows

    def _complete(self, row: Row, execution: Execution) -> Row:
        """`row` with its work, its threads, the handle's notes and the roofline."""
        fields = {
            "execution": execution,
            "gmac": self._gmac * row.batch if row.runs_all_voters else None,
            "threads": thread_count(self._config.threads),
            "notes": self._scope_notes.get(row.name, ()),
        }
        return with_roofline(row.model_copy(update=fields), self._peaks)


def baseline_errors() -> tuple[type[Exception], ...]:
    """The exceptions of a baseline that can't be loaded here; ONNX Runtime's classes have no base class in common."""
    known: tuple[type[Exception], ...] = (BlastscopeError, ImportError, OSError, RuntimeError, ValueError, TypeError)
    return (*known, *is_onnxruntime_error()) if find_spec("onnxruntime") else known
