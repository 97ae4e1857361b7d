"""`manifest.json`: everything that a bundle says of itself, as records that reject unknown keys."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from blastscope.runtime.classes import CLASSES, VOTERS, ClassName, Execution, Precision, Voter
from blastscope.runtime.crop.spec import CropSpec
from blastscope.runtime.record import Record

FORMAT = "1.0"

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$")]
GraphModels = Literal["fused", "a", "b", "combined"]


class FileEntry(Record):
    """A file of the bundle, with what is needed to know it again."""

    file: RelativePath  # from the bundle's root
    sha256: Digest
    size: int = Field(ge=0)  # bytes


class Interval(Record):
    """An estimate with its 95 % interval from a bootstrap over patients."""

    value: float
    low: float
    high: float


class GateResult(Record):
    """How an int8 graph compared with its parent on validation cells outside the calibration sample."""

    cells: int = Field(ge=0)
    patients: int = Field(ge=0)
    flips: Interval  # share of cells whose vote changed
    flips_at_most: float
    f1_loss: Interval  # weighted F1 of the parent less that of this graph, in points of 100
    f1_loss_at_most: float
    passed: bool


class GraphEntry(FileEntry):
    """One ONNX graph: uint8 crops (N, S, S, 3) in, probabilities out, (N, 3, 2) when fused and (N, 2) alone."""

    models: GraphModels
    precision: Precision
    parent: Digest | None = None  # sha256 of the graph that this one was made from
    tolerances: dict[Execution, float]  # largest difference of a probability from the trained network's, by execution
    passes: int = Field(default=2, ge=1)  # backbone passes a cell costs
    gate: GateResult | None = None  # int8 only


class GoldenEntry(FileEntry):
    """At most 16 crops with the probabilities of the trained network, in one safetensors file."""

    count: int = Field(ge=1, le=16)
    source: Literal["drawn", "validation"]


class VoteRule(Record):
    """How three opinions become one call (runtime/vote.py)."""

    rule: Literal["largest-probability"] = "largest-probability"
    tie: tuple[ClassName, Voter, Voter, Voter] = ("all", "a", "b", "combined")


class OperatingPoint(Record):
    """A threshold on the vote's score, chosen on validation patients; above or at it a cell is called ALL."""

    threshold: float = Field(ge=0, le=1)
    sensitivity_wanted: float = Field(gt=0, le=1)
    sensitivity: float
    specificity: float
    cells: int


class Patients(Record):
    """Who was in which part. No name stands in two lists of one split by patient."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    calibration: tuple[str, ...] = ()  # those of the validation patients whose cells set the int8 ranges


class TrainingProvenance(Record):
    """Where the networks come from."""

    data_sha256: Digest | None  # None: random weights
    split: Literal["patient", "image", "none"]
    seed: int
    config: dict[str, object]
    versions: dict[str, str]
    patients: Patients


class CalibrationProvenance(Record):
    """Which cells set the int8 ranges, and how."""

    method: Literal["minmax", "entropy", "percentile"]
    cells: tuple[str, ...]  # file names
    cells_sha256: Digest
    seed: int
    versions: dict[str, str]


class Scores(Record):
    """The vote on the validation cells, of one precision."""

    precision: Precision
    cells: int
    patients: int
    weighted_f1: Interval
    auroc: Interval
    sensitivity: Interval
    specificity: Interval


class Manifest(Record):
    """The whole of manifest.json (runtime/FORMAT.md)."""

    format: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")] = FORMAT
    name: Annotated[str, StringConstraints(min_length=1, max_length=80)]
    created: str  # UTC, ISO 8601
    classes: tuple[ClassName, ...] = CLASSES
    voters: tuple[Voter, ...] = VOTERS
    backbone: str  # timm's name
    crop: CropSpec
    vote: VoteRule = VoteRule()
    operating_point: OperatingPoint | None = None
    gate: Literal["held", "waived: benchmark"] = "held"
    graphs: tuple[GraphEntry, ...] = Field(min_length=1)
    golden: GoldenEntry
    training: TrainingProvenance
    calibration: CalibrationProvenance | None = None
    scores: tuple[Scores, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.classes != CLASSES or self.voters != VOTERS:
            raise ValueError(f"classes must be {CLASSES} and voters {VOTERS}, in this order")
        kinds = [(entry.models, entry.precision) for entry in self.graphs]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two graphs of the same models and precision")
        if not any(entry.models == "fused" for entry in self.graphs):
            raise ValueError("no fused graph")
        return self

    def graph(self, precision: Precision, models: GraphModels = "fused") -> GraphEntry | None:
        """The entry of `models` in `precision`, if the bundle has one."""
        return next((entry for entry in self.graphs if (entry.models, entry.precision) == (models, precision)), None)
