"""The compiled crop kernels, verified against the digests of their sources."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from blastscope.runtime.errors import KernelError
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.strict_model import StrictModel

FOLDER = Path(__file__).parent
FATBIN = "crop.fatbin"
RECORD = "crop.json"


class Compiled(StrictModel):
    """What crop.json says: from what, by what and for what crop.fatbin was compiled. Digests are sha256 in hex."""

    fatbin: str
    sources: dict[str, str] = Field(min_length=1)  # file name -> digest
    nvcc: str
    options: tuple[str, ...]
    targets: tuple[str, ...]  # sm_... machine code, compute_... PTX for GPUs that come later


def crop_fatbin(folder: Path = FOLDER) -> bytes:
    """The fatbin, for a driver to load: machine code for each GPU architecture that blastscope knows, and PTX for later ones.

    Raises `KernelError` when a file is missing or isn't what crop.json says: kernels whose source may differ are never run.
    """
    compiled = read_record(folder)
    for name, digest in compiled.sources.items():
        if bytes_sha256(_read(folder / name)) != digest:
            raise KernelError(folder / name, f"it is not the source that {FATBIN} was compiled from")
    fatbin = _read(folder / FATBIN)
    if bytes_sha256(fatbin) != compiled.fatbin:
        raise KernelError(folder / FATBIN, f"its digest is not the one in {RECORD}")
    return fatbin


def read_record(folder: Path = FOLDER) -> Compiled:
    """crop.json. Raises `KernelError`."""
    try:
        return Compiled.model_validate_json(_read(folder / RECORD))
    except ValidationError as error:
        raise KernelError(folder / RECORD, "it is not the record of a compilation") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KernelError(path, f"it can't be read ({error.strerror})") from error
