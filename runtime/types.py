"""Classes, voters, precisions and the records that a call returns: `Prediction`, `Refusal`, `Audit`.

What the caller gets for each image: a call with everything that led to it, or a refusal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan
from typing import Literal, TypedDict, get_args

ClassName = Literal["hem", "all"]
Voter = Literal["a", "b", "combined"]
Precision = Literal["fp32", "fp16", "int8"]
Execution = Literal["f32", "bf16", "f16", "int8"]
# of a network on a CPU's cores: whole, A beside B, whole with two cores a stream, or in parts that may be left out
Layout = Literal["fused", "side-by-side", "paired", "staged"]

CLASSES: tuple[ClassName, ...] = get_args(ClassName)  # 1 = ALL, as in the challenge's files
VOTERS: tuple[Voter, ...] = get_args(Voter)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


ImageCode = Literal["undecodable", "bomb", "not-8-bit-rgb", "empty", "not-on-black", "touches-border", "too-small", "too-large"]
FrameCode = Literal["clumped", "out-of-focus", "not-lymphoid"]  # only of a cell in a whole frame
TrainingCode = Literal["unlike-training"]  # only of a bundle whose graphs measure novelty
StreamCode = Literal["failed"]  # only of a frame in a stream, or of a file: examining it broke off
RefusalCode = ImageCode | FrameCode | TrainingCode | StreamCode
REFUSALS: tuple[RefusalCode, ...] = tuple(code for kind in get_args(RefusalCode) for code in get_args(kind))

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image, half-open


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an image got no label: a code for programs and a sentence for people."""

    code: RefusalCode
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What answered: enough to repeat the call later. Digests are sha256 in hex."""

    bundle: str
    engine: str
    backend: str
    device: str
    precision: Precision  # of the graph
    execution: Execution  # what the engine computed in
    layout: Layout = "fused"  # how the network lies on the cores of a CPU


class PredictionRow(TypedDict):
    """One prediction as the command line prints it."""

    label: ClassName | None
    probability: float | None
    voter: Voter | None
    probabilities: dict[str, dict[str, float] | None] | None  # a voter's are null where it was not run
    decided_early: bool
    novelty: float | None
    set: list[ClassName] | None
    box: list[int] | None
    refusal: RefusalCode | None
    score: float | None  # the deciding voter's probability of ALL
    detail: str | None  # of the refusal
    audit: dict[str, str]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's call. With a refusal, all fields but `refusal`, `box`, `novelty` and `audit` are None, `decided_early` False.

    `probability` is the deciding voter's probability of `label`; `score` the same voter's probability of ALL, the figure to
    put a threshold on. `probabilities` holds a row for each voter (a, b, combined) and a column for each class (hem, all).
    With `decided_early` the first voter of a cascade was sure enough to decide alone; the others' rows are NaN.
    `novelty` is the cell's distance from the training's cells, about 1 for one of theirs; above the bundle's limit the cell
    is refused as 'unlike-training'. `set` holds the classes that can't be excluded for it (`PredictionSets`): one where the
    vote is sure, both where it isn't, none where neither class fits. Both are None for a bundle that doesn't measure them.
    """

    label: ClassName | None
    probability: float | None
    score: float | None
    voter: Voter | None
    probabilities: tuple[tuple[float, float], ...] | None
    box: Box | None
    refusal: Refusal | None
    audit: Audit
    decided_early: bool = False
    novelty: float | None = None
    set: tuple[ClassName, ...] | None = None

    def row(self) -> PredictionRow:
        """The prediction as plain JSON values."""
        table: dict[str, dict[str, float] | None] = {}
        for voter, pair in zip(VOTERS, self.probabilities or (), strict=self.probabilities is not None):
            table[voter] = None if any(map(isnan, pair)) else {**dict(zip(CLASSES, pair, strict=True))}
        return PredictionRow(
            label=self.label,
            probability=self.probability,
            voter=self.voter,
            probabilities=table or None,
            decided_early=self.decided_early,
            novelty=self.novelty,
            set=None if self.set is None else list(self.set),
            box=list(self.box) if self.box else None,
            refusal=self.refusal.code if self.refusal else None,
            score=self.score,
            detail=self.refusal.detail if self.refusal else None,
            audit=asdict(self.audit),
        )
