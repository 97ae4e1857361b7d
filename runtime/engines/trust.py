"""Takes an engine that was built on another machine into the cache, once the user has asked for it and every field fits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from blastscope.runtime.bundle import Bundle
from blastscope.runtime.engines.cache import SIDECAR_LIMIT, Sidecar, engine_lock, engine_path, keep
from blastscope.runtime.engines.fit import gpu_misfit, misfits
from blastscope.runtime.engines.key import EngineKey
from blastscope.runtime.engines.machine import Machine
from blastscope.runtime.errors import DataError, EngineError


class Trusted(NamedTuple):
    """A travelled engine that was taken."""

    path: Path  # its copy in the cache, which is what will run
    sha256: str
    key: EngineKey


def trust_engine(
    file: Path, bundle: Bundle, machine: Machine, cache_dir: Path, *, tell: Callable[[str], None] | None = None
) -> Trusted:
    """Copies the engine `file` into the cache and records its digest as one that this user trusts.

    An engine is code: call this only because the user said so. The bytes must be those that the sidecar beside the file
    describes, and every field of its key must fit `bundle`, the libraries of `machine` and one of its GPUs. Raises `DataError`
    for files that can't be read, `EngineError` with every field that doesn't fit.
    """
    side = _travelled(file)
    data = _bytes(file, side)
    elsewhere = gpu_misfit(side.key, machine)
    problems = [*misfits(side.key, machine, bundle), *([elsewhere] if elsewhere else [])]
    if problems:
        remedy = f"build one here: blastscope build --runtime {side.key.library}"
        raise EngineError(f"engine '{file}' is not taken: {'; '.join(problems)}; {remedy}")
    path = engine_path(cache_dir, side.key)
    with engine_lock(path, tell, None):
        keep(path, data, side, "trusted")
    return Trusted(path, side.sha256, side.key)


def _travelled(file: Path) -> Sidecar:
    beside = file.with_suffix(".json")
    try:
        with beside.open("rb") as stream:
            return Sidecar.model_validate_json(stream.read(SIDECAR_LIMIT), strict=True)
    except OSError as error:
        raise DataError(beside, f"the engine's sidecar can't be read: {(error.strerror or str(error)).lower()}") from error
    except ValidationError as error:
        raise DataError(beside, "is not the sidecar of an engine of this version of blastscope") from error


def _bytes(file: Path, side: Sidecar) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(side.size + 1)
    except OSError as error:
        raise DataError(file, f"the engine can't be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) != side.size or hashlib.sha256(data).hexdigest() != side.sha256:
        raise DataError(file, f"is not the engine that '{file.with_suffix('.json').name}' describes: its bytes differ")
    return data
