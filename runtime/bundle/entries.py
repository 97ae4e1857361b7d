"""The records that a manifest is made of: files with their digests, what was measured of the networks, where they come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from blastscope.runtime.bundle.uncertainty import Interval
from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import Precision

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# lower case and no leading or trailing dot: one path means one file on every file system
_STEP = r"[a-z0-9]([a-z0-9._-]*[a-z0-9_-])?"
RelativePath = Annotated[str, StringConstraints(pattern=rf"^{_STEP}(/{_STEP})*$", max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]


class FileEntry(StrictModel):
    """A file of the bundle, with its size and digest.

    Attributes
    ----------
    file : str
        Path from the bundle's root, in lower case, with '/' between folders.
    sha256 : str
        SHA-256 of its bytes, 64 digits in hex.
    size : int
        Bytes.
    """

    file: RelativePath  # from the bundle's root
    sha256: Digest
    size: int = Field(ge=0)  # bytes


class DetectorGate(StrictModel):
    """How a detector's int8 graph compared with its fp32 graph, on frames that set no range. Intervals at 95 %, over frames.

    Attributes
    ----------
    engine : str
        Of the engines that judged, the one whose answers agreed least.
    frames : int
        How many frames judged.
    cells : int
        White cells that one of the two graphs found, or both.
    agreement : Interval
        Share of these that both found, at an overlap (IoU) of 0.5.
    min_agreement : float
        The least that is admitted.
    recall_drop_points, precision_drop_points : Interval
        Recall and precision of the fp32 graph on the labelled cells, less those of the int8 graph, in points of 100.
    max_drop_points : float
        The most that is admitted of either.
    """

    engine: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    frames: int = Field(ge=1)
    cells: int = Field(ge=1)
    agreement: Interval
    min_agreement: Share
    recall_drop_points: Interval
    precision_drop_points: Interval
    max_drop_points: float = Field(ge=0)

    @property
    def passed(self) -> bool:
        """Whether all limits hold."""
        drops = self.recall_drop_points.value, self.precision_drop_points.value
        return self.agreement.value >= self.min_agreement and max(drops) <= self.max_drop_points


class DetectorInt8(StrictModel):
    """The int8 graph of a detector.

    Attributes
    ----------
    graph : FileEntry
        The ONNX graph.
    tolerance : float
        The largest difference of a probability in the maps from the trained network's.
    pictures : int
        How many pictures set its ranges.
    gate : DetectorGate
        How it compared with the fp32 graph.
    """

    graph: FileEntry
    tolerance: Share
    pictures: int = Field(ge=1)
    gate: DetectorGate

    @model_validator(mode="after")
    def _has_passed(self) -> Self:
        if not self.gate.passed:
            raise ValueError("the int8 graph of a detector, with a gate result that didn't pass")
        return self


class DetectorEntry(StrictModel):
    """The detector of white cells: uint8 pictures (1, H, W, 3) in, maps (1, 10, H / 8, W / 8) out.

    Attributes
    ----------
    graph : FileEntry
        The ONNX graph.
    golden : FileEntry
        Pictures with the trained network's maps of them, in safetensors.
    tolerance : float
        The largest difference of a probability in the maps from the trained network's.
    pixel_um : float
        Micrometres a pixel of the pictures that it was trained on.
    least_score : float
        What is a white cell by at least this probability counts as found.
    sources : tuple of str
        The data that it was trained on.
    int8 : DetectorInt8 or None
        The same detector in int8.
    """

    graph: FileEntry
    golden: FileEntry
    tolerance: Share
    pixel_um: float = Field(gt=0.02, lt=5)
    least_score: float = Field(gt=0, lt=1)
    sources: tuple[str, ...]
    int8: DetectorInt8 | None = None  # since 1.4

    @property
    def graphs(self) -> dict[Precision, FileEntry]:
        """Its graphs by precision."""
        return {"fp32": self.graph, **({"int8": self.int8.graph} if self.int8 else {})}


class NeighboursEntry(FileEntry):
    """Features of the training's cells, in safetensors: among them those that are most like a cell are found.

    Attributes
    ----------
    graph : str
        SHA-256 of the fused graph whose features they are.
    cells : int
        How many cells, at most 100,000.
    people : int
        Whose cells they are: ids of one person count once.
    features : int
        How many features a cell has.
    """

    graph: Digest
    cells: int = Field(ge=1, le=100_000)
    people: int = Field(ge=1)
    features: int = Field(ge=1, le=10_000)


class GateResult(StrictModel):
    """How an int8 graph compared with the graph that it was made from, on validation cells outside the calibration sample.

    Attributes
    ----------
    engine : str
        Of the engines that judged, the one in which most votes change.
    cells, patients : int
        How many were judged.
    flip_rate : Interval
        Share of cells whose vote changed.
    max_flip_rate : float
        The largest share that may change.
    f1_drop_points : Interval
        Weighted F1 of the parent less that of this graph, in points of 100.
    max_f1_drop_points : float
        How many points may be lost.
    passed : bool
        Whether both limits hold.
    patient_flip_rate : Interval or None
        Share of patients whose call by most of their cells changed; since format 1.1.
    """

    engine: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    cells: int = Field(ge=0)
    patients: int = Field(ge=0)
    flip_rate: Interval
    max_flip_rate: float
    f1_drop_points: Interval
    max_f1_drop_points: float
    passed: bool
    patient_flip_rate: Interval | None = None


class CascadeResult(StrictModel):
    """When the first voter may decide alone, and what that changed on validation cells that had no part in the choice.

    Attributes
    ----------
    first : {'a', 'b'}
        The voter that runs first.
    threshold : float
        It decides where its larger probability, as float32, is at least this; 0.5 to 1.
    precision : {'fp32', 'fp16', 'int8'}
        Of the fused graph that was judged; of no other graph the record says anything.
    engine : str
        Of the engines that judged, the one in which most calls change.
    cells, patients : int
        How many were judged.
    flip_rate : Interval
        Share of cells whose call is not that of all voters.
    flip_rate_upper : float
        Its 95 % upper bound, above 0 also where no call changed.
    max_flip_rate : float
        The largest share that may change.
    patient_flip_rate : Interval
        Share of patients whose call by most of their cells changed.
    skipped : float
        Share of the backbones' work that is not done.
    """

    first: Literal["a", "b"]
    threshold: float = Field(ge=0.5, le=1)
    precision: Precision
    engine: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    cells: int = Field(ge=0)
    patients: int = Field(ge=0)
    flip_rate: Interval
    flip_rate_upper: Share
    max_flip_rate: Share
    patient_flip_rate: Interval
    skipped: Share

    @model_validator(mode="after")
    def _holds_its_bound(self) -> Self:
        if self.flip_rate.value > self.max_flip_rate:
            raise ValueError(
                f"a cascade that flips {self.flip_rate.value:.4f} of the calls, where {self.max_flip_rate:.4f} may"
            )
        return self


class OperatingPoint(StrictModel):
    """A threshold on the vote's score, chosen on validation patients; a cell at or above it is called ALL.

    Attributes
    ----------
    threshold : float
        0 to 1.
    sensitivity_wanted : float
        What was asked for.
    sensitivity, specificity : float
        Both rates on the cells that chose.
    cells : int
        How many these are.
    """

    threshold: float = Field(ge=0, le=1)
    sensitivity_wanted: float = Field(gt=0, le=1)
    sensitivity: float
    specificity: float
    cells: int


class Scores(StrictModel):
    """How the vote did on the validation cells, in one precision. Intervals are at 95 %, over patients.

    Attributes
    ----------
    precision : {'fp32', 'fp16', 'int8'}
        Of the fused graph.
    cells, patients : int
        How many were scored.
    weighted_f1, auroc, sensitivity, specificity : Interval
        0 to 1; ALL is the positive class.
    """

    precision: Precision
    cells: int
    patients: int
    weighted_f1: Interval
    auroc: Interval
    sensitivity: Interval
    specificity: Interval


class Patients(StrictModel):
    """The patients of each part, by their ids. No id stands twice in one part.

    Attributes
    ----------
    training, validation : tuple of str
        Whose cells trained and judged the networks.
    calibration : tuple of str
        Those of the validation patients whose cells set the int8 ranges.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...]
    calibration: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for part, names in self:
            if len(set(names)) != len(names):
                raise ValueError(f"a patient stands twice in {part}")
        return self


class TrainingProvenance(StrictModel):
    """Where the networks come from.

    Attributes
    ----------
    data_sha256 : str or None
        Digest of the data folder, in hex; None: random weights.
    split : {'patient', 'image', 'none'}
        What the parts were split by.
    seed : int
        Of everything random.
    config : dict
        The configuration, as JSON values.
    versions : dict of str to str
        Libraries and their versions.
    patients : Patients
        Who is in which part.
    """

    data_sha256: Digest | None
    split: Literal["patient", "image", "none"]
    seed: int
    config: dict[str, JsonValue]
    versions: dict[str, str]
    patients: Patients

    @model_validator(mode="after")
    def _no_patient_on_both_sides(self) -> Self:
        if self.split == "patient":
            training = set(self.patients.training)
            leaked = training & {*self.patients.validation, *self.patients.calibration}
            if leaked:
                raise ValueError(f"split by patient, yet on both sides: {', '.join(sorted(leaked))}")
        return self


class CalibrationProvenance(StrictModel):
    """Which cells set the int8 ranges, and by which method. The last four are since format 1.1; None: not told.

    Attributes
    ----------
    method : {'minmax', 'entropy', 'percentile'}
        How a range follows from the values.
    cells : tuple of str
        File names.
    cells_sha256 : str
        Digest of these cells, in hex.
    seed : int
        Of the choice of cells.
    versions : dict of str to str
        Libraries and their versions.
    corrected : bool or None
        Whether biases make good what rounding takes on average.
    equalised : bool or None
        Whether the channels of layers in a row were brought to like ranges.
    floats : tuple of str or None
        Nodes of the fused graph that could be int8 and stay fp32.
    int8_share : float or None
        Share that is int8 of the multiply-adds of all layers that can be.
    """

    method: Literal["minmax", "entropy", "percentile"]
    cells: tuple[str, ...]
    cells_sha256: Digest
    seed: int
    versions: dict[str, str]
    corrected: bool | None = None
    equalised: bool | None = None
    floats: tuple[str, ...] | None = None
    int8_share: Share | None = None
