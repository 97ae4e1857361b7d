"""`SmearCall`: the call on a person, from the calls on the cells of a smear."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from blastscope.runtime.bundle.reader import Bundle
from blastscope.runtime.bundle.uncertainty import SmearModel
from blastscope.runtime.errors import UsageError
from blastscope.runtime.inference.voting import TINY
from blastscope.runtime.types import CLASSES, VOTERS, Audit, ClassName, Prediction, RefusalCode


class SmearRow(TypedDict):
    """A `SmearCall` as plain values, as the command line prints it."""

    label: ClassName | None
    probability: float | None
    low: float | None
    high: float | None
    cells: int
    called_all: int
    refused: dict[str, int]
    detail: str | None


@dataclass(frozen=True, slots=True)
class SmearCall:
    """The call on one person, from the calls on their cells.

    Attributes
    ----------
    label : {'hem', 'all'} or None
        'all' where `probability` is at least 0.5. None with fewer called cells than the bundle asks for.
    probability : float or None
        Probability of ALL, 0 to 1, where half of the people have it, as held-out people showed (`SmearModel`).
    low, high : float or None
        Ends of the 95 % interval: where `probability` would lie for as many other cells of the same person.
    cells : int
        Cells that got a call.
    called_all : int
        Of these, the ones that were called ALL.
    refused : dict of str to int
        Cells without a call, counted by the refusal's code.
    detail : str or None
        Why there is no call; None where there is one.
    audit : Audit or None
        What answered; None where there were no cells at all.

    Examples
    --------
    >>> from blastscope import open_bundle, synthetic_cell
    >>> cells = [synthetic_cell(seed) for seed in range(12)]  # all cells of one smear
    >>> with open_bundle(unlike_training="call") as scope:  # drawn cells are unlike those of the training
    ...     smear = scope.classify_smear(cells)
    >>> smear.cells, smear.label in ("hem", "all"), smear.low <= smear.probability <= smear.high
    (12, True, True)
    """

    label: ClassName | None
    probability: float | None
    low: float | None
    high: float | None
    cells: int  # with a call
    called_all: int  # of them
    refused: dict[RefusalCode, int]  # cells without a call, by reason
    detail: str | None
    audit: Audit | None  # of the cells' predictions; None without cells

    def row(self) -> SmearRow:
        """The call as plain values, which `json.dumps` takes.

        Returns
        -------
        SmearRow
            A dict with the names of the attributes but `audit`.
        """
        return SmearRow(
            label=self.label,
            probability=self.probability,
            low=self.low,
            high=self.high,
            cells=self.cells,
            called_all=self.called_all,
            refused={str(code): count for code, count in self.refused.items()},
            detail=self.detail,
        )


def smear_model(bundle: Bundle) -> SmearModel:
    """The bundle's model of how the cells of a person become a call on the person.

    Parameters
    ----------
    bundle : Bundle
        As `read_bundle` gives it.

    Returns
    -------
    SmearModel

    Raises
    ------
    UsageError
        The bundle has no such model.
    """
    uncertainty = bundle.manifest.uncertainty
    if uncertainty is None or uncertainty.smear is None:
        raise UsageError(
            f"bundle '{bundle.path}' doesn't say how cells become a call on a person: train it with held-out people, or with "
            "the uncertainty.json of a cross validation"
        )
    return uncertainty.smear


def call_smear(predictions: Sequence[Prediction], model: SmearModel) -> SmearCall:
    """The call on the person whose cells got `predictions`.

    Parameters
    ----------
    predictions : sequence of Prediction
        All cells of one person. Those with a refusal are counted and have no part in the call.
    model : SmearModel
        How cells become a call; `smear_model` gives that of a bundle.

    Returns
    -------
    SmearCall
        Without a label where fewer than `model.least_cells` cells have a call.
    """
    called = [prediction for prediction in predictions if prediction.label is not None]
    refused = Counter(prediction.refusal.code for prediction in predictions if prediction.refusal)
    none = SmearCall(
        label=None,
        probability=None,
        low=None,
        high=None,
        cells=len(called),
        called_all=sum(prediction.label == CLASSES[1] for prediction in called),
        refused=dict(refused),
        detail=f"a call on a person needs {model.least_cells} called cells at least, here are {len(called)}",
        audit=predictions[0].audit if predictions else None,
    )
    if len(called) < model.least_cells:
        return none
    mean = math.fsum(map(_margin, called)) / len(called)
    probability = model.probability(mean, len(called))
    low, high = model.interval(mean, len(called))
    label = CLASSES[int(probability >= 0.5)]
    return replace(none, label=label, probability=probability, low=low, high=high, detail=None)


def _margin(prediction: Prediction) -> float:
    """The log of the deciding voter's odds of ALL."""
    assert prediction.probabilities is not None
    assert prediction.voter is not None
    hem, all_ = (max(value, float(TINY)) for value in prediction.probabilities[VOTERS.index(prediction.voter)])
    return math.log(all_ / hem)
