"""libblastscope gives what Python gives: crops to the byte, boxes, refusals and calls, and the same probabilities."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_bindings import assert_same_row
from trained_bundle import TrainedBundle

from blastscope import SHIPPED_BUNDLE, open_bundle
from blastscope.benchmarks.libblastscope import NOTES, NativeLibrary, NativeScope
from blastscope.runtime.crop import Crop, crop_cell
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.session import Scope

Pair = tuple[NativeScope, Scope]


def plain(python: dict[str, Any]) -> dict[str, Any]:
    return {**python, "audit": {name: str(value) for name, value in python["audit"].items()}}


def agree(native: NativeScope, python: Scope, image: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """What came of the image, which must be the same in both; probabilities within 1e-6."""
    ours, theirs = native.row(native.classify(image)), plain({**python.classify(image).row()})
    assert_same_row(ours, theirs)
    return str(ours["label"] or ours["refusal"])


def test_real_cells_get_the_calls_that_python_gives(native: NativeLibrary, cnmc: Path, tmp_path: Path) -> None:
    every = os.environ.get("BLASTSCOPE_EVERY_CELL")  # make native-check
    paths = [cell.path for cell in scan_dataset(cnmc).cells]
    chosen = paths if every else paths[:: len(paths) // 200][:200]
    found: Counter[str] = Counter()
    with (
        open_bundle(device="cpu", backend="openvino", execution="f32", cache_dir=tmp_path) as python,
        native.opened(SHIPPED_BUNDLE, execution="f32", cache_dir=tmp_path) as scope,
    ):
        for path in chosen:
            image = read_image(path)
            assert isinstance(image, np.ndarray)
            ours, told = scope.crop(image)
            theirs = crop_cell(image, python.bundle.manifest.crop)
            if isinstance(theirs, Crop):
                assert ours is not None
                assert ours.tobytes() == theirs.pixels.tobytes(), path
                assert tuple(told.box) == theirs.box
            else:
                assert ours is None
            found[agree(scope, python, image)] += 1
    assert found["all"] > found["hem"] > len(chosen) // 10
    assert found.total() == len(chosen) >= (5691 if every else 200)


def test_smear_frames_are_refused_as_in_python(native: NativeLibrary, shared_data: Path, tmp_path: Path) -> None:
    frames = [read_image(path) for path in sorted((shared_data / "bccd" / "JPEGImages").iterdir())[::60]]
    with (
        open_bundle(device="cpu", backend="openvino", execution="f32", cache_dir=tmp_path) as python,
        native.opened(SHIPPED_BUNDLE, execution="f32", cache_dir=tmp_path) as scope,
    ):
        for frame in frames:
            assert isinstance(frame, np.ndarray)
            assert agree(scope, python, frame) == "not-on-black"


@pytest.mark.parametrize("workload", ["latency", "throughput"])
@pytest.mark.parametrize("layout", ["fused", "staged"])
def test_every_layout_and_workload_has_pythons_engine(
    native: NativeLibrary, trained_bundle: TrainedBundle, tmp_path: Path, workload: str, layout: str
) -> None:
    options: dict[str, Any] = {"workload": workload, "layout": layout, "precision": "fp32", "threads": 2, "cache_dir": tmp_path}
    images = [synthetic_cell(seed) for seed in range(4)]
    with (
        open_bundle(trained_bundle.path, device="cpu", **options) as python,
        native.opened(trained_bundle.path, **options) as scope,
    ):
        assert scope.audit == plain({**python.classify(images[0]).row()})["audit"]
        assert all(agree(scope, python, image) for image in images)
        many = [scope.row(one) for one in scope.classify_many(images)]
        assert many == [scope.row(scope.classify(image)) for image in images]


def test_an_engine_that_python_kept_is_taken_and_the_other_way(native: NativeLibrary, tmp_path: Path) -> None:
    image = synthetic_cell(1)
    options: dict[str, Any] = {"execution": "f32", "precision": "fp32", "cache_dir": tmp_path}
    with native.opened(SHIPPED_BUNDLE, measure=0, **options) as scope:
        digest = scope.audit["engine"]
    (engine,) = (tmp_path / "engines").glob("*.engine")
    assert engine.stem == digest
    before = engine.stat().st_ino
    with open_bundle(device="cpu", **options) as python:
        python.classify(image)
        assert python.audit.engine == digest
    assert engine.stat().st_ino == before
    assert len(list((tmp_path / "engines").glob("*.proof"))) == 1
    with native.opened(SHIPPED_BUNDLE, measure=0, **options) as scope:
        assert scope.row(scope.classify(image))["refusal"] == "unlike-training"
    assert len(list((tmp_path / "engines").iterdir())) == 2


def test_what_python_measured_decides_and_what_is_measured_is_kept(native: NativeLibrary, tmp_path: Path) -> None:
    with native.opened(SHIPPED_BUNDLE, threads=1, cache_dir=tmp_path) as scope:
        scope.classify(synthetic_cell(1))
        first = scope.describe(NOTES)
    assert "not measured on this machine yet" in first or "only one" in first
    with (
        native.opened(SHIPPED_BUNDLE, threads=1, cache_dir=tmp_path) as scope,
        open_bundle(device="cpu", backend="openvino", threads=1, cache_dir=tmp_path) as python,
    ):
        assert scope.audit["engine"] == python.audit.engine


def test_a_strided_view_and_every_order_of_bytes_give_the_same_call(native: NativeLibrary) -> None:
    image = synthetic_cell(3)
    opaque = np.full((*image.shape[:2], 1), 77, np.uint8)
    with native.opened(SHIPPED_BUNDLE, execution="f32", call_unlike_training=1) as scope:
        wanted = scope.row(scope.classify(image))
        assert wanted["label"] in ("hem", "all")
        bgr = np.ascontiguousarray(image[..., ::-1])
        assert scope.row(scope.classify(bgr, 1)) == wanted
        assert scope.row(scope.classify(np.concatenate([image, opaque], axis=2), 2)) == wanted
        assert scope.row(scope.classify(np.concatenate([bgr, opaque], axis=2), 3)) == wanted
        wide = np.zeros((image.shape[0], image.shape[1] + 5, 7), np.uint8)
        wide[:, 2:-3, 1:4] = image
        assert scope.row(scope.classify(wide[:, 2:-3, 1:4])) == wanted
        flipped = np.ascontiguousarray(image[::-1])
        assert scope.row(scope.classify(flipped[::-1])) == wanted
