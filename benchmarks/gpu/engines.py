"""Engines of one network on the GPU: whether they agree with the CPU on whole images, and their times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from blastscope import open_bundle
from blastscope.benchmarks.gpu.peers import COMPILED, EAGER, CompiledNetwork, Infer, require_torch, three_models, with_host_crop
from blastscope.benchmarks.gpu.rows import Agreement, GpuRow, What, measured
from blastscope.benchmarks.networks import Contender
from blastscope.benchmarks.sides import crop_all, handle
from blastscope.benchmarks.turns import Answer, Image, Pace, Side, time_in_turn
from blastscope.runtime.backends.engines import GPU_BACKENDS
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.classes import CLASSES, PRECISIONS, ClassName, Precision
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.gpu.pipeline import Pipeline
from blastscope.runtime.gpu.protocol import Gpu
from blastscope.runtime.prediction import Prediction, Refusal
from blastscope.runtime.vote import vote

Tell = Callable[[str], None]
Seen = tuple[list[object], np.ndarray]  # a box or a refusal for each image, and the probabilities (n, 3, 2) of the others
FOREIGN = (RuntimeError, OSError, ValueError, ImportError)  # what PyTorch raises where it can't compile, or has no memory
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


def measure(
    gpu: Gpu, contender: Contender, images: Sequence[Image], plan: Plan, tell: Tell
) -> tuple[list[GpuRow], list[Agreement]]:
    """Rows of every engine that the network could have here; those that can't run carry the reason."""
    bench = _Bench(gpu, contender, images, plan)
    rows: list[GpuRow] = []
    agreements: list[Agreement] = []
    bench.open_peer(rows)
    for name, opening in bench.openings():
        tell(f"{contender.name}: {name}")
        try:
            with opening() as contestant:
                agreements.append(bench.agreement(name, contestant))
                rows += bench.timed(name, contestant)
        except (BlastscopeError, *FOREIGN) as error:
            rows += bench.empty(name, _line(error))
    return _each_once(rows), agreements


class _Bench:
    """One network's comparison."""

    def __init__(self, gpu: Gpu, contender: Contender, images: Sequence[Image], plan: Plan) -> None:
        self._gpu, self._contender, self._images, self._plan = gpu, contender, images, plan
        self._ordinal = gpu.found.ordinal
        self._manifest = read_bundle(contender.bundle).manifest
        self._peer: Infer | None = None
        self._reference: Seen | None = None

    def open_peer(self, rows: list[GpuRow]) -> None:
        """The three PyTorch models, or empty rows that say why there are none; then no ratio can be told."""
        try:
            require_torch(self._ordinal)
            self._peer = three_models(self._contender.run, f"cuda:{self._ordinal}")
        except (BlastscopeError, *FOREIGN) as error:
            rows += self.empty(EAGER, str(error))

    def openings(self) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Contestant]]]]:
        """Every engine by its name, and how to open it."""
        precisions = [one for one in PRECISIONS if self._manifest.graph(one)]
        for backend, precision in product(GPU_BACKENDS, precisions):
            yield f"{precision}/{backend}", partial(self._open_handle, backend, precision)
        yield COMPILED, self._open_compiled

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
        pipeline = Pipeline(COMPILED, self._gpu, network, self._manifest.crop, batches=self._plan.batches)

        def see(images: Sequence[Image]) -> Seen:
            sight = pipeline.look(images)
            cells = [not isinstance(one, Refusal) for one in sight.found]
            return list(sight.found), sight.probabilities[cells]

        def answer(images: Sequence[Image]) -> list[ClassName]:
            return [CLASSES[label] for label in vote(pipeline.look(images).probabilities).label]

        try:
            yield Contestant(answer, pipeline.infer, see)
        finally:
            pipeline.close()
            network.close()

    def agreement(self, name: str, contestant: Contestant) -> Agreement:
        """The engine on whole images, crop and all, against ONNX Runtime on the CPU, which runs the most precise graph."""
        images = self._images[: self._plan.cells]
        precision = next(one for one in PRECISIONS if self._manifest.graph(one))
        reference = f"{precision}/onnxruntime on the CPU"
        row = Agreement(network=self._contender.name, engine=name, reference=reference, cells=len(images))
        try:
            wanted, expected = self._expected(precision, images)
        except BlastscopeError as error:
            return row.model_copy(update={"problem": f"nothing to compare with: {error}"})
        found, got = contestant.see(images)
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

    def timed(self, name: str, contestant: Contestant) -> Iterator[GpuRow]:
        """The engine's rows and its peer's, at every batch, from crops and from pixels."""
        for what, batch in product(KINDS, self._plan.batches):
            try:
                times = time_in_turn(self._sides(name, contestant, what, batch), self._images[:batch], self._plan.pace)
            except (BlastscopeError, *FOREIGN) as error:
                yield self._row(name, what, batch).model_copy(update={"problem": _line(error)})
                continue
            for side, samples in times.items():
                against = (EAGER, times[EAGER]) if EAGER in times and side != EAGER else None
                yield measured(self._row(side, what, batch), samples, against)

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

    def empty(self, name: str, problem: str) -> list[GpuRow]:
        """The rows that stay empty, and why."""
        return [
            self._row(name, what, batch).model_copy(update={"problem": problem})
            for what, batch in product(KINDS, self._plan.batches)
        ]


def _seen(answers: Sequence[Prediction]) -> Seen:
    tables = [answer.probabilities for answer in answers if answer.probabilities]
    return [answer.refusal or answer.box for answer in answers], np.array(tables, np.float32)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


def _each_once(rows: Sequence[GpuRow]) -> list[GpuRow]:
    """The peer was timed beside every engine: its first row stands for it, and each ratio is of its own turns."""
    first: dict[tuple[str, str, int], GpuRow] = {}
    for row in rows:
        key = (row.what, row.engine, row.batch)
        if key not in first or (first[key].p50_ms is None and row.p50_ms is not None):
            first[key] = row
    return list(first.values())
