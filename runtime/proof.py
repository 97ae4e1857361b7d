"""That an engine from the cache passed the golden set, remembered beside it, so that the next opening need not run all of it.

A proof holds for these bytes of an engine, this golden set and this tolerance, on this machine: the same code on the same data.
What has no seal, because it was just compiled or is of a library that keeps nothing, is proved at every opening. And every
opening runs one crop at least: a proof can't say that the machine still computes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from blastscope.runtime.backends.protocol import Backend, Engine
from blastscope.runtime.bundle import Golden, GoldenCheck, check_golden
from blastscope.runtime.bundle.atomic import write_file


def prove(backend: Backend, engine: Engine, golden: Golden, tolerance: float, place: Path) -> GoldenCheck:
    """Whether `engine`, which answers as `backend`, repeats `golden`: all of it, or one crop where all passed before."""
    path = _path(engine, golden, tolerance, place)
    if path and path.exists():
        first = check_golden(backend, Golden(golden.crops[:1], golden.probabilities[:1]), tolerance)
        if first.passed:
            return first
    check = check_golden(backend, golden, tolerance)
    if path and check.passed:
        _remember(path)
    return check


def _path(engine: Engine, golden: Golden, tolerance: float, place: Path) -> Path | None:
    if engine.seal is None:
        return None
    parts = (
        engine.digest.encode(),
        engine.seal,
        golden.crops.tobytes(),
        golden.probabilities.tobytes(),
        repr(tolerance).encode(),
    )
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    return place / "engines" / f"{engine.digest}-{digest.hexdigest()[:32]}.proof"


def _remember(path: Path) -> None:
    try:
        write_file(path, Path.touch)
    except OSError:
        return  # it is only a cache
