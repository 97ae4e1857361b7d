"""`blastscope devices`: what is here, and why something isn't."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host_gpu import FOUND
from typer.testing import CliRunner

from blastscope.cli import app
from blastscope.runtime.cuda.driver import DriverInfo
from blastscope.runtime.errors import DriverError, MissingLibrary
from blastscope.runtime.inference import diagnostics as inventory
from blastscope.runtime.inference.diagnostics import Diagnostics, collect_diagnostics


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def missing(*args: object) -> Any:
    raise DriverError("no NVIDIA driver is installed: install one", reason="missing")


def test_a_machine_without_a_gpu_has_a_cpu_and_a_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "probe", missing)
    found = collect_diagnostics(cache)
    assert found.no_gpu == "no NVIDIA driver is installed: install one"
    cpu = found.devices[0]
    assert (cpu.device, cpu.usable) == ("cpu", True)
    assert [service.library for service in cpu.services] == ["openvino", "onnxruntime"]
    assert all(service.version and "f32" in service.computes for service in cpu.services)
    assert [part.library for part in found.parts] == ["crop kernels", "pycuda", "cuda-bindings", "tensorrt", "tensorrt-rtx"]
    assert all(part.problem is None or "pip install 'blastscope[" in part.problem for part in found.parts)


def on_gpu(monkeypatch: pytest.MonkeyPatch, libraries: dict[str, Any]) -> None:
    monkeypatch.setattr(inventory, "probe", lambda: DriverInfo((13, 0), "580.1", (FOUND,)))
    monkeypatch.setattr(inventory, "load_gpu_backend", libraries.__getitem__)


class Library:
    def __init__(self, *computes: str) -> None:
        self.computes = computes

    def executions(self, device: str) -> tuple[str, ...]:
        if not self.computes:
            raise MissingLibrary("tensorrt", "tensorrt")
        return self.computes


def test_a_gpu_is_listed_with_its_libraries_and_what_keeps_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"tensorrt": Library(), "tensorrt-rtx": Library("f32", "f16", "int8"), "onnxruntime": Library("f32", "f16")}
    on_gpu(monkeypatch, kinds)
    monkeypatch.setattr(inventory, "_version", lambda name: "1.0")
    found = collect_diagnostics(cache)
    gpu = found.devices[0]
    assert (gpu.device, gpu.name, gpu.capability, gpu.memory_mib) == ("cuda:0", "Host GPU", "8.6", 1 << 14)
    assert gpu.usable
    first, second, third = gpu.services
    assert first.problem == "'tensorrt' is not installed: pip install 'blastscope[tensorrt]'"
    assert (second.computes, third.computes) == (("f32", "f16", "int8"), ("f32", "f16"))
    assert (found.driver, found.cuda, found.no_gpu) == ("580.1", "13.0", None)


def test_without_pycuda_no_library_is_usable_on_a_gpu(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, {name: Library("f32") for name in ("tensorrt", "tensorrt-rtx", "onnxruntime")})
    monkeypatch.setattr(inventory, "_version", lambda name: None if name == "pycuda" else "1.0")
    gpu = collect_diagnostics(cache).devices[0]
    assert not gpu.usable
    assert {service.problem for service in gpu.services} == {"not installed: pip install 'blastscope[gpu]'"}


def test_engines_are_counted_where_they_may_run_and_explained_where_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, {name: Library("f32") for name in ("tensorrt", "tensorrt-rtx", "onnxruntime")})

    def kept(name: str, library: str, state: str, *reasons: str) -> Any:
        return SimpleNamespace(name=name, state=state, reasons=reasons, key=SimpleNamespace(library=library, gpu=None))

    engines = [kept("one", "tensorrt-rtx", "ready"), kept("two", "tensorrt-rtx", "stale", "built by 1.0")]
    monkeypatch.setattr(inventory, "list_engines", lambda cache_dir, machine: engines)
    found = collect_diagnostics(cache)
    assert [service.engines for service in found.devices[0].services] == [(), ("one",), ()]
    assert found.other_engines == {"two": "stale: built by 1.0"}


@pytest.mark.parametrize("with_gpu", [False, True])
def test_the_verb_prints_both_ways_and_exits_0(cache: Path, monkeypatch: pytest.MonkeyPatch, with_gpu: bool) -> None:
    if with_gpu:
        on_gpu(monkeypatch, {name: Library("f32") for name in ("tensorrt", "tensorrt-rtx", "onnxruntime")})
    else:
        monkeypatch.setattr(inventory, "probe", missing)
    told = CliRunner().invoke(app, ["devices"])
    assert told.exit_code == 0, told.output
    assert ("cuda:0: Host GPU" if with_gpu else "cuda: none") in told.stdout
    assert "cpu:" in told.stdout
    as_json = CliRunner().invoke(app, ["devices", "--json"])
    assert as_json.exit_code == 0
    assert Diagnostics.model_validate_json(as_json.stdout)
    assert json.loads(as_json.stdout)["devices"]
