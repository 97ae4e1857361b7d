"""95 % intervals by cluster bootstrap: patients are drawn, not cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.errors import UsageError


class Grouping(NamedTuple):
    """Cells by patient.

    Attributes
    ----------
    names : tuple of P str
        The patients, sorted.
    of_cell : (N,) int64 array
        For each cell the index of its patient in `names`.
    """

    names: tuple[str, ...]
    of_cell: NDArray[np.int64]

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of a figure over the cells of each patient.

        Parameters
        ----------
        values : (N,) float64 array
            One figure for each cell.

        Returns
        -------
        (P,) float64 array
        """
        return np.bincount(self.of_cell, weights=values, minlength=len(self.names)).astype(np.float64)

    def people(self, of: Mapping[str, str] | None) -> NDArray[np.int64]:
        """The person of each patient, as an index.

        Parameters
        ----------
        of : mapping of str to str, optional
            The person of a patient. A patient that it doesn't hold is a person of its own.

        Returns
        -------
        (P,) int64 array
        """
        people = [of.get(name, name) for name in self.names] if of else list(self.names)
        return np.unique(np.asarray(people, dtype=np.str_), return_inverse=True)[1].astype(np.int64)

    def classes(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class of each patient.

        Parameters
        ----------
        labels : (N,) int64 array
            Of each cell, 0 hem or 1 all.

        Returns
        -------
        (P,) int64 array

        Raises
        ------
        UsageError
            A patient has cells of both classes.
        """
        malignant = self.total(labels.astype(np.float64))
        mixed = np.flatnonzero((malignant > 0) & (malignant < self.total(np.ones(len(labels)))))
        if len(mixed):
            raise UsageError(f"patient '{self.names[mixed[0]]}' has cells of both classes: a patient is either all or hem")
        return (malignant > 0).astype(np.int64)


def group_rows(patients: Sequence[str]) -> Grouping:
    """The cells grouped by patient.

    Parameters
    ----------
    patients : sequence of N str
        The patient of each cell.

    Returns
    -------
    Grouping
    """
    names, of_cell = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    return Grouping(tuple(names.tolist()), of_cell.astype(np.int64))


def bootstrap_samples(
    strata: NDArray[np.int64], *, draws: int, seed: int, people: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """How often each patient is drawn in each of many bootstrap draws.

    A draw takes, with replacement, as many patients from each stratum as it holds.

    Parameters
    ----------
    strata : (P,) int64 array
        The stratum of each patient. With the classes as strata both are in every draw; AUROC has no value otherwise.
    draws : int
        How many draws, at least 1; 1000 for two steady digits.
    seed : int
        The same seed gives the same draws.
    people : (P,) int64 array, optional
        The person of each patient, where one person has several names: they are then drawn together.

    Returns
    -------
    (draws, P) float64 array

    Raises
    ------
    UsageError
        `draws` is below 1, or the names of one person are in different strata.
    """
    if people is not None:
        _, first, whose = np.unique(people, return_index=True, return_inverse=True)
        if np.any(strata[first][whose] != strata):
            raise UsageError("one person's names are of both classes: a person is either all or hem")
        return bootstrap_samples(strata[first], draws=draws, seed=seed)[:, whose]
    if draws < 1:
        raise UsageError(f"draws is {draws}: an interval needs at least one, and 1000 for two steady digits")
    random = np.random.default_rng(seed)
    weights = np.zeros((draws, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return weights


def bootstrap_interval(value: float | NDArray[np.float64], drawn: NDArray[np.float64]) -> Interval:
    """A figure with its 95 % interval.

    Parameters
    ----------
    value : float
        The figure on all cells.
    drawn : (draws,) float64 array
        The same figure in each draw.

    Returns
    -------
    Interval
        `value`, and the 2.5th and 97.5th percentile of `drawn`.
    """
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value=float(value), low=float(low), high=float(high))
