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

FirstVoter = Literal["a", "b"]
FIRST_VOTERS: tuple[FirstVoter, ...] = ("a", "b")
NEVER = 2.0  # above every probability
CONFIDENCE = 0.95


class FirstVoterCalls(NamedTuple):
    """The calls of a first voter alone.

    Attributes
    ----------
    largest : (N,) float32 array
        Its larger probability.
    pairs : (N, 2) float32 array
        Its probabilities of hem and all.
    call : (N,) int32 array
        Class index of its call.
    flips : (N,) bool array
        Whether that is not the call of all voters.
    """

    largest: NDArray[np.float32]
    pairs: NDArray[np.float32]
    call: NDArray[np.int32]
    flips: NDArray[np.bool_]


class ThresholdChoice(NamedTuple):
    """A first voter with its threshold.

    Attributes
    ----------
    first : {'a', 'b'}
        The voter.
    threshold : float
        It decides where its larger probability is at least this.
    skipped : float
        Share of the work that is not done so, on the cells that chose.
    """

    first: FirstVoter
    threshold: float
    skipped: float


@dataclass(frozen=True, slots=True)
class CascadeOutcome:
    """A cascade's calls of cells that had no part in its choice, in one engine.

    Attributes
    ----------
    engine : str
        The backend's name.
    call, full : (N,) int32 array
        Class indices: the cascade's calls, and those of all voters.
    early : (N,) bool array
        Whether the first voter decided.
    skipped : float
        Share of the work that was not done.
    """

    engine: str
    call: NDArray[np.int32]
    full: NDArray[np.int32]
    early: NDArray[np.bool_]
    skipped: float

    @property
    def flip_rate(self) -> float:
        """Share of cells that are called otherwise."""
        return float(np.mean(self.call != self.full))


@dataclass(frozen=True, slots=True)
class EnginePredictions:
    """The same cells' probabilities in each engine, and what each first voter costs.

    Attributes
    ----------
    probabilities : mapping of str to (N, 3, 2) float32 array
        By engine: of each cell, voter and class.
    patients : sequence of N str
        Whose cells they are.
    shares : mapping of str to float
        Work of each first voter, 'a' and 'b', as a share of the whole network's.
    threshold : float or None
        Of the bundle's operating point.
    """

    probabilities: Mapping[str, NDArray[np.float32]]
    patients: Sequence[str]
    shares: Mapping[FirstVoter, float]
    threshold: float | None = None

    def first_voter_calls(self, engine: str, first: FirstVoter) -> FirstVoterCalls:
        """The calls of `first` alone in `engine`."""
        answers = self.probabilities[engine]
        alone = np.full_like(answers, np.nan)
        place = VOTERS.index(first)
        alone[:, place] = answers[:, place]
        call = vote(alone, self.threshold, partial=True).label
        # a softmax may round past 1, and no threshold lies there
        return FirstVoterCalls(
            np.minimum(answers[:, place].max(axis=1), np.float32(1)), answers[:, place], call, call != self.full(engine)
        )

    def full(self, engine: str) -> NDArray[np.int32]:
        """The calls of all voters."""
        return vote(self.probabilities[engine], self.threshold).label


def choose_threshold(
    engines: EnginePredictions, max_flip_rate: float, *, firsts: Sequence[FirstVoter] = FIRST_VOTERS
) -> ThresholdChoice | None:
    """The first voter that saves most work while few enough calls change in every engine.

    Parameters
    ----------
    engines : EnginePredictions
        What every engine says of the cells that choose.
    max_flip_rate : float
        Share of the calls that may change.
    firsts : sequence of {'a', 'b'}
        Voters that may be the first.

    Returns
    -------
    ThresholdChoice or None
        None where none may decide any cell.
    """
    table = {(engine, first): engines.first_voter_calls(engine, first) for engine in engines.probabilities for first in firsts}
    everyone = np.ones(len(engines.patients), bool)
    return _choose_threshold(table, everyone, engines.shares, max_flip_rate)


def evaluate_left_out(
    engines: EnginePredictions, max_flip_rate: float, *, firsts: Sequence[FirstVoter] = FIRST_VOTERS
) -> tuple[CascadeOutcome, ...]:
    """What the choice of all other patients does to each patient's cells.

    Parameters
    ----------
    engines : EnginePredictions
        What every engine says of all cells.
    max_flip_rate : float
        Share of the calls that may change.
    firsts : sequence of {'a', 'b'}
        Voters that may be the first.

    Returns
    -------
    tuple of CascadeOutcome
        One for each engine.
    """
    names = np.asarray(engines.patients)
    table = {(engine, first): engines.first_voter_calls(engine, first) for engine in engines.probabilities for first in firsts}
    calls = {engine: engines.full(engine).copy() for engine in engines.probabilities}
    early = {engine: np.zeros(len(names), bool) for engine in engines.probabilities}
    saved = dict.fromkeys(engines.probabilities, 0.0)
    for name in np.unique(names):
        out = names == name
        chosen = _choose_threshold(table, ~out, engines.shares, max_flip_rate)
        if chosen is None:
            continue
        for engine in engines.probabilities:
            calls_alone = table[engine, chosen.first]
            sure = out & first_voter_decides(calls_alone.pairs, chosen.threshold)
            calls[engine][sure] = calls_alone.call[sure]
            early[engine] |= sure
            saved[engine] += int(sure.sum()) * (1 - engines.shares[chosen.first])
    return tuple(
        CascadeOutcome(engine, calls[engine], engines.full(engine), early[engine], saved[engine] / len(names))
        for engine in engines.probabilities
    )


def _choose_threshold(
    table: Mapping[tuple[str, FirstVoter], FirstVoterCalls],
    rows: NDArray[np.bool_],
    shares: Mapping[FirstVoter, float],
    bound: float,
) -> ThresholdChoice | None:
    allowed = max_flips(int(rows.sum()), bound)
    best: ThresholdChoice | None = None
    for first in dict.fromkeys(first for _, first in table):
        alone = [calls for (_, voter), calls in table.items() if voter == first]
        threshold = max(smallest_threshold(one.largest[rows], one.flips[rows], allowed) for one in alone)
        decided = min(float(np.mean(one.largest[rows] >= np.float32(threshold))) for one in alone)
        skipped = decided * (1 - shares[first])
        if skipped > (best.skipped if best else 0):
            best = ThresholdChoice(first, threshold, skipped)
    return best


def smallest_threshold(largest: NDArray[np.float32], flips: NDArray[np.bool_], allowed: int) -> float:
    """The smallest threshold by which few enough cells flip.

    Parameters
    ----------
    largest : (N,) float32 array
        The first voter's larger probability of each cell.
    flips : (N,) bool array
        Whether its call is not that of all voters.
    allowed : int
        How many cells may flip.

    Returns
    -------
    float
        One of `largest`; `NEVER` where none will do.
    """
    order = np.argsort(-largest, kind="stable")
    falling, changed = largest[order], np.cumsum(flips[order])
    last = np.append(falling[1:] != falling[:-1], True) if len(falling) else np.zeros(0, bool)  # equal values go together
    fine = np.flatnonzero(last & (changed <= allowed))
    return float(falling[fine[-1]]) if len(fine) else NEVER


def max_flips(cells: int, bound: float) -> int:
    """The most flips of `cells` whose share is under `bound` with 95 % confidence, and 0 where there are too few cells."""
    fine = 0
    for count, chance in enumerate(_binomial_cdf(cells, bound)):
        if chance > 1 - CONFIDENCE:
            break
        fine = count
    return fine


def clopper_pearson_upper(count: int, cells: int) -> float:
    """The largest share at which `count` of `cells` or fewer still come up in 5 % of cases (Clopper and Pearson 1934)."""
    if count >= cells:
        return 1.0
    low, high = count / cells, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        chance = next(islice(_binomial_cdf(cells, middle), count, None))
        low, high = (middle, high) if chance > 1 - CONFIDENCE else (low, middle)
    return high


def _binomial_cdf(cells: int, share: float) -> Iterator[float]:
    """The chance that no more than 0, 1, 2 ... of `cells` come up, each with the chance `share`, below 1."""
    total = 0.0
    for count in range(cells + 1):
        ways = lgamma(cells + 1) - lgamma(count + 1) - lgamma(cells - count + 1)
        total += exp(ways + (count * log(share) if count else 0.0) + (cells - count) * log1p(-share))
        yield total
        if share == 0:  # log(0)
            return
