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
    """One person as the command line prints it."""

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
    """One person's call. Without enough called cells `label`, `probability`, `low` and `high` are None, and `detail` says why.

    `probability` is that of ALL where half of the people have it, as held-out people showed (`SmearModel`); between `low` and
    `high` it would lie, 95 times of 100, for so many other cells of the same person.
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
        """The call as plain JSON values."""
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
    """How the cells of a person become a call. Raises `UsageError` for a bundle that doesn't say it."""
    uncertainty = bundle.manifest.uncertainty
    if uncertainty is None or uncertainty.smear is None:
        raise UsageError(
            f"bundle '{bundle.path}' doesn't say how cells become a call on a person: train it with held-out people, or with "
            "the uncertainty.json of a cross validation"
        )
    return uncertainty.smear


def call_smear(predictions: Sequence[Prediction], model: SmearModel) -> SmearCall:
    """The call on the person whose cells got `predictions`."""
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
        detail=f"{len(called)} cells were called, and a call on a person needs {model.least_cells} at least",
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
