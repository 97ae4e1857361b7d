"""libblastscope refuses what Python refuses, with the names of Python's exceptions."""

from __future__ import annotations

import copy
import ctypes
import functools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_bundles import DAMAGES, NEWER, TEXTS, UNFIT, damage, replace_graph, write_bad_zips, write_text
from native_library import ROOT, SOURCES

from blastscope import SHIPPED_BUNDLE, open_bundle
from blastscope.benchmarks.libblastscope import Image, NativeError, NativeLibrary, NativeScope, PredictionStruct
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.bundle.archive import pack
from blastscope.runtime.bundle.manifest import FORMAT
from blastscope.runtime.bundle.manifest_io import parse_manifest
from blastscope.runtime.errors import BlastscopeError
from blastscope.runtime.io.hashing import file_sha256

Json = Any


def python_says(path: Path, cache: Path, **options: Any) -> str:
    try:
        read_bundle(path, cache_dir=cache)
        open_bundle(path, device="cpu", backend="openvino", cache_dir=cache, **options).close()
    except BlastscopeError as error:
        return type(error).__name__
    return "Ok"


def native_says(native: NativeLibrary, path: Path, cache: Path, **options: Any) -> str:
    try:
        with native.opened(path, cache_dir=cache, measure=0, **options):
            return "Ok"
    except NativeError as error:
        return error.name


def places(value: Json, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def changed(manifest: Json, path: tuple[Any, ...], value: Json) -> Json:
    found = copy.deepcopy(manifest)
    parent = found
    for key in path[:-1]:
        parent = parent[key]
    if value == "gone":
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return found


VALUES: list[Json] = ["gone", None, True, "x", "", -1, 0, 1, 1.5, 2**70, 1e300, [], {}, [1], {"x": 1}, "all", "1.1", 0.5]


def test_a_changed_manifest_is_judged_as_python_judges_it(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    whole = json.loads((SHIPPED_BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    tiny = tiny_bundle.make()
    manifest = json.loads((tiny / "manifest.json").read_text(encoding="utf-8"))
    manifest["uncertainty"] = whole["uncertainty"] | {"novelty": None}
    manifest["calibration"] = {"method": "minmax", "cells": ["a"], "cells_sha256": "0" * 64, "seed": 0, "versions": {"a": "1"}}
    interval = whole["uncertainty"]["auroc"]
    figures = dict.fromkeys(("weighted_f1", "auroc", "sensitivity", "specificity"), interval)
    manifest["scores"] = [{"precision": "fp32", "cells": 1, "patients": 1, **figures}]
    manifest["operating_point"] = {
        "threshold": 0.5, "sensitivity_wanted": 0.5, "sensitivity": 0.5, "specificity": 0.5, "cells": 3
    }  # fmt: skip
    none = {"value": 0, "low": 0, "high": 0}
    manifest["cascade"] = {
        **{"first": "a", "threshold": 0.7, "precision": "fp32", "engine": "openvino", "cells": 9, "patients": 3},
        **{"flip_rate": none, "flip_rate_upper": 0.1, "max_flip_rate": 0.01, "patient_flip_rate": none, "skipped": 0.3},
    }
    every = [(path, value) for path in places(manifest) for value in VALUES]
    every += [((*path, "unknown"), 1) for path in places(manifest)]
    chosen = random.Random(7).sample(every, 150)
    found = set()
    for path, value in [((), manifest), *chosen]:
        try:
            table = changed(manifest, path, value) if path else manifest
        except TypeError:  # a key below what is no object
            continue
        (tiny / "manifest.json").write_text(json.dumps(table), encoding="utf-8")
        try:
            read_bundle(tiny)
            theirs = "Ok"
        except BlastscopeError as error:
            theirs = type(error).__name__
        ours = native_says(native, tiny, tmp_path)
        if theirs == "Ok":  # what is wrong with the network then is told later, by both
            theirs = python_says(tiny, tmp_path) if ours != "Ok" else "Ok"
        assert ours == theirs, (path, value)
        found.add(ours)
    assert found >= {"Ok", "BundleError"}


OF_NEIGHBOURS: list[tuple[tuple[str, ...], Json]] = [
    *((("neighbours", key), "gone") for key in ("file", "sha256", "size", "graph", "cells", "people", "features")),
    *((("neighbours", "cells"), value) for value in (0, 100_001, 1.5, "1")),
    *((("neighbours", "people"), value) for value in (0, None)),
    *((("neighbours", "features"), value) for value in (0, 10_001)),
    (("neighbours", "graph"), "00" * 32),
    (("neighbours", "sha256"), "00" * 32),
    (("neighbours", "file"), "golden.safetensors"),
    (("neighbours", "file"), "elsewhere.safetensors"),
    (("neighbours", "size"), 7),
    (("neighbours", "unknown"), 1),
    (("neighbours",), None),
    (("neighbours",), []),
    (("format",), "1.4"),
    (("measures_novelty",), False),
]


def test_what_a_manifest_says_of_neighbours_is_judged_as_python_judges_it(native: NativeLibrary, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(SHIPPED_BUNDLE, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["uncertainty"]["novelty"] = None  # else graphs that measure none are refused for its limit
    for path, value in OF_NEIGHBOURS:
        (bundle / "manifest.json").write_text(json.dumps(changed(manifest, path, value)), encoding="utf-8")
        with pytest.raises(BlastscopeError) as caught:
            read_bundle(bundle)
        assert native_says(native, bundle, tmp_path) == type(caught.value).__name__, (path, value)
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert native_says(native, bundle, tmp_path, device="cpu") == "Ok"


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_a_manifest_that_is_no_json_is_refused_as_in_python(
    native: NativeLibrary, tiny_bundle: Any, tmp_path: Path, number: int
) -> None:
    bundle = tiny_bundle.make()
    write_text(bundle, number)
    said = python_says(bundle, tmp_path)
    assert native_says(native, bundle, tmp_path) == said != "Ok"
    assert said == ("FormatTooNew" if number in NEWER else "BundleError")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_refused_as_in_python(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path, kind: str) -> None:
    bundle = tiny_bundle.make()
    damage(bundle, kind)
    said = python_says(bundle, tmp_path / "cache")
    assert native_says(native, bundle, tmp_path / "cache") == said != "Ok"


def test_gate_golden_set_and_tolerance_are_held_as_in_python(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    waived, wrong = tiny_bundle.make(gate="waived"), tiny_bundle.make(wrong={"fp32": 0.01})
    assert native_says(native, waived, tmp_path) == python_says(waived, tmp_path) == "UngatedBundle"
    assert native_says(native, waived, tmp_path, allow_ungated=1) == "Ok"
    assert native_says(native, wrong, tmp_path) == python_says(wrong, tmp_path) == "GoldenMismatch"
    fitting = tiny_bundle.make()
    for options in ({"precision": "int8"}, {"execution": "f16"}, {"layout": "paired"}, {"layout": "staged"}, {"cascade": True}):
        ours = native_says(native, fitting, tmp_path, **{**options, **({"cascade": 1} if "cascade" in options else {})})
        assert ours == python_says(fitting, tmp_path, **options) != "Ok"  # type: ignore[arg-type]


def test_a_zip_is_opened_and_a_bad_one_is_refused_as_in_python(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    bundle, cache = read_bundle(tiny_bundle.make()), tmp_path / "cache"
    good = pack(bundle, tmp_path / "good.zip")
    image = tiny_bundle.cell(1)
    with native.opened(good, cache_dir=cache) as scope, open_bundle(good, device="cpu", cache_dir=cache) as python:
        assert scope.row(scope.classify(image))["label"] == python.classify(image).label
        assert scope.audit["bundle"] == bundle.digest
    assert (cache / "bundles" / file_sha256(good) / "manifest.json").is_file()
    write_bad_zips(good, tmp_path)
    for path in sorted(tmp_path.glob("*.zip")):
        if path != good:
            assert native_says(native, path, cache) == python_says(path, cache) != "Ok", path


@pytest.mark.parametrize("kind", UNFIT)
def test_a_graph_that_python_refuses_is_refused(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path, kind: str) -> None:
    bundle = tiny_bundle.make()
    replace_graph(bundle, kind)
    said = python_says(bundle, tmp_path)
    assert native_says(native, bundle, tmp_path) == said == "BundleError"


def test_wrong_arguments_and_images_are_told(native: NativeLibrary, tiny_bundle: Any, tmp_path: Path) -> None:
    bundle = tiny_bundle.make()
    for options in (
        {"device": "gpu"},
        {"precision": "fp8"},
        {"threads": -1},
        {"queue": -1},
        {"cascade": 2},
        {"workload": "fast"},
    ):
        assert native_says(native, bundle, tmp_path, **options) == "UsageError"  # type: ignore[arg-type]
    assert native_says(native, bundle, tmp_path, device="cuda") == "DeviceError"
    assert native_says(native, bundle, tmp_path, device="openvino:TPU") == "DeviceError"
    with native.opened(bundle, cache_dir=tmp_path) as scope:
        pixels = np.zeros((10, 10, 3), np.uint8)
        good = pixels.ctypes.data
        for image in (
            Image(None, 10, 10), Image(good, -1, 10), Image(good, 10, 10, 0, 0, 9), Image(good, 2**31 - 1, 2**31 - 1),
            Image(good, 10, 10, 2**62, 0),
        ):  # fmt: skip
            with pytest.raises(NativeError, match="ImageError: an image"):
                call(native, scope, image)
        assert scope.row(scope.classify(pixels))["refusal"] == "empty"
        assert scope.row(scope.classify(np.zeros((0, 5, 3), np.uint8)))["refusal"] == "empty"
        refused = PredictionStruct()
        status = native.c.blastscope_classify_many(scope.handle, ctypes.byref(Image(None, 10, 10)), 1, ctypes.byref(refused))
        assert (status, scope.row(refused)["refusal"]) == (0, "not-8-bit-rgb")


def call(native: NativeLibrary, scope: NativeScope, image: Image) -> None:
    native.check(native.c.blastscope_classify(scope.handle, ctypes.byref(image), ctypes.byref(PredictionStruct())))


def test_the_fuzzers_begin_with_every_key_of_the_newest_format() -> None:
    seed = SOURCES / "fuzz" / "seeds" / "manifest" / "rich"
    manifest = json.loads(seed.read_bytes())
    schema = json.loads((ROOT / "runtime" / "bundle" / "bundle.schema.json").read_bytes())
    wanted = {key for record in (schema, *schema["$defs"].values()) for key in record.get("properties", ())}
    filled = {
        path[-1] for path in places(manifest) if functools.reduce(lambda value, key: value[key], path, manifest) is not None
    }
    assert parse_manifest(seed.read_bytes(), seed).format == FORMAT
    assert wanted - filled == set()
