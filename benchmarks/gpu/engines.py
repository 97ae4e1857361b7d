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
from blastscope.benchmarks.contenders import crop_all, handle
from blastscope.benchmarks.gpu.baselines import (
    COMPILED,
    EAGER,
    CompiledNetwork,
    Infer,
    require_torch,
    three_models,
    with_host_crop,
)
from blastscope.benchmarks.gpu.schema import Agreement, Findings, GpuRow, What, measured
from blastscope.benchmarks.interleaved_timing import Answer, Image, Pace, Side, time_in_turn
from blastscope.benchmarks.models import Contender
from blastscope.runtime.backends.nvidia.pixel_pipeline import PixelPipeline
from blastscope.runtime.backends.registry import GPU_BACKENDS
from blastscope.runtime.bundle import Manifest, read_bundle
from blastscope.runtime.cuda.protocol import Gpu
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.types import CLASSES, PRECISIONS, VOTERS, ClassName, Precision, Prediction, Refusal

Seen = tuple[list[object], np.ndarray]  # a box or a refusal for each image, and the probabilities (n, 3, 2) of the others
KINDS: tuple[What, ...] = ("engine", "pixels")


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    batches: tuple[int, ...] = (1, 8, 64)
    pace: Pace = field(default_factory=lambda: Pace(rounds=4, calls=5, seconds=1.0))
    cells: int = 64  # that the engines must agree on


class Contestant(NamedTuple):
    """An engine that is open."""

    answer: Answer  # images to labels
    infer: Infer  # crops to probabilities
    see: Callable[[Sequence[Image]], Seen]


def engine_names(manifest: Manifest) -> list[str]:
    """Every engine that a network with that manifest could have on a GPU."""
    precisions = [one for one in PRECISIONS if manifest.graph(one)]
    return [*(f"{precision}/{backend}" for backend, precision in product(GPU_BACKENDS, precisions)), COMPILED]


def empty_rows(network: str, engine: str, plan: Plan, problem: str) -> tuple[GpuRow, ...]:
    """The rows of an engine that stay empty, and why."""
    return tuple(
        GpuRow(network=network, what=what, engine=engine, batch=batch, problem=problem)
        for what, batch in product(KINDS, plan.batches)
    )


class Bench:
    """One network's comparison on `gpu`, engine after engine."""

    def __init__(self, gpu: Gpu, contender: Contender, images: Sequence[Image], plan: Plan) -> None:
        self._gpu, self._contender, self._images, self._plan = gpu, contender, images, plan
        self._ordinal = gpu.found.ordinal
        self._manifest = read_bundle(contender.bundle).manifest
        self._peer: Infer | None = None
        self._reference: Seen | None = None
        self._without_peer: tuple[GpuRow, ...] = ()  # the peer's rows, where there is none
        try:
            require_torch(self._ordinal)
            self._peer = three_models(contender.run, f"cuda:{self._ordinal}")
        except Exception as error:  # noqa: BLE001  then no ratio can be told; whatever it is, the rest goes on
            self._without_peer = empty_rows(contender.name, EAGER, plan, told(error))

    def measure(self, name: str) -> Findings:
        """The engine `name`: whether it agrees, and its rows beside its peer's; or rows that carry the reason why not."""
        try:
            with self._opening(name)() as contestant:
                agreement = self._agreement(name, contestant)
                rows = tuple(self._timed(name, contestant))
        except Exception as error:  # noqa: BLE001  on a GPU that nobody has tried anything may come; all of it is a finding
            return Findings(rows=(*self._without_peer, *empty_rows(self._contender.name, name, self._plan, told(error))))
        return Findings(agreements=(agreement,), rows=(*self._without_peer, *rows))

    def _opening(self, name: str) -> Callable[[], AbstractContextManager[Contestant]]:
        if name == COMPILED:
            return self._open_compiled
        precision, _, backend = name.partition("/")
        return partial(self._open_handle, backend, next(one for one in PRECISIONS if one == precision))

    @contextmanager
    def _open_handle(self, backend: str, precision: Precision) -> Iterator[Contestant]:
        device = f"cuda:{self._ordinal}"
        with open_bundle(
            self._contender.bundle, device=device, backend=backend, precision=precision, allow_ungated=True
        ) as scope:
            yield Contestant(handle(scope), scope.infer, lambda images: _seen(scope.classify_many(images)))

    @contextmanager
    def _open_compiled(self) -> Iterator[Contestant]:
        require_torch(self._ordinal)
        network = CompiledNetwork(self._contender.run, self._ordinal)
        pipeline = PixelPipeline(COMPILED, self._gpu, network, self._manifest.crop, batches=self._plan.batches)

        def see(images: Sequence[Image]) -> Seen:
            sight = pipeline.look(images)
            cells = [not isinstance(one, Refusal) for one in sight.found]
            return list(sight.found), sight.answers[cells, : len(VOTERS)]

        def answer(images: Sequence[Image]) -> list[ClassName]:
            return [CLASSES[label] for label in vote(pipeline.look(images).answers[:, : len(VOTERS)]).label]

        try:
            yield Contestant(answer, pipeline.infer, see)
        finally:
            pipeline.close()
            network.close()

    def _agreement(self, name: str, contestant: Contestant) -> Agreement:
        """The engine on whole images, crop and all, against ONNX Runtime on the CPU, which runs the most precise graph."""
        images = self._images[: self._plan.cells]
        precision = next(one for one in PRECISIONS if self._manifest.graph(one))
        reference = f"{precision}/onnxruntime on the CPU"
        row = Agreement(network=self._contender.name, engine=name, reference=reference, cells=len(images))
        try:
            wanted, expected = self._expected(precision, images)
        except Exception as error:  # noqa: BLE001
            return row.model_copy(update={"problem": f"nothing to compare with: {told(error)}"})
        try:
            found, got = contestant.see(images)
        except Exception as error:  # noqa: BLE001
            return row.model_copy(update={"problem": told(error)})
        if wanted != found:
            return row.model_copy(update={"refusals_alike": False, "problem": "boxes or refusals differ"})
        if name == COMPILED and not self._contender.same_weights:
            problem = "PyTorch runs this architecture with random weights"
            return row.model_copy(update={"refusals_alike": True, "problem": problem})
        difference = float(np.abs(got.astype(np.float64) - expected).max()) if len(got) else 0.0
        flips = int((vote(got).label != vote(expected).label).sum())
        return row.model_copy(update={"refusals_alike": True, "difference": difference, "flips": flips})

    def _expected(self, precision: Precision, images: Sequence[Image]) -> Seen:
        if self._reference is None:
            with open_bundle(
                self._contender.bundle, device="cpu", backend="onnxruntime", precision=precision, allow_ungated=True
            ) as scope:
                self._reference = _seen(scope.classify_many(images))
        return self._reference

    def _timed(self, name: str, contestant: Contestant) -> Iterator[GpuRow]:
        """The engine's rows and its peer's, at every batch, from crops and from pixels."""
        for what, batch in product(KINDS, self._plan.batches):
            try:
                times, problem = self._in_turn(self._sides(name, contestant, what, batch), batch)
            except Exception as error:  # noqa: BLE001
                yield self._row(name, what, batch).model_copy(update={"problem": told(error)})
                continue
            for side, samples in times.items():
                against = (EAGER, times[EAGER]) if EAGER in times and side != EAGER else None
                yield measured(self._row(side, what, batch).model_copy(update={"problem": problem}), samples, against)

    def _in_turn(self, sides: list[Side], batch: int) -> tuple[dict[str, NDArray[np.float64]], str | None]:
        """The times of each side; where the peer fails, or both do, those of the engine alone, and why."""
        images, pace = self._images[:batch], self._plan.pace
        try:
            return time_in_turn(sides, images, pace), None
        except Exception as error:
            if len(sides) == 1:
                raise
            problem = f"measured without its peer: {told(error)}"
        return time_in_turn(sides[-1:], images, pace), problem

    def _sides(self, name: str, contestant: Contestant, what: What, batch: int) -> list[Side]:
        images = self._images[:batch]
        sides = [Side(name, self._answer(what, contestant.infer, contestant.answer, images))]
        if self._peer is not None:
            whole = with_host_crop(self._peer, self._manifest.crop)
            sides.insert(0, Side(EAGER, self._answer(what, self._peer, whole, images)))
        return sides

    def _row(self, name: str, what: What, batch: int) -> GpuRow:
        return GpuRow(network=self._contender.name, what=what, engine=name, batch=batch)

    def _answer(self, what: What, infer: Infer, whole: Answer, images: Sequence[Image]) -> Answer:
        if what == "pixels":
            return whole
        crops = crop_all(images, self._manifest.crop)

        def answer(_: Sequence[Image]) -> list[ClassName]:
            infer(crops)
            return []

        return answer


def _seen(answers: Sequence[Prediction]) -> Seen:
    tables = [answer.probabilities for answer in answers if answer.probabilities]
    return [answer.refusal or answer.box for answer in answers], np.array(tables, np.float32)


def told(error: Exception) -> str:
    """What `error` says, in a line; where it is none of ours, where it comes from goes to stderr."""
    first = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, BlastscopeError):
        return first
    traceback.print_exception(error)
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def each_once(rows: Iterable[GpuRow]) -> tuple[GpuRow, ...]:
    """The peer was timed beside every engine: its first row stands for it, and each ratio is of its own turns."""
    first: dict[tuple[str, str, str, int], GpuRow] = {}
    for row in rows:
        key = (row.network, row.what, row.engine, row.batch)
        if key not in first or (first[key].p50_ms is None and row.p50_ms is not None):
            first[key] = row
    return tuple(first.values())
