"""The report's records: input from a run, and the figures in report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import Interval, OperatingPoint, TrainingProvenance
from blastscope.runtime.bundle.uncertainty import Uncertainty
from blastscope.runtime.errors import EngineError, UsageError
from blastscope.runtime.evaluation.metrics import CallScores, find_operating_point, score_calls
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.cnmc import person_of
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, VOTERS, ClassName, Voter
from blastscope.train.report.groups import GroupScore, ShareScore, group_scores, same_size_score, share_scores
from blastscope.train.schedule import EpochRow

FEW = 5  # a bootstrap over fewer patients of a class sees too little of how patients differ
SENSITIVITIES = (0.90, 0.95, 0.99)
VOTE = "vote"

NAMES = {"a": "Model A", "b": "Model B", "combined": "Combined", VOTE: "Vote"}
SUBJECTS = (*VOTERS, VOTE)  # the columns of Table 1


class ComparisonRow(StrictModel):
    """Another recipe's scores: figures alone, or with their intervals."""

    name: str
    weighted_f1: Interval | float
    auroc: Interval | float | None = None
    sensitivity: Interval | float | None = None
    specificity: Interval | float | None = None
    note: str = ""


class Comparison(StrictModel):
    """RUN/comparison.json: how other recipes did on the same question, put there by whoever compared them."""

    title: str = "Other recipes"
    note: str = ""  # such as which folds, which cells
    rows: tuple[ComparisonRow, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ReportInput:
    """Everything that a report needs; `read_run` takes it from a run's folder. Row i of the arrays is validation cell i."""

    title: str
    labels: NDArray[np.int64]  # (N,) indices into CLASSES
    patients: tuple[str, ...]  # (N,)
    files: tuple[str, ...]  # (N,)
    probabilities: NDArray[np.float32]  # (N, 3, 2)
    history: Mapping[Voter, tuple[EpochRow, ...]]
    kept: Mapping[Voter, int]  # the epoch whose weights each network ended with
    provenance: TrainingProvenance
    patient_classes: Mapping[str, ClassName]  # of both parts, as far as known
    circumstances: Mapping[str, str]  # what else to say of the training, such as the device
    notes: tuple[str, ...] = ()  # what a reader of the scores must know
    comparison: Comparison | None = None
    sizes: NDArray[np.float64] | None = None  # (N,) of each cell in pixels; None: not measured
    lightness: NDArray[np.float64] | None = None  # (N,) mean gray level of each cell
    uncertainty: Uncertainty | None = None

    def __post_init__(self) -> None:
        """Raises `UsageError` where the arrays don't describe the same cells."""
        count = len(self.labels)
        if self.probabilities.shape != (count, len(VOTERS), len(CLASSES)):
            raise UsageError(f"probabilities of {count} cells must be ({count}, 3, 2), not {self.probabilities.shape}")
        if (len(self.patients), len(self.files)) != (count, count):
            raise UsageError(f"{count} labels, {len(self.patients)} patients and {len(self.files)} files aren't the same cells")


class Part(StrictModel):
    """Who is in one part of the split."""

    all: tuple[str, ...]
    hem: tuple[str, ...]
    unknown: tuple[str, ...] = ()  # patients whose class the run doesn't tell


class Report(StrictModel):
    """report.json: every figure of the page. Without cells of both classes `scores` is empty, and a note says why."""

    title: str
    notes: tuple[str, ...]
    scores: dict[str, CallScores]  # by 'a', 'b', 'combined' and 'vote'
    deciding: dict[Voter, int]  # in how many cells each voter's probability was the largest
    operating_points: tuple[OperatingPoint, ...]  # of the vote's score, chosen and measured on the same cells
    training: Part
    validation: Part
    provenance: TrainingProvenance
    circumstances: dict[str, str]
    history: dict[Voter, tuple[EpochRow, ...]]
    kept: dict[Voter, int]
    comparison: Comparison | None
    groups: tuple[GroupScore, ...] = ()  # of the vote, where sizes and stains were measured
    shares: tuple[ShareScore, ...] = ()
    uncertainty: Uncertainty | None = None


def assess(given: ReportInput) -> Report:
    """All figures of `given`."""
    scores: dict[str, CallScores] = {}
    points: tuple[OperatingPoint, ...] = ()
    groups: tuple[GroupScore, ...] = ()
    shares: tuple[ShareScore, ...] = ()
    notes = list(given.notes)
    deciding: dict[Voter, int] = {}
    people = {patient: person_of(patient) for patient in given.patients}
    try:
        votes = vote(given.probabilities)
        for subject in SUBJECTS:
            calls, score = voter_calls(given, subject)
            scores[subject] = score_calls(given.labels, calls, score, given.patients, people=people)
        points = tuple(find_operating_point(given.labels, votes.score, wanted) for wanted in SENSITIVITIES)
        called = votes.label.astype(np.int64)
        shares = share_scores(given.labels, called, given.patients)
        if given.sizes is not None and given.lightness is not None:
            shares += (same_size_score(given.labels, called, given.patients, given.sizes),)
            groups = group_scores(given.labels, called, given.patients, given.sizes, given.lightness)
        deciding = {voter: int((votes.voter == place).sum()) for place, voter in enumerate(VOTERS)}
        notes += _few(scores[VOTE])
    except (UsageError, EngineError) as error:  # a run without a usable validation part still has curves to show
        scores = {}
        notes.append(f"no scores: {error}")
    return Report(
        title=given.title,
        notes=tuple(dict.fromkeys(notes)),
        scores=scores,
        deciding=deciding,
        operating_points=points,
        training=_part(given.provenance.patients.training, given.patient_classes),
        validation=_part(given.provenance.patients.validation, given.patient_classes),
        provenance=given.provenance,
        circumstances=dict(given.circumstances),
        history={voter: given.history.get(voter, ()) for voter in VOTERS},
        kept=dict(given.kept),
        comparison=given.comparison,
        groups=groups,
        shares=shares,
        uncertainty=given.uncertainty,
    )


def voter_calls(given: ReportInput, subject: str) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The calls and the scores, (N,) each, of one voter or of the vote."""
    if subject == VOTE:
        votes = vote(given.probabilities)
        return votes.label, votes.score
    alone = given.probabilities[:, SUBJECTS.index(subject)]
    return (alone[:, 1] >= alone[:, 0]).astype(np.int32), alone[:, 1]  # a tie is ALL, as in the vote


def _few(scores: CallScores) -> list[str]:
    """A warning for each class with so few patients that its intervals promise too much."""
    counts = {label: len({person_of(row.patient) for row in scores.patients if row.label == label}) for label in CLASSES}
    return [
        f"only {count} {label.upper()} patient{'s validate' if count > 1 else ' validates'}: "
        "intervals by bootstrap over so few are too narrow"
        for label, count in counts.items()
        if count < FEW
    ]


def _part(patients: tuple[str, ...], classes: Mapping[str, ClassName]) -> Part:
    ordered = sorted(patients, key=lambda name: (len(name), name))
    by_class = {label: tuple(name for name in ordered if classes.get(name) == label) for label in CLASSES}
    return Part(all=by_class["all"], hem=by_class["hem"], unknown=tuple(name for name in ordered if name not in classes))
