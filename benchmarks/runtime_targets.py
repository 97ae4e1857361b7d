"""Configurations of this runtime in a comparison: layouts, the network alone, the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope import Scope, open_bundle
from blastscope.benchmarks.contenders import crop_all, labels_of
from blastscope.benchmarks.interleaved_timing import Answer, Image
from blastscope.benchmarks.models import Contender
from blastscope.runtime.backends.protocol import Cascade, EngineOptions, Workload
from blastscope.runtime.backends.registry import open_engine
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import UsageError
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.types import ClassName, Execution, Layout, Precision

ENGINE = "openvino"
FIRST = 0  # the voter that decides alone: a
AT_ONCE = Cascade(FIRST, 0.0)  # nothing is less sure than that


class Wish(NamedTuple):
    """How a graph is to be run."""

    precision: Precision
    execution: Execution
    workload: Workload
    layout: Layout
    threads: int | None


def open_own(contender: Contender, wish: Wish) -> Scope:
    """The handle that a user gets with these words."""
    return open_bundle(
        contender.bundle,
        device="cpu",
        precision=wish.precision,
        execution=wish.execution,
        backend=ENGINE,
        workload=wish.workload,
        layout=wish.layout,
        threads=wish.threads,
        allow_ungated=True,
    )


def network_alone(scope: Scope, crops: NDArray[np.uint8]) -> Answer:
    """A side that leaves the crop and the vote out, and so answers nothing that could be compared."""

    def answer(_: Sequence[Image]) -> list[ClassName]:
        scope.infer(crops)
        return []

    return answer


def open_first_alone(bundle: Bundle, wish: Wish) -> InferencePool:
    """The graph of `wish` in stages, of which only the first voter's are ever run: the least that a cascade can cost."""
    entry = bundle.graph(wish.precision)
    if entry is None:
        raise UsageError(f"bundle '{bundle.path}' has no fused {wish.precision} graph")
    options = EngineOptions(wish.workload, wish.execution, layout="staged", threads=wish.threads, cache_dir=default_cache_dir())
    lanes = InferencePool(open_engine(bundle.file(entry), options, backend=ENGINE, sha256=entry.sha256))
    lanes.enable_cascade(AT_ONCE)
    return lanes


def first_alone(lanes: InferencePool, bundle: Bundle) -> Answer:
    """A side of these lanes: the first voter's call on every image."""

    def one(image: Image) -> NDArray[np.float32]:
        return lanes.answer(crop_all([image], bundle.manifest.crop))

    def answer(images: Sequence[Image]) -> list[ClassName]:
        with lanes.call():
            told = np.concatenate(lanes.spread(one, images))
        return labels_of(told, partial=True)

    return answer


def only_first(answers: NDArray[np.float32]) -> NDArray[np.float32]:
    """`answers` (n, 3, 2) as a cascade gives them that decides at once."""
    alone = np.full_like(answers, np.nan)
    alone[:, FIRST] = answers[:, FIRST]
    return alone
