"""Chooses the golden set: crops with both calls, none near a tie, since every engine must call them as PyTorch did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.leads import leads
from blastscope.runtime.bundle.golden import Golden
from blastscope.runtime.classes import CLASSES
from blastscope.runtime.errors import DataError

CLEAR_LEAD = 1.0  # logit units; bf16 moves a margin of a trained ensemble by 0.1 or so, int8 by a few tenths


def choose_golden(crops: NDArray[np.uint8], answers: NDArray[np.float32], *, count: int, seed: int, source: Path) -> Golden:
    """`count` of `crops` (N, S, S, 3) with the networks' `answers` (N, 3, 2), half of each call where there are enough.

    Drawn among the clear half of each call, and not its clearest: probabilities of exactly 1.0 would hide a wrong engine.
    Raises `DataError` on `source` where all cells get one call.
    """
    lead = leads(answers)
    rng = np.random.default_rng([seed, 3])
    sides = [np.flatnonzero(lead < 0), np.flatnonzero(lead >= 0)]
    if not all(len(side) for side in sides):
        only = CLASSES[int(len(sides[1]) > 0)]
        raise DataError(source, f"the ensemble calls all {len(crops)} cells '{only}': a golden set needs both calls")
    wanted = [count // 2, count - count // 2]
    wanted = [max(want, count - len(other)) for want, other in zip(wanted, reversed(sides), strict=True)]
    rows = np.concatenate([_clear(side, lead, want, rng) for side, want in zip(sides, wanted, strict=True)])
    rows.sort()
    return Golden(np.ascontiguousarray(crops[rows]), np.ascontiguousarray(answers[rows]))


def _clear(side: NDArray[np.int64], lead: NDArray[np.float64], want: int, rng: np.random.Generator) -> NDArray[np.int64]:
    by_lead = side[np.argsort(-np.abs(lead[side]), kind="stable")]
    clear = int((np.abs(lead[by_lead]) >= CLEAR_LEAD).sum())
    pool = by_lead[: max(min(clear, (len(side) + 1) // 2), want)]
    return rng.choice(pool, size=min(want, len(pool)), replace=False)
