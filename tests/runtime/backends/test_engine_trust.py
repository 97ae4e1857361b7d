"""Engines that were built elsewhere: none is taken before it is trusted, and none is trusted that doesn't fit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from stored_engines import BARE, ENGINE, GPU, MACHINE

from blastscope.runtime.backends.tensorrt.catalog import (
    EngineHost,
    list_engines,
    trust_engine,
)
from blastscope.runtime.backends.tensorrt.engine_store import (
    engine_path,
    find_engine,
    known_file,
    store_engine,
)
from blastscope.runtime.backends.tensorrt.key import LAYOUT, EngineKey, platform_name
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import DataError, EngineError


def travelled(key: EngineKey, tmp_path: Path) -> Path:
    """The engine as it arrives from the machine that built it."""
    path = store_engine(tmp_path / "away", key, ENGINE)
    stick = tmp_path / "stick"
    stick.mkdir(exist_ok=True)
    for ending in (".engine", ".json"):
        (stick / f"engine{ending}").write_bytes(path.with_suffix(ending).read_bytes())
    return stick / "engine.engine"


def test_an_engine_put_into_the_cache_by_hand_is_not_taken(key: EngineKey, here: EngineKey, tmp_path: Path) -> None:
    file, place = travelled(key, tmp_path), engine_path(tmp_path / "cache", key)
    place.parent.mkdir(parents=True)
    for ending in (".engine", ".json"):
        target = place.with_suffix(ending)
        target.write_bytes(file.with_suffix(ending).read_bytes())
        target.chmod(0o600)
    assert find_engine(tmp_path / "cache", here) is None
    (row,) = list_engines(tmp_path / "cache", MACHINE)
    assert (row.state, row.reasons) == ("unusable", ("it was neither built here nor trusted: blastscope engines trust FILE",))


def test_an_engine_is_taken_once_it_is_trusted_and_its_copy_is_what_runs(
    bundle: Bundle, key: EngineKey, here: EngineKey, tmp_path: Path
) -> None:
    file = travelled(key, tmp_path)
    taken = trust_engine(file, bundle, MACHINE, tmp_path / "cache")
    assert taken == (engine_path(tmp_path / "cache", key), hashlib.sha256(ENGINE).hexdigest(), key)
    file.write_bytes(b"changed afterwards")
    assert find_engine(tmp_path / "cache", here) == ENGINE
    assert known_file(taken.path, taken.sha256).read_text().startswith("trusted ")
    (row,) = list_engines(tmp_path / "cache", MACHINE, bundle)
    assert row.state == "ready"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"graph": "0" * 64}, "is not in bundle"),
        ({"models": "a"}, "its graph is that of 'ensemble', its key says 'a'"),
        ({"precision": "int8"}, "its graph is fp32, its key says int8"),
        ({"library": "tensorrt", "gpu": GPU, "targets": ()}, "built by tensorrt 1.7.1.116, 10.16.1.11 is installed"),
        ({"version": "1.6.1.120"}, "built by tensorrt-rtx 1.6.1.120, 1.7.1.116 is installed"),
        ({"platform": "win32-amd64"}, "built on win32-amd64, this is"),
        ({"layout": LAYOUT + 1}, "built by another version of blastscope"),
        ({"targets": ("sm89",)}, r"built for sm89, here is NVIDIA RTX A4000 \(sm86\)"),
        ({"targets": (), "gpu": GPU.model_copy(update={"name": "T4"})}, "built on 'T4', here is 'NVIDIA RTX A4000'"),
        ({"targets": (), "gpu": GPU.model_copy(update={"driver": "570"})}, "built with driver 570, here is 580"),
        ({"targets": (), "gpu": GPU.model_copy(update={"capability": "8.9"})}, "compute capability 8.9, here is 8.6"),
    ],
)
def test_trust_names_every_field_that_does_not_fit(
    change: dict[str, Any], problem: str, bundle: Bundle, key: EngineKey, tmp_path: Path
) -> None:
    file = travelled(key.model_copy(update=change), tmp_path)
    with pytest.raises(EngineError, match=problem) as caught:
        trust_engine(file, bundle, MACHINE, tmp_path / "cache")
    assert "blastscope build --runtime" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_trust_covers_the_batch_profile_by_asking_for_the_very_key(
    bundle: Bundle, key: EngineKey, here: EngineKey, tmp_path: Path
) -> None:
    small = key.profile.model_copy(update={"most": 16})
    trust_engine(travelled(key.model_copy(update={"profile": small}), tmp_path), bundle, MACHINE, tmp_path / "cache")
    assert find_engine(tmp_path / "cache", here) is None
    assert find_engine(tmp_path / "cache", here.model_copy(update={"profile": small})) == ENGINE


def test_trust_needs_the_gpu_the_library_and_the_bytes(bundle: Bundle, key: EngineKey, tmp_path: Path) -> None:
    file = travelled(key, tmp_path)
    with pytest.raises(EngineError, match="no GPU can be used here"):
        trust_engine(file, bundle, BARE, tmp_path / "cache")
    with pytest.raises(EngineError, match=r"tensorrt-rtx is not installed here: pip install 'blastscope\[tensorrt-rtx\]'"):
        trust_engine(file, bundle, EngineHost(platform_name(), {}, (GPU,)), tmp_path / "cache")
    file.write_bytes(ENGINE[:-1] + b"!")
    with pytest.raises(DataError, match="its bytes differ"):
        trust_engine(file, bundle, MACHINE, tmp_path / "cache")
    file.unlink()
    with pytest.raises(DataError, match="no such file"):
        trust_engine(file, bundle, MACHINE, tmp_path / "cache")
    file.with_suffix(".json").write_text("{}")
    with pytest.raises(DataError, match="is not the sidecar of an engine"):
        trust_engine(file, bundle, MACHINE, tmp_path / "cache")
    file.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="the engine's sidecar can't be read: no such file"):
        trust_engine(file, bundle, MACHINE, tmp_path / "cache")
