"""The call on each patient of a validation, beside what the site's experts labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from blastscope.runtime.bundle.uncertainty import SmearModel
from blastscope.runtime.inference.voting import SmearCall, call_smear
from blastscope.runtime.types import ClassName, Prediction


class PersonRow(NamedTuple):
    """One patient.

    Attributes
    ----------
    patient : str
        As the table of labels names the patient.
    label : {'hem', 'all'} or None
        The label of all the patient's labelled cells; None where they have both, or none.
    call : SmearCall
        The call by all cells that were found in the patient's frames, labelled or not.
    """

    patient: str
    label: ClassName | None
    call: SmearCall

    @property
    def right(self) -> bool | None:
        """Whether the call is the label; None where there is none of either."""
        return None if self.label is None or self.call.label is None else self.call.label == self.label

    def row(self) -> dict[str, Any]:
        """The patient as plain values, which `json.dumps` takes.

        Returns
        -------
        dict
            patient, labelled ('hem', 'all' or None), and the keys of `SmearCall.row`.
        """
        return {"patient": self.patient, "labelled": self.label, **self.call.row()}


def call_people(
    predictions: Mapping[str, Sequence[Prediction]], labels: Mapping[str, set[ClassName]], model: SmearModel
) -> tuple[PersonRow, ...]:
    """The call on each patient.

    Parameters
    ----------
    predictions : mapping of str to sequence of Prediction
        Of each patient's found cells.
    labels : mapping of str to set of {'hem', 'all'}
        The labels that each patient's cells have.
    model : SmearModel
        How cells become a call.

    Returns
    -------
    tuple of PersonRow
        In the order of `predictions`.
    """
    rows = []
    for patient, found in predictions.items():
        of_patient = labels.get(patient, set())
        rows.append(PersonRow(patient, next(iter(of_patient)) if len(of_patient) == 1 else None, call_smear(found, model)))
    return tuple(rows)
