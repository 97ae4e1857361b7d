"""95 % intervals by cluster bootstrap: patients are drawn, not cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.bundle.manifest import Interval
from blastscope.runtime.errors import UsageError


class Grouping(NamedTuple):
    """Cells by patient: the patients' names in order, and for each cell (N,) the index of its own."""

    names: tuple[str, ...]
    of_cell: NDArray[np.int64]

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of `values` (N,) over the cells of each patient, (P,)."""
        return np.bincount(self.of_cell, weights=values, minlength=len(self.names)).astype(np.float64)

    def people(self, of: Mapping[str, str] | None) -> NDArray[np.int64]:
        """The index of each patient's person, (P,); a name that `of` doesn't hold is a person of its own."""
        people = [of.get(name, name) for name in self.names] if of else list(self.names)
        return np.unique(np.asarray(people, dtype=np.str_), return_inverse=True)[1].astype(np.int64)

    def classes(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class of each patient, (P,). Raises `UsageError` where one patient has cells of both."""
        malignant = self.total(labels.astype(np.float64))
        mixed = np.flatnonzero((malignant > 0) & (malignant < self.total(np.ones(len(labels)))))
        if len(mixed):
            raise UsageError(f"patient '{self.names[mixed[0]]}' has cells of both classes: a patient is either all or hem")
        return (malignant > 0).astype(np.int64)


def group_rows(patients: Sequence[str]) -> Grouping:
    """The cells' patients, one name a cell, as a grouping."""
    names, of_cell = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    return Grouping(tuple(names.tolist()), of_cell.astype(np.int64))


def bootstrap_samples(
    strata: NDArray[np.int64], *, draws: int, seed: int, people: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """How often each patient is drawn, (draws, P), when as many are drawn from each stratum as it holds, with replacement.

    `strata` (P,) are the patients' classes: drawing within a class keeps both in every draw, else AUROC has no value in some.
    `people` (P,) says whose names these are where one person has several: they are then drawn together. Raises `UsageError`
    where the names of one person are of both classes.
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
    """`value` between the 2.5th and 97.5th percentile of its values `drawn` (draws,)."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value=float(value), low=float(low), high=float(high))
