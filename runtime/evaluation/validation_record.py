"""The record of a site's validation: data, bundle, specification, figures, and whether they meet the requirements.

A report says `validated` where such a record passed and names the very bundle and specification in use. It is no seal: whoever
can write the file can write anything. It keeps an honest site from mistaking one bundle's proof for another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from blastscope.runtime.bundle.manifest import Digest, Interval, Moment
from blastscope.runtime.errors import DataError
from blastscope.runtime.evaluation.detection import CallFigures, ConfusionCounts, DetectionMetrics
from blastscope.runtime.frames.types import FrameSpecification
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.strict_model import StrictModel, problems

MOST_BYTES = 1_000_000
MOST_NAME = 200  # letters


class Requirements(StrictModel):
    """What a validation must show. The paper gives no such figures: these are the house's, a site may want others, and says so.

    With 50 cells of a class a rate of 0.9 has an interval of about 0.79 to 0.96: fewer say next to nothing.

    Attributes
    ----------
    frames : int
        Labelled frames.
    cells_each : int
        Labelled, found and called cells of each class.
    patients : int
        Patients, where they are known.
    recall : float
        Share of the labelled cells that is found.
    precision : float
        Share of the found cells that has a label.
    called : float
        Share of the labelled cells that is neither missed nor refused.
    sensitivity, specificity : float
        Lower end of its interval.
    """

    frames: int = Field(default=20, ge=1)
    cells_each: int = Field(default=50, ge=2)
    patients: int = Field(default=10, ge=2)
    recall: float = Field(default=0.9, ge=0, le=1)
    precision: float = Field(default=0.8, ge=0, le=1)
    called: float = Field(default=0.7, ge=0, le=1)
    sensitivity: float = Field(default=0.8, ge=0, le=1)
    specificity: float = Field(default=0.6, ge=0, le=1)


class ValidationRecord(StrictModel):
    """A site's validation, as `validation.json` keeps it.

    Making one raises `pydantic.ValidationError` where `passed` or `shortfalls` don't agree with the figures and requirements.

    Attributes
    ----------
    format : {'1.0'}
        Version of the file's form.
    site : str
        The site's name, as it was given.
    created : str
        Time in UTC.
    bundle : str
        Digest of the bundle.
    bundle_name : str
        The bundle's name.
    spec : FrameSpecification
        What was assumed of frames and cells.
    pixel_um : float or None
        Micrometres per pixel, as given for all frames; None where each file tells.
    labels_sha256 : str
        sha256 of the table of labels.
    frames : int
        Frames that have labels and were examined.
    units : {'patients', 'frames'}
        What the intervals were drawn over.
    patients : int or None
        How many; None where nobody said whose frames they are.
    finding : DetectionMetrics or None
        How well cells were found; None where none is labelled or none was found.
    hem : ConfusionCounts
        What became of the HEM cells.
    all : ConfusionCounts
        What became of the ALL cells.
    calls : CallFigures or None
        How good the calls were; None unless cells of both classes were called.
    requirements : Requirements
        What was asked for.
    shortfalls : tuple of str
        What was asked for and isn't shown by the figures.
    passed : bool
        Whether everything that is asked for was shown.
    """

    format: Literal["1.0"] = "1.0"
    site: str = Field(min_length=1, max_length=MOST_NAME)
    created: Moment
    bundle: Digest
    bundle_name: str
    spec: FrameSpecification
    pixel_um: float | None
    labels_sha256: Digest
    frames: int
    units: Literal["patients", "frames"]
    patients: int | None
    finding: DetectionMetrics | None
    hem: ConfusionCounts
    all: ConfusionCounts
    calls: CallFigures | None
    requirements: Requirements
    shortfalls: tuple[str, ...]
    passed: bool

    @model_validator(mode="after")
    def _says_what_its_figures_say(self) -> Self:
        if self.shortfalls != tuple(shortfalls(self)) or self.passed != (not self.shortfalls):
            raise ValueError("'shortfalls' and 'passed' are not what the figures and requirements say")
        return self

    def objection(self, bundle: str, spec: FrameSpecification) -> str | None:
        """The reason why this record says nothing of a bundle and a specification.

        Parameters
        ----------
        bundle : str
            The bundle's digest.
        spec : FrameSpecification
            What is assumed of frames and cells.

        Returns
        -------
        str or None
            None where the record passed and was made with the same two.
        """
        if not self.passed:
            return f"the validation of '{self.site}' fell short: {self.shortfalls[0]}"
        if self.bundle != bundle:
            return (
                f"the validation of '{self.site}' is of bundle '{self.bundle_name}', {self.bundle[:12]}, not of {bundle[:12]}"
            )
        if self.spec != spec:
            changed = [name for name in FrameSpecification.model_fields if getattr(self.spec, name) != getattr(spec, name)]
            return f"the validation of '{self.site}' was made with another specification: {', '.join(changed)} differ"
        return None


def shortfalls(record: ValidationRecord) -> Iterator[str]:
    """What the requirements ask for and the figures don't show.

    Parameters
    ----------
    record : ValidationRecord
        Figures and requirements.

    Yields
    ------
    str
        A sentence for each.
    """
    wanted, finding, calls = record.requirements, record.finding, record.calls
    if record.frames < wanted.frames:
        yield f"{record.frames} frames, wanted {wanted.frames}"
    if record.patients is not None and record.patients < wanted.patients:
        yield f"{record.patients} patients, wanted {wanted.patients}"
    for name, counts in (("HEM", record.hem), ("ALL", record.all)):
        called = counts.called_hem + counts.called_all
        if called < wanted.cells_each:
            yield f"{called} {name} cells found and called, wanted {wanted.cells_each}"
    if finding is None or calls is None:
        found = sum(counts.called_hem + counts.called_all + counts.refused for counts in (record.hem, record.all))
        lacking = "how well cells are found wasn't measured: no frame was reviewed as a whole" if found else "no cell was found"
        yield lacking if finding is None else "the cells called are of one class only: no figure can be had"
        return
    yield from _below("recall of the cells", finding.recall, finding.recall.value, wanted.recall)
    yield from _below("precision of the cells", finding.precision, finding.precision.value, wanted.precision)
    labelled = sum(
        counts.called_hem + counts.called_all + counts.refused + counts.missed for counts in (record.hem, record.all)
    )
    if (share := calls.cells / labelled) < wanted.called:
        yield f"{share:.3f} of the labelled cells were called, wanted {wanted.called}"
    yield from _below("sensitivity", calls.sensitivity, calls.sensitivity.low, wanted.sensitivity)
    yield from _below("specificity", calls.specificity, calls.specificity.low, wanted.specificity)


def _below(name: str, figure: Interval, value: float, wanted: float) -> Iterator[str]:
    if value < wanted:
        end = "" if value == figure.value else ", lower end of the interval,"
        yield f"{name} {value:.3f}{end} wanted {wanted}"


def write_validation(record: ValidationRecord, path: Path) -> None:
    """Writes a record to a file as JSON, whole or not at all.

    Parameters
    ----------
    record : ValidationRecord
        The record.
    path : Path
        The file; one that stands there is replaced.

    Raises
    ------
    WriteError
        The file can't be written.
    """
    write_content(path, record.model_dump_json(indent=2) + "\n")


def read_validation(path: Path | str) -> ValidationRecord:
    """The record in a file that `write_validation` wrote.

    Parameters
    ----------
    path : Path or str
        The file.

    Returns
    -------
    ValidationRecord

    Raises
    ------
    DataError
        The file can't be read, or is no such record.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(path, f"is no validation record: more than {MOST_BYTES} bytes")
        return ValidationRecord.model_validate_json(content)
    except OSError as error:
        raise DataError(path, f"can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(path, f"is no validation record: {'; '.join(problems(error)[:3])}") from error
