"""Engines of one network on the GPU: whether they agree with the CPU on whole images, and their times."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope import open_bundle
from blastscope.benchmarks.contenders import runtime_classifier, vote_labels
from blastscope.benchmarks.gpu.baselines import (
    TORCH_BASELINE,
    TORCH_COMPILED,
    CompiledNetwork,
    InferFunction,
    require_torch,
    separate_torch_models,
    with_host_crop,
)
from blastscope.benchmarks.gpu_schema import Agreement, Findings, GpuRow, GpuScope, with_timings
from blastscope.benchmarks.interleaved_timing import ClassifyFunction, Contender, Image, TimingConfig, interleaved_times_ms
from blastscope.benchmarks.models import BenchmarkModel, crop_images
from blastscope.runtime.backends.nvidia.engine_factory import PixelPipeline
from blastscope.runtime.backends.protocol import GPU_BACKENDS
from blastscope.runtime.bundle import Manifest, read_bundle
from blastscope.runtime.cuda.graphs import Gpu
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.types import PRECISIONS, VOTERS, ClassName, Precision, Prediction, Refusal

CellOutputs = tuple[list[object], np.ndarray]  # a box or a refusal for each image; probabilities (N, 3, 2) of those with a box
SCOPES: tuple[GpuScope, ...] = ("engine", "pixels")


@dataclass(frozen=True)
class GpuBenchmarkConfig:
    """What is measured, and for how long.

    Attributes
    ----------
    batches
        Numbers of images in a call.
    timing
        Rounds and their length.
    cells
        Number of cells on which the engines must agree.
    """

    batches: tuple[int, ...] = (1, 8, 64)
    timing: TimingConfig = field(default_factory=lambda: TimingConfig(rounds=4, min_calls=5, seconds=1.0))
    cells: int = 64


class OpenEngine(NamedTuple):
    """An engine that is open, as three functions.

    Attributes
    ----------
    classify : callable
        Images to labels.
    infer : callable
        Crops (N, S, S, 3) uint8 to probabilities (N, 3, 2) float32.
    predict : callable
        Images to boxes, refusals and probabilities.
    """

    classify: ClassifyFunction
    infer: InferFunction
    predict: Callable[[Sequence[Image]], CellOutputs]


def engine_names(manifest: Manifest) -> list[str]:
    """The engines that a bundle could have on a GPU: `precision/backend` each, and the compiled PyTorch network."""
    precisions = [one for one in PRECISIONS if manifest.graph(one)]
    return [*(f"{precision}/{backend}" for backend, precision in product(GPU_BACKENDS, precisions)), TORCH_COMPILED]


def problem_rows(network: str, engine: str, config: GpuBenchmarkConfig, problem: str) -> tuple[GpuRow, ...]:
    """The rows of an engine that can't be measured, with the reason in place of times."""
    return tuple(
        GpuRow(network=network, scope=scope, engine=engine, batch=batch, problem=problem)
        for scope, batch in product(SCOPES, config.batches)
    )


class EngineBenchmark:
    """Measures the engines of one network on a GPU, one after the other.

    Parameters
    ----------
    gpu
        Where they run.
    model
        The network.
    images
        Uint8 (H, W, 3) RGB, at least as many as the largest batch; each gets a label.
    config
        What is measured, and for how long.
    """

    def __init__(self, gpu: Gpu, model: BenchmarkModel, images: Sequence[Image], config: GpuBenchmarkConfig) -> None:
        self._gpu, self._model, self._images, self._config = gpu, model, images, config
        self._ordinal = gpu.found.ordinal
        self._manifest = read_bundle(model.bundle).manifest
        self._baseline: InferFunction | None = None
        self._reference: CellOutputs | None = None
        self._baseline_problems: tuple[GpuRow, ...] = ()  # the baseline's rows, where it can't run
        try:
            require_torch(self._ordinal)
            self._baseline = separate_torch_models(model.run, f"cuda:{self._ordinal}")
        except Exception as error:  # noqa: BLE001  then there are no ratios; whatever it is, the rest goes on
            self._baseline_problems = problem_rows(model.name, TORCH_BASELINE, config, error_summary(error))

    def measure(self, name: str) -> Findings:
        """Checks and times one engine.

        Parameters
        ----------
        name
            As `engine_names` gives it.

        Returns
        -------
        Findings
            Whether it agrees with the CPU, its rows and the baseline's; or rows that say why it can't be measured.
        """
        try:
            with self._opener(name)() as engine:
                agreement = self._check_agreement(name, engine)
                rows = tuple(self._time(name, engine))
        except Exception as error:  # noqa: BLE001  on a GPU that nobody has tried anything may fail; all of it is a finding
            rows = problem_rows(self._model.name, name, self._config, error_summary(error))
            return Findings(rows=(*self._baseline_problems, *rows))
        return Findings(agreements=(agreement,), rows=(*self._baseline_problems, *rows))

    def _opener(self, name: str) -> Callable[[], AbstractContextManager[OpenEngine]]:
        if name == TORCH_COMPILED:
            return self._open_compiled
        precision, _, backend = name.partition("/")
        return partial(self._open_session, backend, next(one for one in PRECISIONS if one == precision))

    @contextmanager
    def _open_session(self, backend: str, precision: Precision) -> Iterator[OpenEngine]:
        device = f"cuda:{self._ordinal}"
        with open_bundle(
            self._model.bundle, device=device, backend=backend, precision=precision, allow_ungated=True, unlike_training="call"
        ) as scope:
            yield OpenEngine(runtime_classifier(scope), scope.infer, lambda images: _outputs(scope.classify_many(images)))

    @contextmanager
    def _open_compiled(self) -> Iterator[OpenEngine]:
        require_torch(self._ordinal)
        network = CompiledNetwork(self._model.run, self._ordinal)
        pipeline = PixelPipeline(TORCH_COMPILED, self._gpu, network, self._manifest.crop, batches=self._config.batches)

        def predict(images: Sequence[Image]) -> CellOutputs:
            result = pipeline.infer_images(images)
            cells = [not isinstance(one, Refusal) for one in result.found]
            return list(result.found), result.answers[cells, : len(VOTERS)]

        def classify(images: Sequence[Image]) -> list[ClassName]:
            return vote_labels(pipeline.infer_images(images).answers[:, : len(VOTERS)])

        try:
            yield OpenEngine(classify, pipeline.infer, predict)
        finally:
            pipeline.close()
            network.close()

    def _check_agreement(self, name: str, engine: OpenEngine) -> Agreement:
        """The engine on whole images, crop included, against ONNX Runtime on the CPU with the most precise graph."""
        images = self._images[: self._config.cells]
        precision = next(one for one in PRECISIONS if self._manifest.graph(one))
        reference = f"{precision}/onnxruntime on the CPU"
        row = Agreement(network=self._model.name, engine=name, reference=reference, cells=len(images))
        try:
            expected_cells, expected = self._reference_outputs(precision, images)
        except Exception as error:  # noqa: BLE001
            return row.model_copy(update={"problem": f"nothing to compare with: {error_summary(error)}"})
        try:
            cells, found = engine.predict(images)
        except Exception as error:  # noqa: BLE001
            return row.model_copy(update={"problem": error_summary(error)})
        if cells != expected_cells:
            return row.model_copy(update={"refusals_alike": False, "problem": "boxes or refusals differ"})
        if name == TORCH_COMPILED and not self._model.same_weights:
            problem = "PyTorch runs this architecture with random weights"
            return row.model_copy(update={"refusals_alike": True, "problem": problem})
        difference = float(np.abs(found.astype(np.float64) - expected).max()) if len(found) else 0.0
        flips = int((vote(found).label != vote(expected).label).sum())
        return row.model_copy(update={"refusals_alike": True, "difference": difference, "flips": flips})

    def _reference_outputs(self, precision: Precision, images: Sequence[Image]) -> CellOutputs:
        if self._reference is None:
            with open_bundle(
                self._model.bundle,
                device="cpu",
                backend="onnxruntime",
                precision=precision,
                allow_ungated=True,
                unlike_training="call",
            ) as scope:
                self._reference = _outputs(scope.classify_many(images))
        return self._reference

    def _time(self, name: str, engine: OpenEngine) -> Iterator[GpuRow]:
        """The engine's rows and the baseline's, at every batch, from crops and from pixels."""
        for scope, batch in product(SCOPES, self._config.batches):
            try:
                times, problem = self._times_ms(self._contenders(name, engine, scope, batch), batch)
            except Exception as error:  # noqa: BLE001
                yield self._row(name, scope, batch).model_copy(update={"problem": error_summary(error)})
                continue
            for contender, times_ms in times.items():
                has_ratio = TORCH_BASELINE in times and contender != TORCH_BASELINE
                baseline = (TORCH_BASELINE, times[TORCH_BASELINE]) if has_ratio else None
                row = self._row(contender, scope, batch).model_copy(update={"problem": problem})
                yield with_timings(row, times_ms, baseline)

    def _times_ms(self, contenders: list[Contender], batch: int) -> tuple[dict[str, NDArray[np.float64]], str | None]:
        """The times of each contender; where the baseline fails, or both do, those of the engine alone, and why."""
        images, timing = self._images[:batch], self._config.timing
        try:
            return interleaved_times_ms(contenders, images, timing), None
        except Exception as error:
            if len(contenders) == 1:
                raise
            problem = f"measured without the baseline: {error_summary(error)}"
        return interleaved_times_ms(contenders[-1:], images, timing), problem

    def _contenders(self, name: str, engine: OpenEngine, scope: GpuScope, batch: int) -> list[Contender]:
        """The baseline, where it can run, and the engine."""
        images = self._images[:batch]
        contenders = [Contender(name, self._timed_function(scope, engine.infer, engine.classify, images))]
        if self._baseline is not None:
            classify = with_host_crop(self._baseline, self._manifest.crop)
            timed = self._timed_function(scope, self._baseline, classify, images)
            contenders.insert(0, Contender(TORCH_BASELINE, timed))
        return contenders

    def _row(self, name: str, scope: GpuScope, batch: int) -> GpuRow:
        return GpuRow(network=self._model.name, scope=scope, engine=name, batch=batch)

    def _timed_function(
        self, scope: GpuScope, infer: InferFunction, classify: ClassifyFunction, images: Sequence[Image]
    ) -> ClassifyFunction:
        """`classify` for whole images; for the engine alone `infer` on their crops, which gives no labels."""
        if scope == "pixels":
            return classify
        crops = crop_images(images, self._manifest.crop)

        def infer_crops(_: Sequence[Image]) -> list[ClassName]:
            infer(crops)
            return []

        return infer_crops


def _outputs(predictions: Sequence[Prediction]) -> CellOutputs:
    probabilities = [one.probabilities for one in predictions if one.probabilities]
    return [one.refusal or one.box for one in predictions], np.array(probabilities, np.float32)


def error_summary(error: Exception) -> str:
    """The first line of an error's message; an error that isn't blastscope's has its class too, and its traceback on stderr."""
    first = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, BlastscopeError):
        return first
    traceback.print_exception(error)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def deduplicate_rows(rows: Iterable[GpuRow]) -> tuple[GpuRow, ...]:
    """The first row of each contender: the baseline is timed beside every engine, and each ratio uses its own rounds of it."""
    first: dict[tuple[str, str, str, int], GpuRow] = {}
    for row in rows:
        key = (row.network, row.scope, row.engine, row.batch)
        if key not in first or (first[key].p50_ms is None and row.p50_ms is not None):
            first[key] = row
    return tuple(first.values())
