"""How the vote does on groups of cells, and what it would do at other shares of ALL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.evaluation.bootstrap import Grouping, bootstrap_interval, bootstrap_samples, group_rows
from blastscope.runtime.io.strict_model import StrictModel

SHARES = (0.5, 0.65)  # of ALL: even, and that of the challenge's preliminary test set
DRAWS = 1000
MOST_WEIGHT = 8.0  # of a cell of a size that is rare in its class

Weights = NDArray[np.float64]


class GroupScore(StrictModel):
    """Of the cells of one group, the share that the vote calls right.

    Attributes
    ----------
    name : str
        Which cells these are.
    cells, people : int
        How many there are, and of how many people.
    right : Interval
        0 to 1.
    """

    name: str
    cells: int
    people: int
    right: Interval


class ShareScore(StrictModel):
    """Weighted F1 at another share of ALL, from the vote's sensitivity and specificity.

    Attributes
    ----------
    all_share : float
        Share of ALL among the cells, 0 to 1.
    weighted_f1 : Interval
        Mean of both classes' F1 by their shares, 0 to 1.
    same_sizes : bool
        Normal cells weighted to the sizes of the malignant ones, so that size tells nothing.
    specificity : Interval or None
        Specificity with these weights; None: as the cells are.
    """

    all_share: float
    weighted_f1: Interval
    same_sizes: bool = False
    specificity: Interval | None = None


def group_scores(
    labels: NDArray[np.int64],
    calls: NDArray[np.int64],
    people: Sequence[str],
    sizes: NDArray[np.float64],
    lightness: NDArray[np.float64],
) -> tuple[GroupScore, ...]:
    """The share of right calls in groups of cells by size and by stain.

    Large and small are told from the median of all cells, stains by thirds of all cells.

    Parameters
    ----------
    labels, calls : (N,) int64 array
        0 hem, 1 all.
    people : sequence of N str
        The person of each cell.
    sizes : (N,) float64 array
        Side of the cell's box in pixels.
    lightness : (N,) float64 array
        Mean gray level of its pixels.

    Returns
    -------
    tuple of GroupScore
    """
    middle = float(np.median(sizes))
    dark, light = np.quantile(lightness, [1 / 3, 2 / 3])
    groups = {
        f"HEM larger than {middle:.0f} px": (labels == 0) & (sizes > middle),
        f"HEM up to {middle:.0f} px": (labels == 0) & (sizes <= middle),
        f"ALL larger than {middle:.0f} px": (labels == 1) & (sizes > middle),
        f"ALL up to {middle:.0f} px": (labels == 1) & (sizes <= middle),
    }
    for label, name in enumerate(("HEM", "ALL")):
        groups[f"{name}, darkest third"] = (labels == label) & (lightness <= dark)
        groups[f"{name}, middle third"] = (labels == label) & (lightness > dark) & (lightness <= light)
        groups[f"{name}, lightest third"] = (labels == label) & (lightness > light)
    cells, weights = _drawn(labels, people)
    found = []
    for name, mask in groups.items():
        total = cells.total(mask.astype(np.float64))
        if total.any():
            right = _ratio(cells.total((mask & (calls == labels)).astype(np.float64)), total, weights)
            found.append(GroupScore(name=name, cells=int(mask.sum()), people=int((total > 0).sum()), right=right))
    return tuple(found)


def share_scores(
    labels: NDArray[np.int64], calls: NDArray[np.int64], people: Sequence[str], shares: Sequence[float] = SHARES
) -> tuple[ShareScore, ...]:
    """Weighted F1 if ALL were another share of the cells.

    Parameters
    ----------
    labels, calls : (N,) int64 array
        0 hem, 1 all.
    people : sequence of N str
        The person of each cell.
    shares : sequence of float
        Shares of ALL, 0 to 1.

    Returns
    -------
    tuple of ShareScore
        One for each share.
    """
    cells, weights = _drawn(labels, people)
    rates = []
    for label in (0, 1):
        mine = (labels == label).astype(np.float64)
        right = mine * (calls == label)
        sums = np.stack([cells.total(right), cells.total(mine)])
        everyone = np.ones((1, len(cells.names)))
        rates.append([(drawn @ sums[0]) / np.maximum(drawn @ sums[1], 1e-12) for drawn in (everyone, weights)])
    found = []
    for share in shares:
        value, drawn = (
            weighted_f1_at_share(share, specificity, sensitivity) for specificity, sensitivity in zip(*rates, strict=True)
        )
        found.append(ShareScore(all_share=share, weighted_f1=bootstrap_interval(float(value[0]), drawn)))
    return tuple(found)


def same_size_score(
    labels: NDArray[np.int64], calls: NDArray[np.int64], people: Sequence[str], sizes: NDArray[np.float64]
) -> ShareScore:
    """Weighted F1 and specificity if HEM cells were as large as ALL cells: what is left where size tells nothing.

    HEM cells weigh by how common their size is among ALL cells against HEM cells, at most `MOST_WEIGHT` times, in ten groups of
    equally many ALL cells.

    Parameters
    ----------
    labels, calls : (N,) int64 array
        0 hem, 1 all.
    people : sequence of N str
        The person of each cell.
    sizes : (N,) float64 array
        Side of the cell's box in pixels.

    Returns
    -------
    ShareScore
        At the last of `SHARES`.
    """
    edges = np.quantile(sizes[labels == 1], np.linspace(0, 1, 11)[1:-1])
    bins = np.searchsorted(edges, sizes)
    shares = [np.bincount(bins[labels == label], minlength=10) / (labels == label).sum() for label in (0, 1)]
    factors = np.where(shares[0] > 0, shares[1] / np.maximum(shares[0], 1e-12), 0).clip(max=MOST_WEIGHT)
    weight = np.where(labels == 0, factors[bins], 1.0)
    cells, weights = _drawn(labels, people)
    everyone = np.ones((1, len(cells.names)))
    rates = []
    for label in (0, 1):
        mine = weight * (labels == label)
        right, total = cells.total(mine * (calls == labels)), cells.total(mine)
        rates.append([(drawn @ right) / np.maximum(drawn @ total, 1e-12) for drawn in (everyone, weights)])
    value, drawn = (
        weighted_f1_at_share(SHARES[-1], specificity, sensitivity) for specificity, sensitivity in zip(*rates, strict=True)
    )
    return ShareScore(
        all_share=SHARES[-1],
        weighted_f1=bootstrap_interval(float(value[0]), drawn),
        same_sizes=True,
        specificity=bootstrap_interval(float(rates[0][0][0]), rates[0][1]),
    )


def weighted_f1_at_share(all_share: float, specificity: Weights, sensitivity: Weights) -> Weights:
    """The mean of both classes' F1 by their shares, of calls with these rates."""
    hem_share = 1 - all_share
    true_all, false_all = all_share * sensitivity, hem_share * (1 - specificity)
    true_hem, false_hem = hem_share * specificity, all_share * (1 - sensitivity)
    f1_all = 2 * true_all / np.maximum(true_all + false_all + all_share, 1e-12)
    f1_hem = 2 * true_hem / np.maximum(true_hem + false_hem + hem_share, 1e-12)
    found: Weights = all_share * f1_all + hem_share * f1_hem
    return found


def _drawn(labels: NDArray[np.int64], people: Sequence[str]) -> tuple[Grouping, Weights]:
    cells = group_rows(people)
    return cells, bootstrap_samples(cells.classes(labels), draws=DRAWS, seed=0)


def _ratio(right: Weights, total: Weights, weights: Weights) -> Interval:
    drawn_total = weights @ total
    drawn = (weights @ right)[drawn_total > 0] / drawn_total[drawn_total > 0]
    return bootstrap_interval(float(right.sum() / total.sum()), drawn)
