"""The report's records: input from a run, and the figures in report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import Interval, OperatingPoint, TrainingProvenance
from blastscope.runtime.bundle.uncertainty import Uncertainty
from blastscope.runtime.errors import EngineError, UsageError
from blastscope.runtime.evaluation.bootstrap import Grouping, bootstrap_interval, bootstrap_samples, group_rows
from blastscope.runtime.evaluation.metrics import CallScores, find_operating_point, score_calls
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.cnmc import person_of
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import CLASSES, VOTERS, ClassName, Voter
from blastscope.train.fit_checkpoint import EpochRow

SHARES = (0.5, 0.65)  # of ALL: even, and that of the challenge's preliminary test set
DRAWS = 1000
MOST_WEIGHT = 8.0  # of a cell of a size that is rare in its class

Weights = NDArray[np.float64]


class GroupScore(StrictModel):
    """Of the cells of one group, the share that the vote calls right."""

    name: str
    cells: int
    people: int
    right: Interval


class ShareScore(StrictModel):
    """Weighted F1 at another share of ALL, from the vote's sensitivity and specificity.

    Attributes
    ----------
    all_share : float
        Share of ALL among the cells, 0 to 1.
    weighted_f1 : Interval
        Mean of both classes' F1 by their shares, 0 to 1.
    same_sizes : bool
        Normal cells weighted to the sizes of the malignant ones, so that size tells nothing.
    specificity : Interval or None
        Specificity with these weights; None: as the cells are.
    """

    all_share: float
    weighted_f1: Interval
    same_sizes: bool = False
    specificity: Interval | None = None


def group_scores(
    labels: NDArray[np.int64],
    calls: NDArray[np.int64],
    patients: Sequence[str],
    sizes: NDArray[np.float64],
    lightness: NDArray[np.float64],
) -> tuple[GroupScore, ...]:
    """Groups by `sizes` (N,), side of the cell's box in pixels, and by `lightness` (N,), mean gray level of its pixels.

    Large and small are told from the median of all cells, stains by thirds of all cells.
    """
    middle = float(np.median(sizes))
    dark, light = np.quantile(lightness, [1 / 3, 2 / 3])
    groups = {
        f"HEM larger than {middle:.0f} px": (labels == 0) & (sizes > middle),
        f"HEM up to {middle:.0f} px": (labels == 0) & (sizes <= middle),
        f"ALL larger than {middle:.0f} px": (labels == 1) & (sizes > middle),
        f"ALL up to {middle:.0f} px": (labels == 1) & (sizes <= middle),
    }
    for label, name in enumerate(("HEM", "ALL")):
        groups[f"{name}, darkest third"] = (labels == label) & (lightness <= dark)
        groups[f"{name}, middle third"] = (labels == label) & (lightness > dark) & (lightness <= light)
        groups[f"{name}, lightest third"] = (labels == label) & (lightness > light)
    cells, weights = _drawn(labels, patients)
    people = np.array([person_of(name) for name in cells.names])
    found = []
    for name, mask in groups.items():
        total = cells.total(mask.astype(np.float64))
        if total.any():
            right = _ratio(cells.total((mask & (calls == labels)).astype(np.float64)), total, weights)
            found.append(GroupScore(name=name, cells=int(mask.sum()), people=len(set(people[total > 0])), right=right))
    return tuple(found)


def share_scores(
    labels: NDArray[np.int64], calls: NDArray[np.int64], patients: Sequence[str], shares: Sequence[float] = SHARES
) -> tuple[ShareScore, ...]:
    """Weighted F1 of `calls` (N,) if ALL were each of `shares` of the cells."""
    cells, weights = _drawn(labels, patients)
    rates = []
    for label in (0, 1):
        mine = (labels == label).astype(np.float64)
        right = mine * (calls == label)
        sums = np.stack([cells.total(right), cells.total(mine)])
        everyone = np.ones((1, len(cells.names)))
        rates.append([(drawn @ sums[0]) / np.maximum(drawn @ sums[1], 1e-12) for drawn in (everyone, weights)])
    found = []
    for share in shares:
        value, drawn = (weighted_f1(share, specificity, sensitivity) for specificity, sensitivity in zip(*rates, strict=True))
        found.append(ShareScore(all_share=share, weighted_f1=bootstrap_interval(float(value[0]), drawn)))
    return tuple(found)


def same_size_score(
    labels: NDArray[np.int64],
    calls: NDArray[np.int64],
    patients: Sequence[str],
    sizes: NDArray[np.float64],
    all_share: float = SHARES[-1],
) -> ShareScore:
    """Weighted F1 and specificity if HEM cells were as large as ALL cells: what is left where size tells nothing.

    HEM cells weigh by how common their size is among ALL cells against HEM cells, at most `MOST_WEIGHT` times, in ten groups of
    equally many ALL cells.
    """
    edges = np.quantile(sizes[labels == 1], np.linspace(0, 1, 11)[1:-1])
    bins = np.searchsorted(edges, sizes)
    shares = [np.bincount(bins[labels == label], minlength=10) / (labels == label).sum() for label in (0, 1)]
    factors = np.where(shares[0] > 0, shares[1] / np.maximum(shares[0], 1e-12), 0).clip(max=MOST_WEIGHT)
    weight = np.where(labels == 0, factors[bins], 1.0)
    cells, weights = _drawn(labels, patients)
    everyone = np.ones((1, len(cells.names)))
    rates = []
    for label in (0, 1):
        mine = weight * (labels == label)
        right, total = cells.total(mine * (calls == labels)), cells.total(mine)
        rates.append([(drawn @ right) / np.maximum(drawn @ total, 1e-12) for drawn in (everyone, weights)])
    value, drawn = (weighted_f1(all_share, specificity, sensitivity) for specificity, sensitivity in zip(*rates, strict=True))
    return ShareScore(
        all_share=all_share,
        weighted_f1=bootstrap_interval(float(value[0]), drawn),
        same_sizes=True,
        specificity=bootstrap_interval(float(rates[0][0][0]), rates[0][1]),
    )


def weighted_f1(all_share: float, specificity: Weights, sensitivity: Weights) -> Weights:
    """The mean of both classes' F1 by their shares, of calls with these rates."""
    hem_share = 1 - all_share
    true_all, false_all = all_share * sensitivity, hem_share * (1 - specificity)
    true_hem, false_hem = hem_share * specificity, all_share * (1 - sensitivity)
    f1_all = 2 * true_all / np.maximum(true_all + false_all + all_share, 1e-12)
    f1_hem = 2 * true_hem / np.maximum(true_hem + false_hem + hem_share, 1e-12)
    found: Weights = all_share * f1_all + hem_share * f1_hem
    return found


def _drawn(labels: NDArray[np.int64], patients: Sequence[str]) -> tuple[Grouping, Weights]:
    cells = group_rows(patients)
    people = cells.people({name: person_of(name) for name in cells.names})
    return cells, bootstrap_samples(cells.classes(labels), draws=DRAWS, seed=0, people=people)


def _ratio(right: Weights, total: Weights, weights: Weights) -> Interval:
    drawn_total = weights @ total
    drawn = (weights @ right)[drawn_total > 0] / drawn_total[drawn_total > 0]
    return bootstrap_interval(float(right.sum() / total.sum()), drawn)


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
    """Everything that a report needs; `read_run` takes it from a run's folder. Row i of the arrays is validation cell i.

    Attributes
    ----------
    title : str
        What stands above the page.
    labels : ndarray of int64
        Shape (N,): indices into `CLASSES`.
    patients, files : tuple of str
        Of each of the N cells.
    probabilities : ndarray of float32
        Shape (N, 3, 2): voters a, b, combined; classes hem, all.
    history : mapping of Voter to tuple of EpochRow
        By voter, a row an epoch.
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
    comparison : Comparison or None
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
    files: tuple[str, ...]
    probabilities: NDArray[np.float32]
    history: Mapping[Voter, tuple[EpochRow, ...]]
    kept: Mapping[Voter, int]
    provenance: TrainingProvenance
    patient_classes: Mapping[str, ClassName]
    circumstances: Mapping[str, str]
    notes: tuple[str, ...] = ()
    comparison: Comparison | None = None
    sizes: NDArray[np.float64] | None = None
    lightness: NDArray[np.float64] | None = None
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
        By voter, a row an epoch.
    kept : mapping of Voter to int
        By voter, the epoch whose weights it ended with.
    comparison : Comparison or None
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
    comparison: Comparison | None
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
