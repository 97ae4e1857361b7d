"""The names of TensorRT that builder and runner use exist in its versions 10.3, 10.16 and 11.4, and in TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_names", Path(__file__).parent / "api_names.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()
TABLE: list[dict[str, Any]] = json.loads(SCRIPT.TABLE.read_text(encoding="utf-8"))
FILES = sorted(SCRIPT.RECEIVERS)

# Used without a `hasattr` of their own: the name that is asked for before, in the same file.
BEHIND = {
    "num_compute_capabilities": "ComputeCapability",
    "set_compute_capability": "ComputeCapability",
    "deserialize": "create_runtime_cache",
    "set_runtime_cache": "create_runtime_cache",
    "serialize": "create_runtime_cache",
    "set_execution_context_allocation_strategy": "create_runtime_config",
}


def required(file: str) -> set[str]:
    asked = SCRIPT.guards(file)
    return {name for name, _ in SCRIPT.used_names(file) if name not in asked and BEHIND.get(name) not in asked}


def test_the_table_is_of_the_versions_that_are_promised() -> None:
    assert [".".join(row["version"].split(".")[:2]) for row in TABLE] == ["10.3", "10.16", "11.4"]
    assert all(len(row["sha256"]) == 64 for row in TABLE)


def test_the_look_up_sees_what_is_gone() -> None:
    ten, eleven = TABLE[1], TABLE[2]
    assert set(SCRIPT.CONTROLS) <= set(ten["has"])
    assert set(SCRIPT.CONTROLS) <= set(eleven["lacks"])


@pytest.mark.parametrize("file", FILES)
def test_the_walk_finds_the_names_in_the_source(file: str) -> None:
    found = {name for name, _ in SCRIPT.used_names(file)}
    assert found
    wanted = {
        "runtime/backends/tensorrt/builder.py": {
            "build_serialized_network",
            "STRONGLY_TYPED",
            "phase_start",
            "set_shape",
            "clear_flag",
            "shape",
            "get_error",
            "supports_model_v2",
            "node_operator",
        },
        "runtime/backends/tensorrt/key.py": {"ILogger", "INTERNAL_ERROR", "log", "__version__"},
    }
    assert wanted.get(file, set()) <= found


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["version"])
@pytest.mark.parametrize("file", FILES)
def test_every_name_that_is_used_unasked_stands_in_the_binary(file: str, row: dict[str, Any]) -> None:
    known = {*row["has"], *row["lacks"]}
    assert required(file) <= known, "the table is older than the source: make api-names"
    assert required(file) & set(row["lacks"]) == set()


@pytest.mark.parametrize("file", FILES)
def test_every_name_exists_in_the_real_tensorrt_rtx(file: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    classes = [item for item in vars(trt).values() if isinstance(item, type)]
    # what is asked for may be of the other library, but of one of them it must be
    elsewhere = {name for row in TABLE for name in row["has"]}
    for name in {name for name, _ in SCRIPT.used_names(file)} | SCRIPT.guards(file):
        found = hasattr(trt, name) or any(hasattr(one, name) for one in classes)
        assert found or (name in SCRIPT.guards(file) and name in elsewhere), name
