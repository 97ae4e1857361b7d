"""The PyTorch contenders, run as PyTorch's documentation advises, and the vote that all contenders share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope import Scope, open_bundle
from blastscope.benchmarks.interleaved_timing import ClassifyFunction, Image
from blastscope.benchmarks.models import BenchmarkModel, crop_images
from blastscope.runtime.backends.protocol import Cascade, EngineOptions, Workload, open_engine
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.errors import UsageError
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.cpu_info import usable_threads
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import CLASSES, PRECISIONS, VOTERS, ClassName, Execution, Layout, Precision

BACKEND = "openvino"
FIRST_VOTER = 0  # the voter that decides alone: a
ALWAYS_DECIDES = Cascade(FIRST_VOTER, 0.0)  # no probability is below this threshold
CANDIDATES_PER_CELL = 4  # synthetic cells for each that is used: those nearest to a tie are left out
MIN_MARGIN = 0.2  # a vote with a smaller margin may change with an engine's rounding, and isn't compared
Probabilities = NDArray[np.float32]  # (N, 3, 2): cells, voters, classes


def separate_torch_models(run: Path, *, threads: int | None = None, compiled: bool = False) -> ClassifyFunction:
    """The three models of `run` in PyTorch, one after the other, as they were trained: four backbone passes a cell.

    Crops are made on the CPU as the runtime makes them; weights and pixels are channels-last, and no gradients are kept.

    Parameters
    ----------
    run
        Folder of a trained ensemble.
    threads
        Threads of PyTorch; None: one for each core that this process may use.
    compiled
        Whether torch.compile compiles the models with frozen weights, which takes minutes where its cache is empty.

    Returns
    -------
    ClassifyFunction
        Images, uint8 (H, W, 3) RGB, to one label each.
    """
    ensemble, spec = _load_run(run, threads)
    return _torch_classifier([prepare_for_inference(ensemble.voter(name), compiled=compiled) for name in VOTERS], spec)


def fused_torch_model(run: Path, *, threads: int | None = None, compiled: bool = False) -> ClassifyFunction:
    """All three voters of `run` as one PyTorch network: two backbone passes a cell.

    Parameters and return value are those of `separate_torch_models`.
    """
    ensemble, spec = _load_run(run, threads)
    return _torch_classifier([prepare_for_inference(ensemble, compiled=compiled)], spec)


def prepare_for_inference(model: Any, *, compiled: bool) -> Any:
    """A torch module as PyTorch's tuning guide advises for inference on a CPU: evaluation mode, channels-last weights."""
    import torch

    model = model.eval().to(memory_format=torch.channels_last)
    # frozen: weights become constants, and convolutions are packed and fused; without it torch.compile leaves them as they are
    return torch.compile(model, dynamic=False, options={"freezing": True}) if compiled else model


def _load_run(run: Path, threads: int | None) -> tuple[Any, CropSpecification]:
    import torch

    from blastscope.train.ensemble_checkpoint import load_ensemble

    torch.set_num_threads(threads or usable_threads())
    trained = load_ensemble(run)
    return trained.ensemble, trained.config.crop


def _torch_classifier(models: Sequence[Any], spec: CropSpecification) -> ClassifyFunction:
    import torch

    def classify(images: Sequence[Image]) -> list[ClassName]:
        crops = torch.from_numpy(crop_images(images, spec))
        with torch.inference_mode():
            logits = [model(crops).reshape(len(crops), -1, len(CLASSES)) for model in models]
            probabilities = torch.cat(logits, dim=1).softmax(dim=-1)  # (N, 3, 2)
        return vote_labels(probabilities.numpy())

    return classify


def vote_labels(probabilities: NDArray[np.float32], *, partial: bool = False) -> list[ClassName]:
    """The label of each cell by the vote.

    Parameters
    ----------
    probabilities
        Float32 (N, 3, 2): cells, voters, classes.
    partial
        Whether NaN stands for voters that were not run.

    Returns
    -------
    list of str
        N labels.
    """
    return [CLASSES[index] for index in vote(probabilities, partial=partial).label]


class RuntimeConfig(NamedTuple):
    """How the runtime runs a graph: options of `open_bundle`.

    Attributes
    ----------
    precision, execution, workload, layout : str
        As `open_bundle` has them.
    threads : int or None
        None: as many as the process may use.
    """

    precision: Precision
    execution: Execution
    workload: Workload
    layout: Layout
    threads: int | None


def open_runtime(model: BenchmarkModel, config: RuntimeConfig) -> Scope:
    """The bundle of `model`, opened on the CPU as a user opens it.

    Raises
    ------
    BlastscopeError
        As `open_bundle` does: the CPU can't compute in that type, or the engine doesn't open.
    """
    return open_bundle(
        model.bundle,
        device="cpu",
        precision=config.precision,
        execution=config.execution,
        backend=BACKEND,
        workload=config.workload,
        layout=config.layout,
        threads=config.threads,
        allow_ungated=True,
        unlike_training="call",  # every contender labels the same synthetic cells
    )


def runtime_classifier(scope: Scope) -> ClassifyFunction:
    """What is timed of the runtime: one image goes through `classify`, several through `classify_many`."""

    def classify(images: Sequence[Image]) -> list[ClassName | None]:
        if len(images) == 1:
            return [scope.classify(images[0]).label]
        return [prediction.label for prediction in scope.classify_many(images)]

    return classify


def network_only(scope: Scope, crops: NDArray[np.uint8]) -> ClassifyFunction:
    """The network without crop and vote: `crops`, uint8 (N, S, S, 3), to probabilities; it gives no labels to compare."""

    def classify(_: Sequence[Image]) -> list[ClassName]:
        scope.infer(crops)
        return []

    return classify


def open_first_voter(bundle: Bundle, config: RuntimeConfig) -> InferencePool:
    """The graph of `config` with layout 'staged', of which only the first voter is ever run: the least that a cascade can cost.

    Raises
    ------
    UsageError
        The bundle has no fused graph of that precision.
    EngineError
        The graph can't be run voter by voter.
    """
    entry = bundle.graph(config.precision)
    if entry is None:
        raise UsageError(f"bundle '{bundle.path}' has no fused {config.precision} graph")
    options = EngineOptions(
        config.workload, config.execution, layout="staged", threads=config.threads, cache_dir=default_cache_dir()
    )
    pool = InferencePool(open_engine(bundle.file(entry), options, backend=BACKEND, sha256=entry.sha256))
    pool.enable_cascade(ALWAYS_DECIDES)
    return pool


def first_voter_classifier(pool: InferencePool, bundle: Bundle) -> ClassifyFunction:
    """What is timed of the pool that `open_first_voter` gives: the first voter's label of each image."""

    def probabilities(image: Image) -> NDArray[np.float32]:
        return pool.infer_on_lane(crop_images([image], bundle.manifest.crop))[:, : len(VOTERS)]

    def classify(images: Sequence[Image]) -> list[ClassName]:
        with pool.call():
            found = np.concatenate(pool.parallel_map(probabilities, images))
        return vote_labels(found, partial=True)

    return classify


def mask_other_voters(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy of `probabilities`, float32 (N, 3, 2), with NaN for all voters but the first, as a cascade gives them."""
    masked = np.full_like(probabilities, np.nan)
    masked[:, FIRST_VOTER] = probabilities[:, FIRST_VOTER]
    return masked


class ReferencePredictions:
    """What reference engines predict for synthetic cells, by graph file; computed once.

    Parameters
    ----------
    spec
        How the cells are cropped.
    count
        Number of cells.
    cache
        Folder where predictions are kept from one process to the next; None: nowhere.
    """

    def __init__(self, spec: CropSpecification, count: int, cache: Path | None = None) -> None:
        self._spec, self._count, self._cache = spec, count, cache
        self._predictions: dict[str, Probabilities] = {}

    @property
    def images(self) -> list[Image]:
        """The cells, uint8 (H, W, 3) RGB."""
        return _synthetic_images(self._count)

    def predict(self, graph: Path, *, precision: Precision, backend: str = "onnxruntime") -> Probabilities:
        """The probabilities of all cells with the ONNX file `graph`.

        Parameters
        ----------
        graph
            ONNX file of a fused network.
        precision
            Of that file.
        backend
            The engine that runs it: one that the contender with this graph doesn't use.

        Returns
        -------
        Probabilities
            Float32 (N, 3, 2).
        """
        key = f"{file_sha256(graph)}-{backend}-{self._count}"
        if key not in self._predictions:
            self._predictions[key] = self._cached_or_computed(key, graph, precision, backend)
        return self._predictions[key]

    def _cached_or_computed(self, key: str, graph: Path, precision: Precision, backend: str) -> Probabilities:
        path = self._cache / "answers" / f"{key}.json" if self._cache else None
        if path and path.exists():
            return np.array(json.loads(path.read_text(encoding="utf-8")), np.float32)
        options = EngineOptions(workload="throughput", execution="int8" if precision == "int8" else "f32")
        engine = open_engine(graph, options, backend=backend)
        try:
            answers = [engine.lanes[0].infer(crop_images([image], self._spec))[:, : len(VOTERS)] for image in self.images]
            found = np.concatenate(answers)
        finally:
            engine.close()
        if path:
            write_content(path, json.dumps(found.tolist()))
        return found


@cache
def _synthetic_images(count: int) -> list[Image]:
    return [cell.image for cell in synthetic_cells(count, seed=0)]


def decision_margins(probabilities: Probabilities) -> NDArray[np.float32]:
    """How clearly each cell is decided: the largest probability of one class less that of the other.

    Parameters
    ----------
    probabilities
        Float32 (N, 3, 2), with NaN for voters that were not run.

    Returns
    -------
    numpy.ndarray
        Float32 (N,), 0 to 1.
    """
    largest = np.nanmax(probabilities, axis=1)
    return np.asarray(np.abs(largest[:, 1] - largest[:, 0]), np.float32)


def clearest_cells(predictions: Sequence[Probabilities], count: int) -> list[int]:
    """Indices of the `count` cells whose smallest margin over all predictions is largest, so that rounding changes no label."""
    margins = np.min([decision_margins(one) for one in predictions], axis=0)
    return [int(index) for index in np.argsort(-margins, kind="stable")[:count]]


def expected_labels(probabilities: Probabilities, cells: Sequence[int]) -> tuple[ClassName | None, ...]:
    """The labels of the cells with these indices; None where the margin is too small for a comparison."""
    chosen = probabilities[list(cells)]
    labels = zip(vote_labels(chosen, partial=True), decision_margins(chosen), strict=True)
    return tuple(label if margin >= MIN_MARGIN else None for label, margin in labels)


def predict_graphs(path: Path, reference: ReferencePredictions) -> dict[Precision, Probabilities]:
    """The reference's probabilities, float32 (N, 3, 2), with each fused graph of the bundle at `path`, by precision."""
    bundle = read_bundle(path)
    entries = {precision: bundle.graph(precision) for precision in PRECISIONS}
    return {one: reference.predict(bundle.file(entry), precision=one) for one, entry in entries.items() if entry}
