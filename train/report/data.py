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
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, VOTERS, ClassName, Voter
from blastscope.train.fit_checkpoint import EpochRow
from blastscope.train.report.group_scores import GroupScore, ShareScore, group_scores, same_size_score, share_scores

FEW = 5  # a bootstrap over fewer patients of a class sees too little of how patients differ
SENSITIVITIES = (0.90, 0.95, 0.99)
VOTE = "vote"

NAMES = {"a": "Model A", "b": "Model B", "combined": "Combined", VOTE: "Vote"}
SUBJECTS = (*VOTERS, VOTE)  # the columns of Table 1


class ComparisonRow(StrictModel):
    """Another recipe's scores: figures alone, or with their intervals.

    Attributes
    ----------
    name : str
        The recipe.
    weighted_f1 : Interval or float
        0 to 1, as the other figures.
    auroc, sensitivity, specificity : Interval, float or None
        None where they weren't measured.
    note : str
        What a reader must know of it.
    """

    name: str
    weighted_f1: Interval | float
    auroc: Interval | float | None = None
    sensitivity: Interval | float | None = None
    specificity: Interval | float | None = None
    note: str = ""


class RecipeComparison(StrictModel):
    """RUN/comparison.json: how other recipes did on the same question, put there by whoever compared them.

    Attributes
    ----------
    title : str
        Of the table.
    note : str
        Such as which folds, and which cells.
    rows : tuple of ComparisonRow
        One for each recipe.
    """

    title: str = "Other recipes"
    note: str = ""
    rows: tuple[ComparisonRow, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ReportInput:
    """Everything that a report needs; `read_run` takes it from a run's folder. Row i of the arrays is validation cell i.

    Attributes
    ----------
    title : str
        What stands above the page.
    labels : ndarray of int64
        Shape (N,): indices into `CLASSES`.
    patients, people, files : tuple of str
        Of each of the N cells. `people` has one id for all ids of the same person.
    probabilities : ndarray of float32
        Shape (N, 3, 2): voters a, b, combined; classes hem, all.
    history : mapping of Voter to tuple of EpochRow
        By voter, one row per epoch.
    kept : mapping of Voter to int
        The epoch whose weights each network ended with.
    provenance : TrainingProvenance
        Where the networks come from.
    patient_classes : mapping of str to ClassName
        Classes of the patients of both parts, as far as known.
    circumstances : mapping of str to str
        What else to say of the training, such as the device.
    notes : tuple of str
        What a reader of the scores must know.
    comparison : RecipeComparison or None
        Other recipes' scores.
    sizes : ndarray of float64 or None
        Shape (N,): side of each cell in pixels; None where not measured.
    lightness : ndarray of float64 or None
        Shape (N,): mean gray level of each cell, 0 to 255; None where not measured.
    uncertainty : Uncertainty or None
        Calibration, sets and novelty, measured on held-out people.
    """

    title: str
    labels: NDArray[np.int64]
    patients: tuple[str, ...]
    people: tuple[str, ...]
    files: tuple[str, ...]
    probabilities: NDArray[np.float32]
    history: Mapping[Voter, tuple[EpochRow, ...]]
    kept: Mapping[Voter, int]
    provenance: TrainingProvenance
    patient_classes: Mapping[str, ClassName]
    circumstances: Mapping[str, str]
    notes: tuple[str, ...] = ()
    comparison: RecipeComparison | None = None
    sizes: NDArray[np.float64] | None = None
    lightness: NDArray[np.float64] | None = None
    uncertainty: Uncertainty | None = None

    def __post_init__(self) -> None:
        """Raises `UsageError` where the arrays don't describe the same cells."""
        count = len(self.labels)
        if self.probabilities.shape != (count, len(VOTERS), len(CLASSES)):
            raise UsageError(f"probabilities of {count} cells must be ({count}, 3, 2), not {self.probabilities.shape}")
        lengths = [len(names) for names in (self.patients, self.people, self.files)]
        if lengths != [count] * 3:
            raise UsageError("{} labels, {} patients, {} people and {} files aren't the same cells".format(count, *lengths))


class Part(StrictModel):
    """The patients and cells of one part of the split.

    Attributes
    ----------
    all, hem : tuple of str
        Patients of either class, by their ids.
    unknown : tuple of str
        Patients whose class the run doesn't tell.
    """

    all: tuple[str, ...]
    hem: tuple[str, ...]
    unknown: tuple[str, ...] = ()


class Report(StrictModel):
    """report.json: every figure of the page. Without cells of both classes `scores` is empty, and a note says why.

    Attributes
    ----------
    title : str
        What stands above the page.
    notes : tuple of str
        What a reader must know, in sentences.
    scores : mapping of str to CallScores
        Figures by 'a', 'b', 'combined' and 'vote'.
    deciding : mapping of Voter to int
        In how many cells each voter's probability was the largest.
    operating_points : tuple of OperatingPoint
        Thresholds on the vote's score, chosen and measured on the same cells.
    training : Part
        Who trained the networks.
    validation : Part
        Who judged them.
    provenance : TrainingProvenance
        Where the networks come from.
    circumstances : mapping of str to str
        What else to say of the training.
    history : mapping of Voter to tuple of EpochRow
        By voter, one row per epoch.
    kept : mapping of Voter to int
        By voter, the epoch whose weights it ended with.
    comparison : RecipeComparison or None
        Other recipes' scores.
    groups : tuple of GroupScore
        Figures of the vote by size and stain, where these were measured.
    shares : tuple of ShareScore
        Weighted F1 at other shares of ALL.
    uncertainty : Uncertainty or None
        Calibration, sets and novelty, measured on held-out people.
    """

    title: str
    notes: tuple[str, ...]
    scores: dict[str, CallScores]
    deciding: dict[Voter, int]
    operating_points: tuple[OperatingPoint, ...]
    training: Part
    validation: Part
    provenance: TrainingProvenance
    circumstances: dict[str, str]
    history: dict[Voter, tuple[EpochRow, ...]]
    kept: dict[Voter, int]
    comparison: RecipeComparison | None
    groups: tuple[GroupScore, ...] = ()
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
    people = dict(zip(given.patients, given.people, strict=True))
    try:
        votes = vote(given.probabilities)
        for subject in SUBJECTS:
            calls, score = voter_calls(given, subject)
            scores[subject] = score_calls(given.labels, calls, score, given.patients, people=people)
        points = tuple(find_operating_point(given.labels, votes.score, wanted) for wanted in SENSITIVITIES)
        called = votes.label.astype(np.int64)
        shares = share_scores(given.labels, called, given.people)
        if given.sizes is not None and given.lightness is not None:
            shares += (same_size_score(given.labels, called, given.people, given.sizes),)
            groups = group_scores(given.labels, called, given.people, given.sizes, given.lightness)
        deciding = {voter: int((votes.voter == place).sum()) for place, voter in enumerate(VOTERS)}
        notes += _few(scores[VOTE], people)
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


def _few(scores: CallScores, people: Mapping[str, str]) -> list[str]:
    """A warning for each class with so few patients that its intervals promise too much."""
    counts = {label: len({people[row.patient] for row in scores.patients if row.label == label}) for label in CLASSES}
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
