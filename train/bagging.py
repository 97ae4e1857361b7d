"""Bags A and B (section 2.3, Fig. 2), and the order in which an epoch draws from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.train.config import ScheduleConfig

SIZE_BINS = 12
MAX_REPEATS = 6.0  # a rare size is drawn at most so many times as often as it would be


@dataclass(frozen=True, slots=True)
class Bag:
    """The M images of one training set.

    Attributes
    ----------
    cells : (M,) int64 array
        Rows of the cells.
    augmented : (M,) bool array
        Whether the image is augmented, or the cell as it is.
    """

    cells: NDArray[np.int64]  # (M,)
    augmented: NDArray[np.bool_]  # (M,)

    def __len__(self) -> int:
        return len(self.cells)


class Bags(NamedTuple):
    """The two training sets of stage 1.

    Attributes
    ----------
    a, b : Bag
        Those of voter a and of voter b.
    """

    a: Bag
    b: Bag


def make_bags(hem: NDArray[np.int64], malignant: NDArray[np.int64], seed: int) -> Bags:
    """The bags of voters a and b, from the rows of the training part.

    ALL is halved at random into All-A and All-B, which differ by at most one cell.
    A = All-A + augmented All-B + HEM + augmented HEM; B = All-B + augmented All-A + HEM + augmented HEM.

    Parameters
    ----------
    hem, malignant : int64 array
        Rows of the HEM cells, and of the ALL cells.
    seed : int
        The same seed gives the same halves.

    Returns
    -------
    Bags
    """
    shuffled = np.random.default_rng([seed, 2]).permutation(malignant)
    middle = (len(shuffled) + 1) // 2
    all_a, all_b = np.sort(shuffled[:middle]), np.sort(shuffled[middle:])
    return Bags(_bag(all_a, all_b, hem), _bag(all_b, all_a, hem))


def _bag(own: NDArray[np.int64], other: NDArray[np.int64], hem: NDArray[np.int64]) -> Bag:
    parts = ((own, False), (other, True), (hem, False), (hem, True))
    return Bag(np.concatenate([rows for rows, _ in parts]), np.concatenate([np.full(len(rows), flag) for rows, flag in parts]))


def plain_bag(cells: NDArray[np.int64]) -> Bag:
    """The bag of stage 2: every cell once, as it is.

    Parameters
    ----------
    cells : (M,) int64 array
        Rows of the cells.

    Returns
    -------
    Bag
    """
    return Bag(cells, np.zeros(len(cells), np.bool_))


def sampling_probabilities(
    bag: Bag,
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    config: ScheduleConfig,
    *,
    sizes: NDArray[np.float64] | None = None,
    match_sizes: float = 0.0,
) -> NDArray[np.float64] | None:
    """How likely each image of a bag is drawn.

    With `config.balance_patients` an image counts (its patient's images) ^ -balance, so that a patient with many cells doesn't
    rule. `match_sizes` brings the classes' distributions of sizes to each other (`size_factors`). `config.all_share` then sets
    the share of ALL.

    Parameters
    ----------
    bag : Bag
        M images.
    labels : (N,) int64 array
        Of each cell, 0 hem or 1 all.
    patients : (N,) array of str
        The patient of each cell.
    config : ScheduleConfig
        How to weigh.
    sizes : (N,) float64 array, optional
        The size of each cell.
    match_sizes : float
        0 leaves sizes as they are, 1 brings the two distributions together.

    Returns
    -------
    (M,) float64 array, or None
        Sums to 1. None: every image exactly once.
    """
    plain = not config.balance_patients and config.all_share is None and config.images_per_epoch is None
    if plain and not (match_sizes and sizes is not None):
        return None
    malignant = labels[bag.cells] == 1
    _, inverse, counts = np.unique(patients[bag.cells], return_inverse=True, return_counts=True)
    weight = counts[inverse].astype(np.float64) ** -config.balance_patients
    if match_sizes and sizes is not None:
        weight *= size_factors(sizes[bag.cells], malignant, weight) ** match_sizes
    share = malignant.mean() if config.all_share is None else config.all_share
    weight[malignant] *= share / weight[malignant].sum()
    weight[~malignant] *= (1 - share) / weight[~malignant].sum()
    chance: NDArray[np.float64] = weight / weight.sum()
    return chance


def size_factors(
    sizes: NDArray[np.float64], malignant: NDArray[np.bool_], weight: NDArray[np.float64]
) -> NDArray[np.float64]:  # (M,)
    """By what each image's weight is multiplied so that both classes have one distribution of sizes.

    Aimed at is the geometric mean of the two histograms, which is small where one of them is: no class is stretched to sizes
    that it hardly has. No factor is above 6.

    Parameters
    ----------
    sizes : (M,) float64 array
        The size of each image's cell.
    malignant : (M,) bool array
        Whether its label is ALL.
    weight : (M,) float64 array
        Its weight before.

    Returns
    -------
    (M,) float64 array
    """
    edges = np.quantile(sizes, np.linspace(0, 1, SIZE_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, sizes)
    shares = np.stack(
        [np.bincount(bins[side], weight[side], SIZE_BINS) / weight[side].sum() for side in (~malignant, malignant)]
    )
    wanted = np.sqrt(shares.prod(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(shares > 0, wanted / wanted.sum() / shares, 1.0).clip(max=MAX_REPEATS)
    found: NDArray[np.float64] = factors[malignant.astype(np.int64), bins]
    return found


def sample_epoch(
    chance: NDArray[np.float64] | None, size: int, count: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions in a bag in the order of one epoch.

    Drawn by systematic sampling: an image's number of copies is its expected number, rounded down or up, so that equal chances
    and `count` = `size` give every image once.

    Parameters
    ----------
    chance : (size,) float64 array, or None
        How likely each image is drawn, summing to 1. None: every image once, in random order.
    size : int
        Images in the bag.
    count : int or None
        Images in the epoch; None for `size`. Without `chance` it has no effect.
    rng : numpy.random.Generator
        The source of chance.

    Returns
    -------
    (count,) int64 array
        (size,) without `chance`.
    """
    order: NDArray[np.int64] = rng.permutation(size)
    if chance is None:
        return order
    count = count or size
    points = (np.arange(count) + rng.random()) / count
    drawn = np.searchsorted(np.cumsum(chance[order]), points).clip(max=size - 1)
    epoch: NDArray[np.int64] = order[rng.permutation(drawn)]
    return epoch
