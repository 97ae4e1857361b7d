"""Chooses the first voter and the threshold from which it decides alone, and judges that choice on patients left out of it.

As the threshold falls more cells are decided early and more calls change, so for each first voter there is one smallest
threshold within the bound. Chosen cells flatter: of those that take no part, about twice as many flip. So the choice is held to
the upper 95 % bound of its flips (Clopper and Pearson's, exact), or to no flip at all where the cells are too few for that; the
judgement is held to the bound itself. Judged is by leaving each patient out in turn: its cells are called with the voter and
threshold that all others choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp, lgamma, log, log1p
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.protocol import first_voter_decides
from blastscope.runtime.inference.voting import vote
from blastscope.runtime.types import VOTERS

First = Literal["a", "b"]
FIRSTS: tuple[First, ...] = ("a", "b")
NEVER = 2.0  # above every probability
CONFIDENCE = 0.95


class Opinion(NamedTuple):
    """What a first voter says alone."""

    largest: NDArray[np.float32]  # (N,) its larger probability
    pairs: NDArray[np.float32]  # (N, 2)
    call: NDArray[np.int32]  # (N,)
    flips: NDArray[np.bool_]  # (N,) whether that is not the call of all voters


class Choice(NamedTuple):
    """A first voter with its threshold, and the share of the work that is not done so on the cells that chose."""

    first: First
    threshold: float
    skipped: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What a cascade did to cells that had no part in its choice, in one engine."""

    engine: str
    call: NDArray[np.int32]  # (N,) the cascade's
    full: NDArray[np.int32]  # (N,) of all voters
    early: NDArray[np.bool_]  # (N,)
    skipped: float

    @property
    def flips(self) -> float:
        """Share of cells that are called otherwise."""
        return float(np.mean(self.call != self.full))


@dataclass(frozen=True, slots=True)
class Candidates:
    """The same cells as each engine answers them, and the work that each first voter costs as a share of the whole."""

    answers: Mapping[str, NDArray[np.float32]]  # engine -> (N, 3, 2)
    patients: Sequence[str]
    shares: Mapping[First, float]
    threshold: float | None = None  # of the bundle's operating point

    def opinion(self, engine: str, first: First) -> Opinion:
        """What `first` says alone in `engine`."""
        told = self.answers[engine]
        alone = np.full_like(told, np.nan)
        place = VOTERS.index(first)
        alone[:, place] = told[:, place]
        call = vote(alone, self.threshold, partial=True).label
        # a softmax may round past 1, and no threshold lies there
        return Opinion(np.minimum(told[:, place].max(axis=1), np.float32(1)), told[:, place], call, call != self.full(engine))

    def full(self, engine: str) -> NDArray[np.int32]:
        """The calls of all voters."""
        return vote(self.answers[engine], self.threshold).label


def choose(candidates: Candidates, flips_at_most: float, *, firsts: Sequence[First] = FIRSTS) -> Choice | None:
    """The first voter that saves most work within the bound in every engine; None where none may decide any cell."""
    table = {(engine, first): candidates.opinion(engine, first) for engine in candidates.answers for first in firsts}
    everyone = np.ones(len(candidates.patients), bool)
    return _choose(table, everyone, candidates.shares, flips_at_most)


def judge_left_out(candidates: Candidates, flips_at_most: float, *, firsts: Sequence[First] = FIRSTS) -> tuple[Judged, ...]:
    """What the choice of all other patients does to each patient's cells, one result an engine."""
    names = np.asarray(candidates.patients)
    table = {(engine, first): candidates.opinion(engine, first) for engine in candidates.answers for first in firsts}
    calls = {engine: candidates.full(engine).copy() for engine in candidates.answers}
    early = {engine: np.zeros(len(names), bool) for engine in candidates.answers}
    saved = dict.fromkeys(candidates.answers, 0.0)
    for name in np.unique(names):
        out = names == name
        chosen = _choose(table, ~out, candidates.shares, flips_at_most)
        if chosen is None:
            continue
        for engine in candidates.answers:
            opinion = table[engine, chosen.first]
            sure = out & first_voter_decides(opinion.pairs, chosen.threshold)
            calls[engine][sure] = opinion.call[sure]
            early[engine] |= sure
            saved[engine] += int(sure.sum()) * (1 - candidates.shares[chosen.first])
    return tuple(
        Judged(engine, calls[engine], candidates.full(engine), early[engine], saved[engine] / len(names))
        for engine in candidates.answers
    )


def _choose(
    table: Mapping[tuple[str, First], Opinion], rows: NDArray[np.bool_], shares: Mapping[First, float], bound: float
) -> Choice | None:
    allowed = flips_allowed(int(rows.sum()), bound)
    best: Choice | None = None
    for first in dict.fromkeys(first for _, first in table):
        opinions = [opinion for (_, voter), opinion in table.items() if voter == first]
        threshold = max(smallest_threshold(one.largest[rows], one.flips[rows], allowed) for one in opinions)
        decided = min(float(np.mean(one.largest[rows] >= np.float32(threshold))) for one in opinions)
        skipped = decided * (1 - shares[first])
        if skipped > (best.skipped if best else 0):
            best = Choice(first, threshold, skipped)
    return best


def smallest_threshold(largest: NDArray[np.float32], flips: NDArray[np.bool_], allowed: int) -> float:
    """The smallest of the values `largest` (N,) from which on at most `allowed` cells flip; `NEVER` where none will do."""
    order = np.argsort(-largest, kind="stable")
    falling, changed = largest[order], np.cumsum(flips[order])
    last = np.append(falling[1:] != falling[:-1], True) if len(falling) else np.zeros(0, bool)  # equal values go together
    fine = np.flatnonzero(last & (changed <= allowed))
    return float(falling[fine[-1]]) if len(fine) else NEVER


def flips_allowed(cells: int, bound: float) -> int:
    """The most flips of `cells` whose share is under `bound` with 95 % confidence, and 0 where there are too few cells."""
    fine = 0
    for count, chance in enumerate(_at_most(cells, bound)):
        if chance > 1 - CONFIDENCE:
            break
        fine = count
    return fine


def upper_share(count: int, cells: int) -> float:
    """The largest share at which `count` of `cells` or fewer still come up in 5 % of cases (Clopper and Pearson 1934)."""
    if count >= cells:
        return 1.0
    low, high = count / cells, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        chance = next(islice(_at_most(cells, middle), count, None))
        low, high = (middle, high) if chance > 1 - CONFIDENCE else (low, middle)
    return high


def _at_most(cells: int, share: float) -> Iterator[float]:
    """The chance that no more than 0, 1, 2 ... of `cells` come up, each with the chance `share`, below 1."""
    total = 0.0
    for count in range(cells + 1):
        ways = lgamma(cells + 1) - lgamma(count + 1) - lgamma(cells - count + 1)
        total += exp(ways + (count * log(share) if count else 0.0) + (cells - count) * log1p(-share))
        yield total
        if share == 0:  # log(0)
            return
