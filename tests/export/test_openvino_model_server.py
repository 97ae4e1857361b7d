"""The model repository for OpenVINO Model Server: its configuration, and its graph run as the server would run it."""

from __future__ import annotations

import json
from ast import literal_eval
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from typer.testing import CliRunner

import blastscope
from blastscope.cli import app
from blastscope.export.model_repositories import write_openvino_repository
from blastscope.runtime.bundle import Bundle, read_bundle
from blastscope.runtime.errors import DataError, UngatedBundle, UsageError
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.types import Precision

# by the server's own schema of config.json; a key that it doesn't know makes it refuse the file
KNOWN = {"name": str, "base_path": str, "shape": (dict, str), "target_device": str, "plugin_config": dict}


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return read_bundle(blastscope.SHIPPED_BUNDLE)


def read_model(out: Path) -> dict[str, Any]:
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert set(config) == {"model_config_list"}
    (entry,) = config["model_config_list"]
    assert set(entry) == {"config"}
    found: dict[str, Any] = entry["config"]
    assert all(isinstance(value, KNOWN[key]) for key, value in found.items())  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_server_computes_what_the_runtime_computes(shipped: Bundle, tmp_path: Path, precision: Precision) -> None:
    write_openvino_repository(shipped, tmp_path, precision=precision)
    config = read_model(tmp_path)
    core = openvino.Core()
    model = core.read_model(tmp_path / config["base_path"] / "1" / "model.onnx")
    model.reshape({name: openvino.PartialShape(list(literal_eval(shape))) for name, shape in config["shape"].items()})
    network = core.compile_model(model, config["target_device"], config["plugin_config"])
    assert network.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    side = shipped.manifest.crop.side_px
    crops = np.random.default_rng(3).integers(0, 256, (3, side, side, 3), np.uint8)
    chosen: dict[str, Any] = {"precision": precision, "execution": "int8" if precision == "int8" else "f32"}
    for count in (1, 3):
        found = {output.any_name: value for output, value in network({"crops": crops[:count]}).items()}
        with blastscope.open_bundle(device="cpu", backend="openvino", layout="fused", **chosen) as scope:
            entry = shipped.manifest.graph(precision)
            assert entry is not None
            tolerance = 1e-4 if precision != "int8" else entry.tolerances["int8"]
            expected = scope.lanes.infer(crops[:count])
        np.testing.assert_allclose(found["probabilities"].reshape(-1), expected[:, :3].reshape(-1), atol=tolerance)
        assert found["label"].shape == (count,)


def test_the_folder_is_as_the_server_wants_it_and_tells_how_to_crop(shipped: Bundle, tmp_path: Path) -> None:
    place = write_openvino_repository(shipped, tmp_path, model="cells-v2")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "cells-v2/1/model.onnx",
        "cells-v2/bundle.json",
        "config.json",
    ]
    assert (place, read_model(tmp_path)["base_path"]) == (tmp_path / "cells-v2", "cells-v2")
    facts = json.loads((place / "bundle.json").read_text(encoding="utf-8"))
    assert json.loads(facts["crop"]) == shipped.manifest.crop.model_dump(mode="json")
    assert (facts["bundle"], facts["graph"]) == (shipped.digest, file_sha256(place / "1" / "model.onnx"))
    assert facts["precision"] == "fp16"


def test_other_models_of_the_repository_stay(shipped: Bundle, tmp_path: Path) -> None:
    other = {"config": {"name": "other", "base_path": "gs://somewhere/other", "nireq": 4}}
    config = {"model_config_list": [other], "pipeline_config_list": []}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for _ in range(2):  # the second time it takes its own place
        write_openvino_repository(shipped, tmp_path)
    found = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert found["pipeline_config_list"] == []
    assert found["model_config_list"][0] == other
    assert [one["config"]["name"] for one in found["model_config_list"]] == ["other", "crops"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_config_list": [3]}', '{"model_config_list": {"config": {}}}'])
def test_what_is_no_configuration_is_left_alone(shipped: Bundle, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"config\.json': is no"):
        write_openvino_repository(shipped, tmp_path)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == content
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_names_and_bundles_that_are_not_served_are_refused(shipped: Bundle, tmp_path: Path) -> None:
    for name in ("", "..", ".hidden", "a/b"):
        with pytest.raises(UsageError, match="model name"):
            write_openvino_repository(shipped, tmp_path, model=name)
    waived = Bundle(shipped.path, shipped.manifest.model_copy(update={"gate": "waived"}), shipped.digest)
    with pytest.raises(UngatedBundle):
        write_openvino_repository(waived, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_verb_writes_it_beside_tritons(tiny_bundle: Any, tmp_path: Path) -> None:
    words = ["export", str(tiny_bundle.make("fp32")), "--ovms", str(tmp_path / "ovms"), "--precision", "fp32"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'ovms' / 'crops'}\n")
    done = CliRunner().invoke(app, [*words, "--triton", str(tmp_path / "triton"), "--json"])
    told = [json.loads(line)["model"] for line in done.stdout.splitlines()]
    assert told == [str(tmp_path / "triton" / "crops"), str(tmp_path / "ovms" / "crops")]
