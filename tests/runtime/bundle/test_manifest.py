"""Laws of the manifest: what can't stand in it together."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_manifest import manifest, provenance
from pydantic import ValidationError

from blastscope.runtime.bundle import Bundle, describe_file
from blastscope.runtime.bundle.manifest import GateResult, GraphEntry, Interval, Patients


def gate(*, passed: bool) -> GateResult:
    nothing = Interval(value=0, low=0, high=0)
    return GateResult(
        engine="openvino",
        cells=9,
        patients=2,
        flip_rate=nothing,
        max_flip_rate=0.02,
        f1_drop_points=nothing,
        max_f1_drop_points=0.5,
        passed=passed,
    )


def int8(result: GateResult | None) -> GraphEntry:
    entry = describe_file(b"int8", "int8/ensemble.onnx")
    return GraphEntry(**dict(entry), models="ensemble", precision="int8", tolerances={"int8": 0.1}, gate=result)


def test_an_int8_graph_ships_only_behind_a_passed_or_waived_gate() -> None:
    fp32 = manifest().graphs
    for refused in (None, gate(passed=False)):
        with pytest.raises(ValidationError, match="without a gate result that passed"):
            manifest(graphs=(*fp32, int8(refused)))
        assert manifest(graphs=(*fp32, int8(refused)), gate="waived")
    assert manifest(graphs=(*fp32, int8(gate(passed=True)))).graph("int8")


def test_no_patient_stands_on_both_sides_of_a_split_by_patient() -> None:
    leaky = Patients(training=("57", "H3"), validation=("H3",))
    with pytest.raises(ValidationError, match="on both sides: H3"):
        provenance(split="patient", patients=leaky)
    assert provenance(split="image", patients=leaky)
    with pytest.raises(ValidationError, match="on both sides: 57"):
        provenance(split="patient", patients=Patients(training=("57",), validation=("H3",), calibration=("57",)))
    with pytest.raises(ValidationError, match="a patient stands twice in training"):
        Patients(training=("57", "57"), validation=())


def test_a_bundle_is_a_value() -> None:
    one = Bundle(Path("x"), manifest(), "0" * 64)
    assert one == Bundle(Path("x"), manifest(), "0" * 64)
