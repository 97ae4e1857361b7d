"""Keys of engines: any field changes the digest, and an engine is given only to those whose key it serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blastscope.runtime.backends.tensorrt.key import BatchProfile, EngineKey, engine_key, platform_name, runs_on, sorted_targets
from blastscope.runtime.bundle.manifest import GraphEntry
from blastscope.runtime.cuda.driver import GpuFacts
from blastscope.runtime.errors import UsageError

DIGESTS = st.integers(0, 2**256 - 1).map("{:064x}".format)
WORDS = st.text(min_size=1, max_size=4)
CAPABILITIES = st.sampled_from(["7.5", "8.0", "8.6", "8.9", "9.0", "12.0", "12.1"])
TARGETS = st.lists(st.sampled_from(["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"]), unique=True).map(sorted_targets)
PROFILES = st.lists(st.integers(1, 1024), min_size=3, max_size=3).map(
    lambda sizes: BatchProfile(least=min(sizes), likely=sorted(sizes)[1], most=max(sizes))
)
GPUS = st.builds(GpuFacts, name=WORDS, capability=CAPABILITIES, driver=WORDS)


def keys_of(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[EngineKey]:
    return st.builds(
        EngineKey,
        layout=st.integers(1, 9),
        graph=DIGESTS,
        models=st.sampled_from(["ensemble", "a", "b", "combined"]),
        precision=st.sampled_from(["fp32", "fp16", "int8"]),
        version=WORDS,
        platform=WORDS,
        profile=PROFILES,
        **parts,
    )


AHEAD = keys_of(library=st.just("tensorrt-rtx"), gpu=st.none(), targets=TARGETS)
HERE = keys_of(library=st.sampled_from(["tensorrt", "tensorrt-rtx"]), gpu=GPUS)
KEYS = AHEAD | HERE


def leaves(record: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field that holds no record."""
    for field in type(record).model_fields:
        value = getattr(record, field)
        if hasattr(type(value), "model_fields"):
            yield from leaves(value, (*above, field))
        else:
            yield (*above, field)


def at(record: Any, path: tuple[str, ...]) -> Any:
    for field in path:
        record = getattr(record, field)
    return record


def changed(record: Any, path: tuple[str, ...], value: Any) -> Any:
    inner = value if len(path) == 1 else changed(getattr(record, path[0]), path[1:], value)
    return record.model_copy(update={path[0]: inner})


@given(KEYS, KEYS, st.data())
def test_another_value_in_any_field_is_another_digest(key: EngineKey, other: EngineKey, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(leaves(key))))
    try:
        value = at(other, path)
    except AttributeError:  # the other one has no GPU
        value = None
    assert (changed(key, path, value).digest == key.digest) == (value == at(key, path))
    assert (key.digest == other.digest) == (key == other)
    assert (key.name == other.name) == (key == other)


def another(value: Any) -> Any:
    """A value of the same type."""
    if value is None:
        return GpuFacts(name="x", capability="8.6", driver="580")
    return value + 1 if isinstance(value, int) else (*value, "sm99") if isinstance(value, tuple) else f"{value}x"


@pytest.mark.parametrize("gpu", [None, GpuFacts(name="x", capability="8.9", driver="580")])
def test_every_field_counts_even_one_that_a_later_version_adds(gpu: GpuFacts | None) -> None:
    key = EngineKey(
        graph="0" * 64, models="a", precision="fp16", library="tensorrt-rtx", version="1", platform="p", gpu=gpu
    )  # fmt: skip
    paths = list(leaves(key))
    assert {path[0] for path in paths} == set(EngineKey.model_fields)
    digests = {changed(key, path, another(at(key, path))).digest for path in paths}
    assert len(digests | {key.digest}) == len(paths) + 1


@given(KEYS)
def test_a_key_comes_back_from_its_sidecar_as_it_was(key: EngineKey) -> None:
    again = EngineKey.model_validate_json(key.model_dump_json(), strict=True)
    assert again == key
    assert again.digest == key.digest


def test_the_digest_of_a_known_key_stays_what_it_is() -> None:
    """Changed on purpose, this throws away every user's engines: raise LAYOUT instead where build.py makes something else."""
    key = EngineKey(
        layout=1, graph="ab" * 32, models="ensemble", precision="int8", library="tensorrt-rtx", version="1.7.1.116",
        platform="linux-x86_64", targets=("sm86", "sm120"),
    )  # fmt: skip
    assert key.digest == "a6e0cb9d736746420347aa5b94981351f7924c44a308a965896824d79150608c"
    assert key.name == f"ensemble-int8-tensorrt-rtx-sm86+sm120-{key.digest[:16]}"


@given(AHEAD, GPUS)
def test_an_engine_built_ahead_serves_the_gpus_that_it_was_built_for(key: EngineKey, gpu: GpuFacts) -> None:
    wanted = key.model_copy(update={"gpu": gpu, "targets": ()})
    assert key.serves(wanted) == runs_on(key.targets, gpu)
    assert wanted.serves(wanted)
    assert not wanted.serves(key)


@given(AHEAD, GPUS, KEYS, st.data())
def test_an_engine_serves_no_key_that_differs_in_anything_else(
    key: EngineKey, gpu: GpuFacts, other: EngineKey, data: st.DataObject
) -> None:
    wanted = key.model_copy(update={"gpu": gpu, "targets": ()})
    paths = [path for path in leaves(key) if path[0] not in ("gpu", "targets")]
    path = data.draw(st.sampled_from(paths))
    if at(other, path) != at(wanted, path):
        assert not key.serves(changed(wanted, path, at(other, path)))
        assert not wanted.serves(changed(wanted, path, at(other, path)))


def test_a_portable_engine_runs_from_ampere_on() -> None:
    found = {one: runs_on((), GpuFacts(name="x", capability=one, driver="580")) for one in ("7.5", "8.0", "8.6", "12.0")}
    assert found == {"7.5": False, "8.0": True, "8.6": True, "12.0": True}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"library": "tensorrt"}, "builds only on the GPU"),
        ({"targets": ("sm89", "sm86")}, "in rising order"),
        ({"targets": ("sm86", "sm86")}, "once each"),
        ({"targets": ("86",)}, "pattern"),
        ({"graph": "short"}, "pattern"),
        ({"gpu": GpuFacts(name="x", capability="8.6", driver="1"), "targets": ("sm86",)}, "not both"),
        ({"colour": "red"}, "not permitted"),
    ],
)
def test_a_key_that_no_builder_could_take_does_not_exist(fields: dict[str, Any], problem: str) -> None:
    good = {
        "graph": "0" * 64,
        "models": "ensemble",
        "precision": "fp16",
        "library": "tensorrt-rtx",
        "version": "1",
        "platform": "p",
    }
    EngineKey.model_validate(good)
    with pytest.raises(ValidationError, match=problem):
        EngineKey.model_validate({**good, **fields})


@given(PROFILES)
def test_a_batch_profile_is_read_as_it_is_written(profile: BatchProfile) -> None:
    assert BatchProfile.parse(str(profile)) == profile


@pytest.mark.parametrize("text", ["", "0", "8:1:64", "1:8", "1:8:64:128", "1:8:4096", "one", "-1:2:3", "1:8:64\n", "٣"])
def test_what_is_no_batch_profile_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="LEAST:LIKELY:MOST"):
        BatchProfile.parse(text)
    assert str(BatchProfile.parse("16")) == "16:16:16"


def test_targets_are_sorted_by_number_and_checked() -> None:
    assert sorted_targets(["sm120", "sm86", "sm120"]) == ("sm86", "sm120")
    with pytest.raises(UsageError, match="gpu 'ada'"):
        sorted_targets(["ada"])


def test_the_key_of_a_bundles_graph_says_what_the_manifest_says() -> None:
    entry = GraphEntry(file="x.onnx", sha256="1" * 64, size=1, models="a", precision="int8", tolerances={"int8": 0.1})
    key = engine_key(entry, "tensorrt-rtx", "1.7", targets=("sm89",))
    assert (key.graph, key.models, key.precision, key.platform) == (entry.sha256, "a", "int8", platform_name())
    with pytest.raises(UsageError, match="take tensorrt-rtx"):
        engine_key(entry, "tensorrt", "10.16")
