"""`bench`: every engine of a network in turn with three separate PyTorch models, one run, one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from blastscope import Scope, open_bundle
from blastscope.benchmarks.load import Cold, measure_cold
from blastscope.benchmarks.networks import Contender
from blastscope.benchmarks.rows import BenchResult, Row, make_row, this_machine, versions
from blastscope.benchmarks.sides import handle, separate_models
from blastscope.benchmarks.turns import Image, Pace, Side, time_in_turn
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.classes import PRECISIONS, ClassName, Execution, Precision
from blastscope.runtime.drawn import draw_cells
from blastscope.runtime.errors import DeviceError
from blastscope.runtime.prediction import Prediction

EXECUTIONS: dict[Precision, tuple[Execution, ...]] = {
    "fp32": ("f32", "bf16"),
    "fp16": ("f32", "bf16", "f16"),
    "int8": ("int8",),
}
NATURAL: dict[Precision, Execution] = {"fp32": "f32", "fp16": "f16", "int8": "int8"}
TORCH = "fp32/torch"
ENGINE = "openvino"
SURPLUS = 4  # cells drawn for each that is kept: those nearest to a tie are left out
LEAD = 0.2  # a call that leads the other by less may change with an engine's rounding, and isn't compared

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run of `bench` compares."""

    against_torch: bool = True
    batches: tuple[int, ...] = (1, 8)
    pace: Pace = field(default_factory=Pace)
    threads: int | None = None


def bench(contenders: Sequence[Contender], plan: Plan, tell: Tell) -> BenchResult:
    """Rows of every contender, precision, execution and batch that this machine can run; what it can't is in the notes.

    Answers are compared with those of ONNX Runtime on the same graph file: a side that is fast and wrong raises `WrongAnswer`.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for contender in contenders:
        images = clear_cases(contender.bundle, max(plan.batches))
        for batch in plan.batches:
            tell(f"{contender.name}, batch {batch}")
            rows += _compare(contender, images[:batch], plan, notes)
        rows = [_with_cold(row, contender, tell) for row in rows]
    return BenchResult(machine=this_machine(), versions=versions(), rows=tuple(rows), notes=tuple(dict.fromkeys(notes)))


def clear_cases(bundle: Path, count: int) -> list[Image]:
    """`count` drawn cells that the bundle's precisions call most clearly, so that rounding doesn't change a label."""
    drawn = [cell.image for cell in draw_cells(SURPLUS * count, seed=0)]
    certainty = np.ones(len(drawn))
    for precision in _precisions(bundle):
        with _peer(bundle, precision) as scope:
            leads = [lead(prediction) for prediction in scope.classify_many(drawn)]
        certainty = np.minimum(certainty, leads)
    return [drawn[index] for index in np.argsort(-certainty, kind="stable")[:count]]


def _compare(contender: Contender, images: Sequence[Image], plan: Plan, notes: list[str]) -> list[Row]:
    with ExitStack() as stack:
        sides = list(_sides(contender, images, plan, stack, notes))
        times = time_in_turn(sides, images, plan.pace)
    torch_times = times.get(f"{contender.name}/{TORCH}")
    return [make_row(side.name, len(images), times[side.name], torch_times) for side in sides]


def _sides(contender: Contender, images: Sequence[Image], plan: Plan, stack: ExitStack, notes: list[str]) -> Iterator[Side]:
    if plan.against_torch:
        same = contender.same_weights and "fp32" in _precisions(contender.bundle)
        answers = _expected(contender.bundle, "fp32", images) if same else None
        yield Side(f"{contender.name}/{TORCH}", separate_models(contender.run), answers)
    for precision in _precisions(contender.bundle):
        expected = _expected(contender.bundle, precision, images)
        for execution in _executions(precision, contender.bundle):
            name = precision if execution == NATURAL[precision] else f"{precision}-{execution}"
            try:
                scope = stack.enter_context(_open(contender, precision, execution, len(images), plan.threads))
            except DeviceError as error:
                notes.append(f"{contender.name}/{name}/{ENGINE} left out: {error}")
                continue
            yield Side(f"{contender.name}/{name}/{ENGINE}", handle(scope), expected)


def _executions(precision: Precision, bundle: Path) -> tuple[Execution, ...]:
    """How to run the graph. An fp16 graph beside an fp32 one would only repeat its times in f32 and bf16."""
    repeated = precision == "fp16" and "fp32" in _precisions(bundle)
    return (NATURAL[precision],) if repeated else EXECUTIONS[precision]


def _open(contender: Contender, precision: Precision, execution: Execution, batch: int, threads: int | None) -> Scope:
    return open_bundle(
        contender.bundle,
        precision=precision,
        execution=execution,
        backend=ENGINE,
        workload="latency" if batch == 1 else "throughput",
        threads=threads,
        allow_ungated=True,
    )


def _peer(bundle: Path, precision: Precision) -> Scope:
    return open_bundle(
        bundle, device="cpu", precision=precision, backend="onnxruntime", workload="throughput", allow_ungated=True
    )


def _expected(bundle: Path, precision: Precision, images: Sequence[Image]) -> tuple[ClassName | None, ...]:
    with _peer(bundle, precision) as scope:
        answers = scope.classify_many(images)
    return tuple(answer.label if lead(answer) >= LEAD else None for answer in answers)


def lead(prediction: Prediction) -> float:
    """By how much the surest opinion leads the surest one of the other class."""
    hem, malignant = (max(pair[index] for pair in prediction.probabilities or ((0.0, 0.0),)) for index in range(2))
    return abs(malignant - hem)


def _precisions(bundle: Path) -> list[Precision]:
    manifest = read_bundle(bundle).manifest
    return [precision for precision in PRECISIONS if manifest.graph(precision)]


def _with_cold(row: Row, contender: Contender, tell: Tell) -> Row:
    if row.load_s is not None or not row.name.startswith(f"{contender.name}/"):
        return row
    tell(f"cold start of {row.name}")
    cold = _cold(row.name, contender)
    return row.model_copy(update={"load_s": cold.load_s, "peak_mib": cold.peak_mib})


def _cold(name: str, contender: Contender) -> Cold:
    graph, engine = name.removeprefix(f"{contender.name}/").split("/")
    if engine == "torch":
        return measure_cold(contender.run, "fp32", "f32", "torch")
    precision, _, execution = graph.partition("-")
    return measure_cold(contender.bundle, precision, execution or NATURAL[precision], engine)  # type: ignore[index]
