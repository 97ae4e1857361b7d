"""The records of a bundle's files in its manifest: `FileEntry`, and `DetectorEntry` with what belongs to the detector's."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from blastscope.runtime.bundle.uncertainty import Interval
from blastscope.runtime.io.strict_model import StrictModel

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
