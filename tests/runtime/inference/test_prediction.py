"""What a prediction looks like as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from math import nan

from blastscope.runtime.types import Audit, Prediction, Refusal

AUDIT = Audit("b", "e", "openvino", "CPU", "int8", "int8")


def test_voters_that_were_not_run_are_null() -> None:
    early = Prediction("all", 0.75, 0.75, "b", ((nan, nan), (0.25, 0.75), (nan, nan)), (0, 1, 2, 3), None, AUDIT, True)
    row = json.loads(json.dumps(early.row(), allow_nan=False))
    assert row["decided_early"] is True
    assert row["probabilities"] == {"a": None, "b": {"hem": 0.25, "all": 0.75}, "combined": None}


def test_a_call_of_all_voters_and_a_refusal_were_not_decided_early() -> None:
    full = Prediction("hem", 0.75, 0.25, "a", ((0.75, 0.25),) * 3, (0, 1, 2, 3), None, AUDIT)
    refused = Prediction(None, None, None, None, None, None, Refusal("empty", "nothing"), AUDIT)
    assert [one.row()["decided_early"] for one in (full, refused)] == [False, False]
    assert refused.row()["probabilities"] is None


def test_a_row_has_every_field_of_a_prediction_in_plain_values() -> None:
    called = Prediction("hem", 0.75, 0.25, "a", ((0.75, 0.25),) * 3, (0, 1, 2, 3), None, AUDIT)
    refused = Prediction(None, None, None, None, None, None, Refusal("empty", "nothing"), AUDIT)
    for one in (called, refused):
        row = json.loads(json.dumps(one.row(), allow_nan=False))
        assert {field.name for field in fields(one)} | {"detail"} == set(row)
        assert (row["score"], row["audit"]) == (one.score, asdict(AUDIT))
    assert called.row()["detail"] is None
    assert (refused.row()["refusal"], refused.row()["detail"]) == ("empty", "nothing")
