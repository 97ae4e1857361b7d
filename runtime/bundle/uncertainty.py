"""How far a bundle's answers can be trusted: `uncertainty` in manifest.json, measured on people who were held out."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from blastscope.runtime.io.strict_model import StrictModel
from blastscope.runtime.types import ClassName

NORMAL_95 = 1.959964  # of a standard normal, two-sided
LEAST, MOST = 1e-6, 1e6  # of margins and their deviations: far beyond what float32 probabilities give


class Interval(StrictModel):
    """A figure with its 95 % interval, from a bootstrap over patients.

    Attributes
    ----------
    value : float
        The figure on all cells.
    low, high : float
        The interval's ends.
    """

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"an interval from {self.low} to {self.high}")
        return self

    def __format__(self, spec: str) -> str:
        """The figure and its interval, each number in the format `spec`: `f"{interval:.3f}"` is '0.873 (0.851 to 0.890)'."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"

    def percent(self) -> str:
        """The figure and its interval in per cent: '1.20 % (0.90 to 1.60)'."""
        return f"{100 * self.value:.2f} % ({100 * self.low:.2f} to {100 * self.high:.2f})"


class PredictionSets(StrictModel):
    """Conformal sets: with a chance of at least `level` a new person's cell has its true class in its set.

    A class is in the set where the vote's probability of it reaches the class's threshold. Held-out cells of that class, each
    person weighing alike, reach the threshold as often as `level` asks. A set can hold one class, both or none.

    Attributes
    ----------
    level : float
        The chance, between 0 and 1.
    hem, all : float
        The least probability of the class with which it is in the set.
    hem_coverage, all_coverage : float
        Share of the held-out cells of the class with it in their set, where thresholds are taken from other people.
    both : float
        Share of the held-out cells with both classes in their set.
    """

    level: float = Field(gt=0, lt=1)
    hem: float = Field(ge=0, le=1)  # least probability of HEM with which HEM is in the set
    all: float = Field(ge=0, le=1)
    hem_coverage: float = Field(ge=0, le=1)  # share of held-out HEM cells with HEM in their set, thresholds from other people
    all_coverage: float = Field(ge=0, le=1)
    both: float = Field(ge=0, le=1)  # share of held-out cells with both classes in their set

    def of(self, score: float) -> tuple[ClassName, ...]:
        """The classes that can't be excluded for a cell.

        Parameters
        ----------
        score : float
            The vote's probability of ALL, 0 to 1.

        Returns
        -------
        tuple of {'hem', 'all'}
            In this order; none, one or both.
        """
        found: list[ClassName] = []
        if 1 - score >= self.hem:
            found.append("hem")
        if score >= self.all:
            found.append("all")
        return tuple(found)


class NoveltyLimit(StrictModel):
    """The distance from the training's cells above which a cell isn't called.

    Attributes
    ----------
    limit : float
        The largest novelty that is called.
    quantile : float
        Share of the held-out cells, each person weighing alike, that lie below it.
    refused : float
        Share that lies above it where the limit is taken from other people.
    """

    limit: float = Field(gt=0)  # of the graph's output `novelty`
    quantile: float = Field(gt=0, lt=1)  # share of held-out people's cells, persons alike, that lie below it
    refused: float = Field(ge=0, le=1)  # share that lies above it where the limit is taken from other people


class SmearModel(StrictModel):
    """How a person's mean margin is distributed: two normal distributions with one spread, for HEM and for ALL.

    A margin is the natural logarithm of the vote's odds of ALL.

    Attributes
    ----------
    hem_mean, all_mean : float
        The means of the two distributions; that of ALL is larger.
    person_deviation, cell_deviation : float
        Standard deviation between persons of one class, and between the cells of one person.
    least_cells : int
        With fewer called cells no call on a person is made.
    people, right : int
        How many held-out people there were, and how many of them the model of the others called right.
    """

    hem_mean: float = Field(ge=-MOST, le=MOST)
    all_mean: float = Field(ge=-MOST, le=MOST)
    person_deviation: float = Field(ge=LEAST, le=MOST)  # between persons of one class
    cell_deviation: float = Field(ge=LEAST, le=MOST)  # between the cells of one person
    least_cells: int = Field(ge=1)  # with fewer no call on a person is made
    people: int = Field(ge=2)
    right: int = Field(ge=0)  # of them, called right by the model of the others

    @model_validator(mode="after")
    def _figures_agree(self) -> Self:
        if self.all_mean <= self.hem_mean:
            raise ValueError("the mean margin of ALL must lie above that of HEM")
        if self.right > self.people:
            raise ValueError(f"{self.right} people called right, of {self.people}")
        return self

    def probability(self, mean: float, cells: int) -> float:
        """The probability that a person has ALL, where half of the people have it.

        It is never nearer to 0 or 1 than `people` persons can show, since one wrong in `people` + 2 is always possible.

        Parameters
        ----------
        mean : float
            The mean margin of the person's called cells.
        cells : int
            How many cells these are.

        Returns
        -------
        float
            0 to 1.
        """
        least = 1 / (self.people + 2)
        return min(max(self._unbounded(mean, cells), least), 1 - least)

    def _unbounded(self, mean: float, cells: int) -> float:
        variance = self.person_deviation**2 + self.cell_deviation**2 / cells
        middle = (self.all_mean + self.hem_mean) / 2
        odds = (self.all_mean - self.hem_mean) * (mean - middle) / variance
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, odds))))

    def interval(self, mean: float, cells: int) -> tuple[float, float]:
        """The probability at both ends of the 95 % interval of the mean margin, which is wide for few cells.

        An end beyond what `people` persons can show is 0 or 1: a probability that was held back there has that much room.

        Parameters
        ----------
        mean : float
            The mean margin of the person's called cells.
        cells : int
            How many cells these are.

        Returns
        -------
        (float, float)
            The lower and the upper end.
        """
        reach = NORMAL_95 * self.cell_deviation / math.sqrt(cells)
        least = 1 / (self.people + 2)
        low, high = self._unbounded(mean - reach, cells), self._unbounded(mean + reach, cells)
        return 0.0 if low < least else min(low, 1 - least), 1.0 if high > 1 - least else max(high, least)


class Uncertainty(StrictModel):
    """What held-out people showed. The networks that judged them were trained by the same recipe on the others.

    Attributes
    ----------
    temperature : float
        By which the margins in every graph of the bundle are divided already.
    calibration_error : float
        Expected calibration error, 0 to 1, each person weighing alike, with temperatures taken from other people.
    sets : PredictionSets
        Which classes can't be excluded for a cell.
    novelty : NoveltyLimit or None
        Above which distance a cell isn't called; None where the graphs don't measure it.
    smear : SmearModel or None
        How cells become a call on a person.
    weighted_f1, auroc, sensitivity, specificity : Interval
        Of the vote on all held-out cells, 0 to 1.
    cells, hem_people, all_people : int
        How many cells, of how many normal people and of how many with ALL.
    """

    temperature: float = Field(gt=0)  # by which the margins in every graph of the bundle are divided
    calibration_error: float = Field(ge=0, le=1)  # expected, persons alike, with temperatures from other people
    sets: PredictionSets
    novelty: NoveltyLimit | None = None  # None: the graphs measure none
    smear: SmearModel | None = None
    weighted_f1: Interval  # of the vote, on all held-out cells
    auroc: Interval
    sensitivity: Interval
    specificity: Interval
    cells: int = Field(ge=1)
    hem_people: int = Field(ge=1)
    all_people: int = Field(ge=1)
