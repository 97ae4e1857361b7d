"""`validate`: examines a site's labelled frames and compares cells and calls with the labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import UsageError
from blastscope.runtime.evaluation.detection import Outcome, call_metrics, counts_by_class, detection_metrics, match_boxes
from blastscope.runtime.evaluation.drift import Drift
from blastscope.runtime.evaluation.labels import LabelledCell, LabelledFrames
from blastscope.runtime.evaluation.validation_record import MOST_NAME, Requirements, ValidationRecord, shortfalls
from blastscope.runtime.evaluation.validation_report import (
    ErrorImages,
    FrameOutcome,
    Mistake,
    PersonRow,
    Validation,
    ValidationRow,
    mistakes_in,
)
from blastscope.runtime.frames.corrections import ReviewedFrame
from blastscope.runtime.frames.pipeline import FrameCallback
from blastscope.runtime.frames.types import FrameCell, FrameReport, FrameSpecification
from blastscope.runtime.inference.voting import call_smear
from blastscope.runtime.types import CLASSES, ClassName, Prediction


class ExaminesFiles(Protocol):
    """What `validate` asks of a handle; a `Scope` has it."""

    bundle: Bundle

    def examine_files(
        self,
        paths: Iterable[Path | str],
        *,
        pixel_um: float | None = None,
        spec: FrameSpecification | None = None,
        on_frame: FrameCallback | None = None,
    ) -> Iterator[FrameReport]:
        """The report on each file, in order."""
        ...


@dataclass(frozen=True)
class SiteOptions:
    """Who validates, and what is asked for.

    Attributes
    ----------
    name : str
        The site's name, 1 to 200 characters.
    pixel_um : float or None
        Micrometres per pixel of all frames; None where the specification or each file tells.
    spec : FrameSpecification
        What is assumed of frames and cells.
    requirements : Requirements
        What the figures must show to pass.

    Raises
    ------
    UsageError
        `name` is empty or too long.
    """

    name: str
    pixel_um: float | None = None
    spec: FrameSpecification = field(default_factory=FrameSpecification)
    requirements: Requirements = field(default_factory=Requirements)

    def __post_init__(self) -> None:
        """Checked before anything is examined."""
        if not 1 <= len(self.name.strip()) <= MOST_NAME:
            raise UsageError(f"the site's name '{self.name}' must have 1 to {MOST_NAME} letters")


def validate(
    scope: ExaminesFiles, labels: LabelledFrames, site: SiteOptions, *, pictures: bool = False
) -> Iterator[FrameOutcome | Validation]:
    """What became of each labelled frame, as it is examined, and at last the result of the validation.

    Parameters
    ----------
    scope : Scope
        An open bundle.
    labels : LabelledFrames
        As `read_labels` gives them.
    site : SiteOptions
        Who validates, and what is asked for.
    pictures : bool
        True: the mistakes come with pictures.

    Yields
    ------
    FrameOutcome or Validation
        An outcome for each frame, in the order of the labels; the last item is the `Validation`.

    Raises
    ------
    UsageError
        No cell is labelled in any of the frames.
    """
    if not any(labels.cells.values()):
        raise UsageError("no cell is labelled in any of the frames")
    drift, rows, frames = Drift(), list[ValidationRow](), list[FrameOutcome]()
    found = defaultdict[str, list[Prediction]](list)
    mistakes, taken = list[Mistake](), ErrorImages(labels.cells)
    on_frame = taken.collect if pictures else None
    reports = scope.examine_files(labels.cells, pixel_um=site.pixel_um, spec=site.spec, on_frame=on_frame)
    for (path, cells), report in zip(labels.cells.items(), reports, strict=True):
        drift.add(report)
        unit = labels.patients[path] if labels.patients else str(path)
        found[unit] += [cell.prediction for cell in report.cells if cell.prediction]
        own = list(_rows(path, unit, cells, report, labels.reviewed.get(path)))
        rows += own
        frames.append(_fate(path, [row.outcome for row in own], report))
        if report.refusal is None:
            beside = {report.cells[number].box for number in _unjudged(cells, report, labels.reviewed.get(path))}
            shown = taken.shown(list(mistakes_in(path, cells, report.cells)))
            mistakes += [one for one in shown if one.label or one.box not in beside]
        yield frames[-1]
    outcomes = [row.outcome for row in rows]
    looked_at = [row.outcome for row in rows if labels.complete(row.path)]
    record = _record(scope.bundle, labels, site, (outcomes, looked_at), [frame for frame in frames if frame.problem is None])
    refusals = Counter(one.refusal for one in outcomes if one.truth is not None and one.refusal)
    yield Validation(
        record=record,
        frames=tuple(frames),
        refusals=dict(refusals.most_common()),
        drift=drift.state(),
        notes=tuple(_notes(scope.bundle, labels, drift, frames)),
        cells=tuple(rows),
        mistakes=tuple(mistakes),
        people=tuple(_people(scope.bundle, labels, found)),
    )


def _people(bundle: Bundle, labels: LabelledFrames, found: Mapping[str, list[Prediction]]) -> Iterator[PersonRow]:
    uncertainty = bundle.manifest.uncertainty
    if labels.patients is None or uncertainty is None or uncertainty.smear is None:
        return
    classes = defaultdict[str, set[ClassName]](set)
    for path, cells in labels.cells.items():
        classes[labels.patients[path]] |= {cell.label for cell in cells}
    for patient, predictions in found.items():
        label = next(iter(classes[patient])) if len(classes[patient]) == 1 else None
        yield PersonRow(patient, label, call_smear(predictions, uncertainty.smear))


def _rows(
    path: Path, unit: str, labelled: tuple[LabelledCell, ...], report: FrameReport, reviewed: ReviewedFrame | None
) -> Iterator[ValidationRow]:
    pairs = match_boxes([cell.box for cell in labelled], [cell.box for cell in report.cells])
    unjudged = _unjudged(labelled, report, reviewed)
    unseen = report.refusal.code if report.refusal else None
    for number, expert in enumerate(labelled):
        truth = CLASSES.index(expert.label)
        outcome = Outcome(unit, truth, found=False, call=None, score=None, refusal=None)
        if number in pairs:
            outcome = _outcome(unit, truth, report.cells[pairs[number]])
        yield ValidationRow(path, expert.box, outcome, outcome.refusal or unseen)
    for number, cell in enumerate(report.cells):
        if number not in pairs.values() and number not in unjudged:
            outcome = _outcome(unit, None, cell)
            yield ValidationRow(path, cell.box, outcome, outcome.refusal)


def _unjudged(labelled: tuple[LabelledCell, ...], report: FrameReport, reviewed: ReviewedFrame | None) -> set[int]:
    """The numbers of the found cells of which the table says nothing that they could be judged by."""
    if reviewed is None:
        return set()
    found = [cell.box for cell in report.cells]
    pairs = match_boxes([*(cell.box for cell in labelled), *reviewed.others], found)
    unjudged = {place for number, place in pairs.items() if number >= len(labelled)}
    if not reviewed.complete:  # nobody said anything of the rest, but for what is no white cell
        rejected = match_boxes(reviewed.rejected, found).values()
        unjudged |= set(range(len(found))) - set(rejected) - set(pairs.values())
    return unjudged


def _outcome(unit: str, truth: int | None, cell: FrameCell) -> Outcome:
    call = None if cell.label is None else CLASSES.index(cell.label)
    return Outcome(unit, truth, found=True, call=call, score=cell.score, refusal=cell.refusal.code if cell.refusal else None)


def _fate(path: Path, outcomes: list[Outcome], report: FrameReport) -> FrameOutcome:
    labelled = [one for one in outcomes if one.truth is not None]
    found = [one for one in labelled if one.found]
    return FrameOutcome(
        path=path,
        labelled=len(labelled),
        found=len(found),
        false=len(outcomes) - len(labelled),
        right=sum(one.call == one.truth for one in found),
        wrong=sum(one.call not in (None, one.truth) for one in found),
        refused=sum(one.call is None for one in found),
        problem=f"{report.refusal.code}: {report.refusal.detail}" if report.refusal else None,
    )


def _record(
    bundle: Bundle,
    labels: LabelledFrames,
    site: SiteOptions,
    judged: tuple[list[Outcome], list[Outcome]],
    examined: list[FrameOutcome],
) -> ValidationRecord:
    outcomes, looked_at = judged  # of all frames, and of those whose every cell is labelled
    hem, malignant = counts_by_class(outcomes)
    patients = len({labels.patients[frame.path] for frame in examined}) if labels.patients else None
    record = ValidationRecord.model_construct(
        format="1.0",
        site=site.name,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        bundle=bundle.digest,
        bundle_name=bundle.manifest.name,
        spec=site.spec,
        pixel_um=site.pixel_um,
        labels_sha256=labels.sha256,
        frames=len(examined),
        units="patients" if labels.patients else "frames",
        patients=patients,
        finding=detection_metrics(looked_at),
        hem=hem,
        all=malignant,
        calls=call_metrics(outcomes),
        requirements=site.requirements,
    )
    missing = tuple(shortfalls(record))
    return ValidationRecord.model_validate({**vars(record), "shortfalls": missing, "passed": not missing})


def _notes(bundle: Bundle, labels: LabelledFrames, drift: Drift, frames: list[FrameOutcome]) -> Iterator[str]:
    if labels.patients is None:
        yield "whose frames they are isn't said: cells of one patient resemble each other, so the intervals are too narrow"
    if partly := [frame for frame in labels.cells if not labels.complete(frame)]:
        yield (
            f"frames of which single cells were reviewed, and not the whole: {len(partly)}, first '{partly[0]}'; "
            "they have no part in how well cells are found"
        )
    if labels.unlabelled:
        yield f"frames without a row in the table, not judged: {len(labels.unlabelled)}, first '{labels.unlabelled[0]}'"
    if failed := [frame for frame in frames if frame.problem]:
        yield f"frames that couldn't be examined, their cells count as missed: {len(failed)}, first '{failed[0].path}'"
    if bundle.manifest.training.data_sha256 != drift.reference.data_sha256:
        yield f"the bundle was trained on other cells than those of the drift's reference, {drift.reference.name}"
