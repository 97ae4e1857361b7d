"""What a user waits for, with pytest-benchmark: `make bench`. Each answer is checked; no time is ever asserted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blastscope import open_bundle
from blastscope.benchmarks.networks import Contender, prepare
from blastscope.benchmarks.references import clear_cases
from blastscope.benchmarks.sides import handle, separate_models
from blastscope.benchmarks.turns import Answer
from blastscope.cli.places import find_data
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.classes import PRECISIONS, Precision
from blastscope.runtime.crop import Crop, CropSpec, crop_cell
from blastscope.runtime.drawn import draw_cell
from blastscope.runtime.image import read_image

NETWORKS = ("shipped", "inception_resnet_v2")
BATCHES = (1, 8)


@pytest.fixture(scope="session", params=NETWORKS)
def contender(request: pytest.FixtureRequest) -> Contender:
    return prepare(request.param, find_data(), print)


@pytest.mark.parametrize("scale", ["fit", "keep"])
def test_crop(benchmark: Any, scale: str) -> None:
    spec = CropSpec() if scale == "fit" else CropSpec(side_px=144, scale="keep", window_px=288)
    found = benchmark(crop_cell, draw_cell(7), spec)
    assert isinstance(found, Crop)


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".webp", ".jpg"])
def test_decode(benchmark: Any, suffix: str, tmp_path: Path) -> None:
    image, path = draw_cell(7), tmp_path / f"cell{suffix}"
    cv2.imwrite(str(path), image[..., ::-1])
    found = benchmark(read_image, path)
    assert suffix == ".jpg" or np.array_equal(found, image)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_runtime(benchmark: Any, contender: Contender, precision: Precision, batch: int) -> None:
    if read_bundle(contender.bundle).manifest.graph(precision) is None:
        pytest.skip(f"{contender.name} has no {precision} graph")
    workload = "latency" if batch == 1 else "throughput"
    with open_bundle(contender.bundle, precision=precision, workload=workload, allow_ungated=True) as scope:
        time_answer(benchmark, contender, handle(scope), precision, batch)


@pytest.mark.parametrize("batch", BATCHES)
def test_three_pytorch_models(benchmark: Any, contender: Contender, batch: int) -> None:
    precision: Precision | None = "fp32" if contender.same_weights else None
    time_answer(benchmark, contender, separate_models(contender.run), precision, batch)


def time_answer(benchmark: Any, contender: Contender, answer: Answer, precision: Precision | None, batch: int) -> None:
    """Times `answer` on `batch` cells, and checks it against ONNX Runtime on the graph in `precision`."""
    images = clear_cases(contender.bundle, max(BATCHES))[:batch]
    benchmark.group = f"{contender.name}, batch {batch}"
    call: Callable[[], Any] = lambda: answer(images)  # noqa: E731
    labels = benchmark.pedantic(call, rounds=10, iterations=1, warmup_rounds=2)
    if precision is None:
        return
    with open_bundle(contender.bundle, precision=precision, backend="onnxruntime", allow_ungated=True) as peer:
        assert labels == [prediction.label for prediction in peer.classify_many(images)]
