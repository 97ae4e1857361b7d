"""The records of a bundle's files in its manifest: `FileEntry`, and `DetectorEntry` with what belongs to the detector's."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

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
    """

    graph: FileEntry
    golden: FileEntry
    tolerance: Share
    pixel_um: float = Field(gt=0.02, lt=5)
    least_score: float = Field(gt=0, lt=1)
    sources: tuple[str, ...]
