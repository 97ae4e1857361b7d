"""Configurations of this runtime in a comparison: layouts, the network alone, the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope import Scope, open_bundle
from blastscope.benchmarks.contenders import crop_images, vote_labels
from blastscope.benchmarks.interleaved_timing import ClassifyFunction, Image
from blastscope.benchmarks.models import BenchmarkModel
from blastscope.runtime.backends.protocol import Cascade, EngineOptions, Workload
from blastscope.runtime.backends.registry import open_engine
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import UsageError
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.types import VOTERS, ClassName, Execution, Layout, Precision

BACKEND = "openvino"
FIRST_VOTER = 0  # the voter that decides alone: a
ALWAYS_DECIDES = Cascade(FIRST_VOTER, 0.0)  # no probability is below this threshold


class RuntimeConfig(NamedTuple):
    """How the runtime runs a graph: options of `open_bundle`."""

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
