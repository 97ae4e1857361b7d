"""The page, the schema and the code say the same of a manifest."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from blastscope.runtime.bundle import FORMAT, Manifest
from blastscope.runtime.bundle import schema as schema_module
from blastscope.runtime.bundle.manifest_io import parse_manifest
from blastscope.runtime.bundle.schema import SCHEMA_FILE, schema_text
from blastscope.runtime.errors import BundleError

PAGE = SCHEMA_FILE.parent.with_name("FORMAT.md").read_text(encoding="utf-8")
EXAMPLE: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)[0])
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def by_schema(table: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(table))


def by_code(table: dict[str, Any]) -> bool:
    try:
        parse_manifest(json.dumps(table).encode(), Path("c7"))
    except BundleError:
        return False
    return True


def test_the_schema_in_the_repository_is_in_step_with_the_code() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run python -m blastscope.runtime.bundle.schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_command_rewrites_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_module, "SCHEMA_FILE", tmp_path / "bundle.schema.json")
    schema_module.main()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.schema.json"]
    assert (tmp_path / "bundle.schema.json").read_bytes() == SCHEMA_FILE.read_bytes()


def test_the_pages_example_is_a_manifest_and_gives_every_key() -> None:
    assert by_schema(EXAMPLE)
    manifest = Manifest.model_validate_json(json.dumps(EXAMPLE), strict=True)
    assert json.loads(manifest.model_dump_json()) == EXAMPLE


def test_the_page_is_of_this_format() -> None:
    assert PAGE.startswith(f"# The bundle, format {FORMAT}\n")
    assert EXAMPLE["format"] == FORMAT


Change = Callable[[dict[str, Any]], Any]
REFUSED_BY_BOTH: dict[str, Change] = {
    "an unknown key": lambda table: table.update(colour=1),
    "an unknown inner key": lambda table: table["graphs"][0].update(colour=1),
    "no golden set": lambda table: table.pop("golden"),
    "no graph": lambda table: table.update(graphs=[]),
    "a short digest": lambda table: table["golden"].update(sha256="77aa"),
    "a digest in capitals": lambda table: table["golden"].update(sha256="77AA" * 16),
    "a path up": lambda table: table["golden"].update(file="../golden"),
    "no neighbour": lambda table: table["neighbours"].update(cells=0),
    "too many neighbours": lambda table: table["neighbours"].update(cells=100_001),
    "17 crops": lambda table: table["golden"].update(count=17),
    "an unknown precision": lambda table: table["graphs"][0].update(precision="int4"),
    "an unknown execution": lambda table: table["graphs"][0].update(tolerances={"f64": 0.1}),
    "a tolerance over 1": lambda table: table["graphs"][0].update(tolerances={"f32": 1.5}),
    "another tie": lambda table: table["vote"].update(tie=["hem", "a", "b", "combined"]),
    "a local time": lambda table: table.update(created="2026-11-23T01:00:00+02:00"),
    "a string for a number": lambda table: table["crop"].update(side_px="224"),
    "a format in words": lambda table: table.update(format="new"),
}


@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_schema_and_code_refuse_alike(name: str) -> None:
    table = copy.deepcopy(EXAMPLE)
    REFUSED_BY_BOTH[name](table)
    assert (by_schema(table), by_code(table)) == (False, False)


@pytest.mark.parametrize("key", [*EXAMPLE])
def test_schema_and_code_agree_on_which_keys_may_be_left_out(key: str) -> None:
    table = {name: value for name, value in EXAMPLE.items() if name != key}
    if key == "measures_novelty":  # a limit of novelty and neighbours need it, which no schema says
        del table["uncertainty"], table["neighbours"]
    assert by_schema(table) == by_code(table)


# ---- formats


def _former() -> dict[str, Any]:
    """The example as a writer of 1.2 had it."""
    text = json.dumps(EXAMPLE)
    for new, old in {
        '"format": "1.5"': '"format": "1.2"',
        '"gate": "passed"': '"gate": "held"',
        '"models": "ensemble"': '"models": "fused"',
        '"flip_rate"': '"flips"',
        '"max_flip_rate"': '"flips_at_most"',
        '"flip_rate_upper"': '"flips_upper"',
        '"patient_flip_rate"': '"patient_flips"',
        '"f1_drop_points"': '"f1_loss"',
        '"max_f1_drop_points"': '"f1_loss_at_most"',
    }.items():
        assert new in text
        text = text.replace(new, old)
    table: dict[str, Any] = json.loads(text)
    del table["detector"], table["neighbours"]
    return table


def _without_uncertainty() -> dict[str, Any]:
    """The example without what 1.2 brought."""
    table = _former()
    table["format"] = "1.1"
    del table["uncertainty"], table["measures_novelty"], table["card"]
    return table


def _early() -> dict[str, Any]:
    """The example without what 1.1 brought."""
    table = _without_uncertainty()
    table["format"] = "1.0"
    del table["cascade"], table["graphs"][1]["gate"]["patient_flips"]
    for key in ("corrected", "equalised", "floats", "int8_share"):
        del table["calibration"][key]
    return table


def test_a_manifest_of_1_2_says_the_same_under_its_former_names() -> None:
    former, present = (parse_manifest(json.dumps(table).encode(), Path("c7")) for table in (_former(), EXAMPLE))
    late = {"detector": present.detector, "neighbours": present.neighbours}
    assert former.model_copy(update={"format": "1.5", **late}) == present
    assert json.loads(former.json_bytes()) == _former()
    assert json.loads(present.json_bytes()) == EXAMPLE


def test_a_detector_is_no_key_of_1_2_and_its_int8_graph_none_of_1_3() -> None:
    plain = {key: value for key, value in EXAMPLE["detector"].items() if key != "int8"}
    for table in ({**_former(), "detector": plain}, {**_without_neighbours(), "format": "1.3"}):
        with pytest.raises(BundleError, match=rf"a key that format {table['format']} doesn't have: say 1\.5"):
            parse_manifest(json.dumps(table).encode(), Path("c7"))


def _without_neighbours() -> dict[str, Any]:
    """The example without what 1.5 brought."""
    return {key: value for key, value in EXAMPLE.items() if key != "neighbours"} | {"format": "1.4"}


def test_a_manifest_of_1_3_is_written_as_it_was() -> None:
    plain = {key: value for key, value in EXAMPLE["detector"].items() if key != "int8"}
    table = {**_without_neighbours(), "format": "1.3", "detector": plain}
    assert json.loads(parse_manifest(json.dumps(table).encode(), Path("c7")).json_bytes()) == table


def test_a_manifest_of_1_4_is_written_as_it_was_and_has_no_neighbours() -> None:
    table = _without_neighbours()
    assert json.loads(parse_manifest(json.dumps(table).encode(), Path("c7")).json_bytes()) == table
    with pytest.raises(BundleError, match=r"a key that format 1\.4 doesn't have: say 1\.5"):
        parse_manifest(json.dumps({**table, "neighbours": EXAMPLE["neighbours"]}).encode(), Path("c7"))


def _of_another_graph(table: dict[str, Any]) -> None:
    table["neighbours"]["graph"] = "00" * 32


def _without_novelty(table: dict[str, Any]) -> None:
    table["measures_novelty"], table["uncertainty"]["novelty"] = False, None


@pytest.mark.parametrize(
    ("spoil", "why"), [(_of_another_graph, "none of the fused ones"), (_without_novelty, "measure novelty")]
)
def test_neighbours_go_with_a_graph_that_measures_novelty(spoil: Change, why: str) -> None:
    table = copy.deepcopy(EXAMPLE)
    spoil(table)
    with pytest.raises(BundleError, match=why):
        parse_manifest(json.dumps(table).encode(), Path("c7"))


@pytest.mark.parametrize(("key", "value"), [("agreement", 0.96), ("recall_drop_points", 1.1), ("precision_drop_points", 1.1)])
def test_an_int8_detector_whose_gate_fails_is_refused(key: str, value: float) -> None:
    table = json.loads(json.dumps(EXAMPLE))
    table["detector"]["int8"]["gate"][key] = {"value": value, "low": value, "high": value}
    with pytest.raises(BundleError, match="a gate result that didn't pass"):
        parse_manifest(json.dumps(table).encode(), Path("c7"))


def _set(table: dict[str, Any], path: str, value: object) -> None:
    *steps, last = path.split(".")
    for step in steps:
        table = table[int(step)] if step.isdigit() else table[step]  # type: ignore[index]
    table[last] = value


PRESENT_NAMES = {
    "gate": "passed",
    "graphs.0.models": "ensemble",
    "graphs.1.gate.max_f1_drop_points": 0.5,
    "cascade.max_flip_rate": 0.5,
}
FORMER_NAMES = {
    "gate": "held",
    "graphs.0.models": "fused",
    "graphs.1.gate.f1_loss_at_most": 0.5,
    "cascade.flips_at_most": 0.5,
}


@pytest.mark.parametrize("path", PRESENT_NAMES)
def test_a_manifest_of_1_2_has_none_of_the_present_names(path: str) -> None:
    table = _former()
    _set(table, path, PRESENT_NAMES[path])
    with pytest.raises(BundleError, match=r"since format 1\.3, and the manifest says 1\.2"):
        parse_manifest(json.dumps(table).encode(), Path("c7"))


@pytest.mark.parametrize("path", FORMER_NAMES)
def test_a_manifest_of_1_3_has_none_of_the_former_names(path: str) -> None:
    table = copy.deepcopy(EXAMPLE)
    _set(table, path, FORMER_NAMES[path])
    assert (by_schema(table), by_code(table)) == (False, False)


def test_a_manifest_of_1_0_is_read_and_written_with_its_own_keys_alone() -> None:
    manifest = parse_manifest(json.dumps(_early()).encode(), Path("c7"))
    assert manifest.cascade is None
    assert json.loads(manifest.json_bytes()) == _early()


def test_a_manifest_of_1_1_is_read_and_written_with_its_own_keys_alone() -> None:
    manifest = parse_manifest(json.dumps(_without_uncertainty()).encode(), Path("c7"))
    assert manifest.uncertainty is None
    assert json.loads(manifest.json_bytes()) == _without_uncertainty()


@pytest.mark.parametrize("key", ["uncertainty", "measures_novelty", "card"])
def test_what_1_2_brought_is_no_key_of_1_1(key: str) -> None:
    table = {**_without_uncertainty(), key: EXAMPLE[key]}
    with pytest.raises(BundleError, match=r"format 1\.1 doesn't have|don't measure it"):
        parse_manifest(json.dumps(table).encode(), Path("c7"))


@pytest.mark.parametrize("key", ["cascade", "patient_flips", "floats"])
def test_what_1_1_brought_is_no_key_of_1_0(key: str) -> None:
    table = _early()
    if key == "cascade":
        table["cascade"] = _former()["cascade"]
    elif key == "floats":
        table["calibration"][key] = []
    else:
        table["graphs"][1]["gate"][key] = _former()["graphs"][1]["gate"][key]
    with pytest.raises(BundleError, match=r"format 1\.0 doesn't have"):
        parse_manifest(json.dumps(table).encode(), Path("c7"))


def test_a_cascade_needs_the_graph_it_was_judged_on_and_holds_its_bound() -> None:
    other, loose = copy.deepcopy(EXAMPLE), copy.deepcopy(EXAMPLE)
    other["cascade"]["precision"] = "fp16"
    loose["cascade"]["flip_rate"]["value"] = 0.0021
    with pytest.raises(BundleError, match="fused fp16 graph, which isn't there"):
        parse_manifest(json.dumps(other).encode(), Path("c7"))
    with pytest.raises(BundleError, match=r"flips 0\.0021 of the calls"):
        parse_manifest(json.dumps(loose).encode(), Path("c7"))
