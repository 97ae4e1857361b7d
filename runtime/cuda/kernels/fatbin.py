"""The compiled crop kernels, verified against the digests of their sources."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, ValidationError

from blastscope.runtime.errors import KernelError, UnavailableError
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.strict_model import StrictModel

FOLDER = Path(__file__).parent
FATBIN = "crop.fatbin"
RECORD = "crop.json"
SOURCE = "crop.cu"
MACHINES = (75, 80, 86, 87, 89, 90, 100, 120)  # compute capabilities, times ten
PTX = 75  # the oldest: every later GPU can translate it
TARGETS = (*(f"sm_{machine}" for machine in MACHINES), f"compute_{PTX}")
OPTIONS = ("-std=c++17", "-fatbin", "-Werror", "all-warnings", "--compress-mode=size", "--threads=2")


class Compiled(StrictModel):
    """What crop.json says: from what, by what and for what crop.fatbin was compiled. Digests are sha256 in hex.

    Attributes
    ----------
    fatbin : str
        Digest of crop.fatbin.
    sources : dict of str to str
        Digest of each source file, by its name.
    nvcc : str
        The compiler's version.
    options : tuple of str
        What it was given.
    targets : tuple of str
        sm_... for machine code, compute_... for the PTX that later GPUs compile.
    """

    fatbin: str
    sources: dict[str, str] = Field(min_length=1)
    nvcc: str
    options: tuple[str, ...]
    targets: tuple[str, ...]


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


def compile_kernels() -> None:
    """Writes crop.fatbin and crop.json. Raises `UnavailableError` without nvcc, `CalledProcessError` where it fails.

    The same sources and the same nvcc give the same bytes, wherever they stand.
    """
    with TemporaryDirectory() as place:
        fatbin = compiled_bytes(Path(place))
    record = Compiled(
        fatbin=bytes_sha256(fatbin),
        sources={path.name: bytes_sha256(path.read_bytes()) for path in sources()},
        nvcc=nvcc_version(),
        options=OPTIONS,
        targets=TARGETS,
    )
    for name, content in ((FATBIN, fatbin), (RECORD, record.model_dump_json(indent=2).encode() + b"\n")):
        fresh = FOLDER / f".{name}.new"
        fresh.write_bytes(content)
        fresh.replace(FOLDER / name)


def compiled_bytes(place: Path) -> bytes:
    """The fatbin, compiled in the folder `place`."""
    codes = [f"arch=compute_{machine},code=sm_{machine}" for machine in MACHINES]
    codes.append(f"arch=compute_{PTX},code=compute_{PTX}")
    out = place / FATBIN
    command = [_nvcc(), *OPTIONS, *(word for code in codes for word in ("-gencode", code)), "-o", str(out), SOURCE]
    subprocess.run(command, cwd=FOLDER, check=True)  # a bare file name: no path of this machine in the code
    return out.read_bytes()


def sources() -> list[Path]:
    """Every file that the fatbin is made of."""
    return [FOLDER / SOURCE, *sorted(FOLDER.glob("*.cuh"))]


def nvcc_version() -> str:
    """The compiler's version, like 13.0.88."""
    told = subprocess.run([_nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bV(\d+\.\d+\.\d+)", told)
    return found[1] if found else "unknown"


def _nvcc() -> str:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise UnavailableError("nvcc is not installed: install CUDA's compiler, version 13.0 or later, and put it on the PATH")
    return nvcc


if __name__ == "__main__":
    compile_kernels()
    sys.stderr.write(f"{FOLDER / FATBIN}: {(FOLDER / FATBIN).stat().st_size} bytes\n")
