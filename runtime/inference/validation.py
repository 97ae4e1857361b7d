"""Validates an engine on the golden set, and caches that it passed.

A proof holds for these bytes of an engine, this golden set and this tolerance, on this machine: the same code on the same data.
What has no digest, because it was just compiled or is of a library that keeps nothing, is proved at every opening. And every
opening runs one crop at least: a proof can't say that the machine still computes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blastscope.runtime.backends.protocol import Backend, Engine
from blastscope.runtime.bundle import Golden
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.own_files import Unusable, make_private_folder, read_own
from blastscope.runtime.types import CLASSES, VOTERS

LEAST_NOVELTY = 0.1  # a tenth of what a training cell has
NOVELTY_SHARE = 0.25  # int8 moves it by some hundredths; a graph that measures something else by far more


def validate_engine(backend: Backend, engine: Engine, golden: Golden, tolerance: float, place: Path) -> GoldenCheck:
    """Whether an engine repeats the golden set: all of it, or one crop of it where all passed before.

    Parameters
    ----------
    backend : Backend
        What answers.
    engine : Engine
        What it belongs to.
    golden : Golden
        The trained networks' answers.
    tolerance : float
        The largest difference of a probability that may be.
    place : Path
        Where the proof of a pass is kept.

    Returns
    -------
    GoldenCheck
    """
    path = _path(engine, golden, tolerance, place)
    if path and _is_proved(path):
        first = check_golden(backend, first_of(golden), tolerance)
        if first.passed:
            return first
    check = check_golden(backend, golden, tolerance)
    if path and check.passed:
        _remember(path)
    return check


def first_of(golden: Golden) -> Golden:
    """A golden set of its first crop alone."""
    return Golden(golden.crops[:1], golden.probabilities[:1], None if golden.novelty is None else golden.novelty[:1])


def _path(engine: Engine, golden: Golden, tolerance: float, place: Path) -> Path | None:
    if engine.content_sha256 is None:
        return None
    parts = (
        engine.digest.encode(),
        engine.content_sha256,
        golden.crops.tobytes(),
        golden.probabilities.tobytes(),
        b"" if golden.novelty is None else golden.novelty.tobytes(),
        repr(tolerance).encode(),
    )
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    return place / "engines" / f"{engine.digest}-{digest.hexdigest()[:32]}.proof"


def _is_proved(path: Path) -> bool:
    try:
        read_own(path, 0)
    except Unusable:  # there is none, or somebody else could have put it there
        return False
    return True


def _remember(path: Path) -> None:
    try:
        make_private_folder(path.parent)
        write_content(path, b"", private=True)
    except OSError:
        return  # it is only a cache


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """How an engine's answers compare with the golden set's.

    Attributes
    ----------
    difference : float
        Largest absolute difference of a probability; infinite where the answers are no probabilities.
    flips : int
        Crops whose call changed.
    passed : bool
        Whether the difference is within the tolerance and no call changed.
    novelty : float
        Largest difference of a novelty, as a share of its value.
    """

    difference: float
    flips: int
    passed: bool
    novelty: float = 0.0


def check_golden(backend: Backend, golden: Golden, tolerance: float) -> GoldenCheck:
    """Runs the golden crops through a backend.

    Parameters
    ----------
    backend : Backend
        What answers.
    golden : Golden
        The trained networks' answers.
    tolerance : float
        The largest difference of a probability that may be.

    Returns
    -------
    GoldenCheck
        Passed: no probability differs by more, no call changed, and no novelty differs by more than `NOVELTY_SHARE` of its
        value.
    """
    raw = np.array(backend.infer(golden.crops), dtype=np.float32)  # a copy: the backend may use its buffer again
    answers = raw[:, : len(VOTERS)]
    rows = len(VOTERS) + (golden.novelty is not None)
    if raw.shape != (len(golden.crops), rows, len(CLASSES)) or not np.isfinite(raw).all():
        return GoldenCheck(math.inf, len(golden.crops), passed=False)
    novelty = 0.0
    if golden.novelty is not None:
        novelty = float((np.abs(raw[:, -1, 0] - golden.novelty) / np.maximum(golden.novelty, LEAST_NOVELTY)).max())
    difference = float(np.abs(answers.astype(np.float64) - golden.probabilities).max())
    flips = int((vote(answers).label != vote(golden.probabilities).label).sum())
    passed = difference <= tolerance and flips == 0 and novelty <= NOVELTY_SHARE
    return GoldenCheck(difference, flips, passed, novelty)
