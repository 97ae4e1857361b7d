"""The golden set: written, read in the shapes that the manifest says, and held against engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from blastscope.runtime.bundle import Bundle, Golden, Manifest, describe_file, golden_bytes, read_golden, write_bundle
from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.errors import BundleError
from blastscope.runtime.inference.validation import check_golden

SIDE = 16


def golden(count: int = 4, *, seed: int = 0) -> Golden:
    rng = np.random.default_rng(seed)
    malignant = rng.uniform(0.02, 0.98, (count, 3)).astype(np.float32)
    crops = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return Golden(crops, np.stack([1 - malignant, malignant], axis=-1))


def bundle_of(folder: Path, data: bytes, *, count: int = 4) -> Bundle:
    """A bundle whose golden file holds `data`."""
    graph = {**describe_file(b"graph", "fp32/ensemble.onnx").model_dump(), "models": "ensemble", "precision": "fp32"}
    manifest = Manifest.model_validate(
        {
            "name": "c7",
            "created": "2026-11-23T01:00:00Z",
            "backbone": "tf_efficientnet_lite0",
            "crop": CropSpecification(side_px=SIDE),
            "graphs": [{**graph, "tolerances": {"f32": 1e-4}}],
            "golden": {**describe_file(data, "golden.safetensors").model_dump(), "count": count, "source": "drawn"},
            "training": {
                **{"data_sha256": None, "split": "none", "seed": 0, "config": {}, "versions": {}},
                "patients": {"training": [], "validation": []},
            },
        }
    )
    return write_bundle(folder, manifest, {"fp32/ensemble.onnx": b"graph", "golden.safetensors": data})


class Echo:
    """A backend that answers with fixed probabilities from a buffer that it uses again."""

    name = "echo"

    def __init__(self, answers: NDArray[np.float32]) -> None:
        self.answers = answers
        self.seen: list[tuple[int, ...]] = []

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(crops.shape)
        return self.answers

    def close(self) -> None: ...


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 16), st.integers(0, 99))
def test_a_golden_set_survives_writing_and_reading_to_the_byte(count: int, seed: int) -> None:
    data = golden_bytes(golden(count, seed=seed))
    assert data == golden_bytes(golden(count, seed=seed))
    arrays = safetensors.numpy.load(data)
    assert (arrays["crops"] == golden(count, seed=seed).crops).all()
    assert (arrays["probabilities"] == golden(count, seed=seed).probabilities).all()


def test_a_golden_set_goes_into_a_bundle_and_out_again(tmp_path: Path) -> None:
    again = read_golden(bundle_of(tmp_path / "c7", golden_bytes(golden())))
    assert (again.crops == golden().crops).all()
    assert (again.probabilities == golden().probabilities).all()
    assert (again.crops.dtype, again.probabilities.dtype) == (np.dtype("uint8"), np.dtype("float32"))


def test_a_view_with_strides_is_written_as_what_it_shows() -> None:
    whole = golden(8)
    part = Golden(whole.crops[::2, :, ::-1], whole.probabilities[::2])
    assert (safetensors.numpy.load(golden_bytes(part))["crops"] == whole.crops[::2, :, ::-1]).all()


def changed(**arrays: Any) -> bytes:
    return safetensors.numpy.save({"crops": golden().crops, "probabilities": golden().probabilities, **arrays})


def probabilities(change: Callable[[NDArray[np.float32]], Any]) -> bytes:
    array = golden().probabilities.copy()
    change(array)
    return changed(probabilities=array)


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "no safetensors": (b"hello", "golden.safetensors: "),
    "a header without end": (b"\xff" * 16, "golden.safetensors: "),
    "cut off": (golden_bytes(golden())[:-1], "golden.safetensors: "),
    "another array": (changed(extra=np.zeros(1, np.uint8)), "not crops, probabilities"),
    "too few crops": (golden_bytes(golden(3)), r"manifest says \(4, 16, 16, 3\)"),
    "another side": (changed(crops=np.zeros((4, 8, 8, 3), np.uint8)), r"manifest says \(4, 16, 16, 3\)"),
    "not square": (changed(crops=np.zeros((4, 16, 8, 3), np.uint8)), r"not \(n, S, S, 3\)"),
    "gray crops": (changed(crops=np.zeros((4, 16, 16), np.uint8)), "not uint8"),
    "float crops": (changed(crops=np.zeros((4, 16, 16, 3), np.float32)), "not uint8"),
    "no crops": (changed(crops=np.zeros((0, 16, 16, 3), np.uint8)), "not uint8"),
    "double probabilities": (changed(probabilities=golden().probabilities.astype(np.float64)), "not float32"),
    "two voters": (changed(probabilities=golden().probabilities[:, :2].copy()), r"not float32 \(4, 3, 2\)"),
    "not a number": (probabilities(lambda array: array.fill(np.nan)), "are not probabilities"),
    "negative": (probabilities(lambda array: array[0, 0].put([0, 1], [-0.5, 1.5])), "are not probabilities"),
    "a sum of 0.9": (probabilities(lambda array: array[0, 0].put([0, 1], [0.4, 0.5])), "are not probabilities"),
    "far too large": (bytes(16 * (SIDE * SIDE * 3 + 24) + 65_537), "more than 16 crops need"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_golden_file_in_another_shape_than_the_manifest_says_is_refused(tmp_path: Path, name: str) -> None:
    data, text = BAD_FILES[name]
    with pytest.raises(BundleError, match=text) as caught:
        read_golden(bundle_of(tmp_path / "c7", data))
    assert "golden.safetensors" in str(caught.value)


def test_seventeen_crops_are_too_many() -> None:
    with pytest.raises(ValueError, match="1 to 16"):
        golden(17)


def test_an_engine_that_answers_alike_passes() -> None:
    backend = Echo(golden().probabilities)
    check = check_golden(backend, golden(), 0)
    assert (check.difference, check.flips, check.passed) == (0, 0, True)
    assert backend.seen == [(4, SIDE, SIDE, 3)]


def test_the_largest_difference_of_any_probability_is_reported() -> None:
    answers = golden().probabilities.copy()
    answers[3, 2] += np.array([0.0625, -0.0625], np.float32)
    check = check_golden(Echo(answers), golden(), 0.07)
    assert check.difference == pytest.approx(0.0625, abs=1e-7)
    assert check.passed
    assert not check_golden(Echo(answers), golden(), 0.06).passed


def test_a_difference_at_the_tolerance_passes() -> None:
    base = np.full((1, 3, 2), 0.5, np.float32)
    base[0, :, 0], base[0, :, 1] = 0.25, 0.75
    answers = base + np.array([0.125, -0.125], np.float32)
    crops = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    assert check_golden(Echo(answers), Golden(crops, base), 0.125).passed


def test_a_changed_call_fails_however_wide_the_tolerance() -> None:
    near = np.array([[[0.499, 0.501]] * 3], np.float32)
    crops = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    check = check_golden(Echo(near[..., ::-1]), Golden(crops, near), 1)
    assert (check.flips, check.passed) == (1, False)


@pytest.mark.parametrize(
    "answers", [np.full((4, 3, 2), np.nan), np.full((4, 3, 2), np.inf), np.zeros((4, 2)), np.zeros((3, 3, 2))]
)
def test_answers_that_are_no_probabilities_never_pass(answers: NDArray[Any]) -> None:
    check = check_golden(Echo(answers.astype(np.float32)), golden(), math.inf)
    assert (check.difference, check.flips, check.passed) == (math.inf, 4, False)
