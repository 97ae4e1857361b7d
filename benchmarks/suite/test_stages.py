"""The stages of a classification, each by itself: file to image, image to crop, crops to probabilities.

Times are never asserted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blastscope import open_bundle
from blastscope.benchmarks.contenders import crop_images, vote_labels
from blastscope.benchmarks.model_benchmark import DEFAULT_EXECUTION
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import PRECISIONS, Execution, Precision


@pytest.mark.parametrize("scale", ["fit", "keep"])
def test_crop(benchmark: Any, describe_row: Any, scale: str) -> None:
    spec = CropSpecification() if scale == "fit" else CropSpecification(side_px=144, scale="keep", window_px=288)
    image = synthetic_cell(7)
    describe_row("crop", f"crop/{scale} to {spec.side_px} px")
    found = benchmark(crop_cell, image, spec)
    again = crop_cell(image.copy(), spec)
    assert isinstance(found, Crop)
    assert isinstance(again, Crop)
    assert found.box == again.box
    assert np.array_equal(found.pixels, again.pixels)


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".webp", ".jpg"])
def test_decode(benchmark: Any, describe_row: Any, suffix: str, tmp_path: Path) -> None:
    image, path = synthetic_cell(7), tmp_path / f"cell{suffix}"
    cv2.imwrite(str(path), image[..., ::-1])
    describe_row("decode", f"decode/{suffix[1:]}")
    found = benchmark(read_image, path)
    assert suffix == ".jpg" or np.array_equal(found, image)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_network(benchmark: Any, describe_row: Any, network: Any, precision: Precision, batch: int) -> None:
    network.require(precision)
    crops = crop_images(network.images[:batch], read_bundle(network.model.bundle).manifest.crop)
    workload = "latency" if batch == 1 else "throughput"
    with open_bundle(
        network.model.bundle, device="cpu", precision=precision, workload=workload, layout="fused", allow_ungated=True
    ) as scope:
        execution: Execution = scope.audit.execution
        name = precision if DEFAULT_EXECUTION[precision] == execution else f"{precision}-{execution}"
        fields = {"execution": execution, "gmac": network.gmac * batch}
        describe_row("network", f"{network.model.name}/{name}/openvino", batch, **fields)
        probabilities = benchmark.pedantic(scope.infer, (crops,), rounds=10, warmup_rounds=2)
    pairs = zip(network.labels[precision], vote_labels(probabilities), strict=False)
    assert all(expected in (None, label) for expected, label in pairs)
