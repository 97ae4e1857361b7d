"""Single cells: what a user waits for (pixels to label, a folder, many callers, opening, a first label), and each stage alone.

Times are never asserted. Memory is: hundreds of predictions must not add to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blastscope import Scope, open_bundle
from blastscope.benchmarks.baselines import BaselineTask, baseline_factories
from blastscope.benchmarks.bench import CELL_SEED, measure_cold_start
from blastscope.benchmarks.contenders import runtime_classifier, vote_labels
from blastscope.benchmarks.model_benchmark import DEFAULT_EXECUTION
from blastscope.benchmarks.models import crop_images
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import PRECISIONS, Execution, Precision

IMAGES = 16  # that callers share, and a folder holds
MAX_GROWTH_MIB = 16  # what hundreds of predictions may add to a process: allocators keep some pages


@contextmanager
def open_network(network: Any, precision: Precision, workload: str) -> Iterator[tuple[Scope, str]]:
    """A handle, and the name of its rows."""
    with open_bundle(
        network.model.bundle,
        device="cpu",
        precision=precision,
        workload=workload,
        layout="fused",
        allow_ungated=True,
        unlike_training="call",
    ) as scope:
        execution = scope.audit.execution
        graph = precision if DEFAULT_EXECUTION[precision] == execution else f"{precision}-{execution}"
        yield scope, f"{network.model.name}/{graph}/openvino"


def as_expected(network: Any, precision: Precision, labels: Any) -> bool:
    """Whether labels of the network's images, in order and repeated, are the expected ones."""
    expected = network.labels[precision]
    return all(expected[number % len(expected)] in (None, label) for number, label in enumerate(labels))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_pixels_to_label(benchmark: Any, describe_row: Any, network: Any, precision: Precision, batch: int) -> None:
    network.require(precision)
    with open_network(network, precision, "latency" if batch == 1 else "throughput") as (scope, name):
        describe_row("pixels", name, batch, execution=scope.audit.execution, gmac=network.gmac * batch)
        labels = benchmark.pedantic(runtime_classifier(scope), (network.images[:batch],), rounds=10, warmup_rounds=2)
    assert as_expected(network, precision, labels)


def test_folder_to_labels(benchmark: Any, describe_row: Any, network: Any, tmp_path: Path) -> None:
    precision = network.precision
    paths = [tmp_path / f"{number:03}.png" for number in range(IMAGES)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), network.images[number % len(network.images)][..., ::-1])
    with open_network(network, precision, "throughput") as (scope, name):
        describe_row("files", name, IMAGES, execution=scope.audit.execution, gmac=network.gmac * IMAGES)
        found = benchmark.pedantic(lambda: list(scope.classify_files(paths)), rounds=5, warmup_rounds=1)
    assert [path for path, _ in found] == paths
    assert as_expected(network, precision, [prediction.label for _, prediction in found])


@pytest.mark.parametrize("callers", [1, 2, 4, 8])
def test_callers(benchmark: Any, describe_row: Any, network: Any, callers: int) -> None:
    precision = network.precision
    images = [network.images[number % len(network.images)] for number in range(IMAGES)]
    with open_network(network, precision, "throughput") as (scope, name), ThreadPoolExecutor(callers) as pool:
        suffix = "1 caller" if callers == 1 else f"{callers} callers"
        describe_row("callers", f"{name}, {suffix}", IMAGES, execution=scope.audit.execution, gmac=network.gmac * IMAGES)
        predictions = benchmark.pedantic(lambda: list(pool.map(scope.classify, images)), rounds=5, warmup_rounds=1)
    assert as_expected(network, precision, [prediction.label for prediction in predictions])


def test_load(benchmark: Any, describe_row: Any, network: Any) -> None:
    precision = network.precision
    with open_network(network, precision, "latency") as (_, name):
        describe_row("load", name)

    def load() -> object:
        with open_network(network, precision, "latency") as (scope, _):
            return scope.classify(network.images[0]).label

    assert as_expected(network, precision, [benchmark.pedantic(load, rounds=3, warmup_rounds=1)])


@pytest.mark.parametrize("cache", ["warm", "empty"])
def test_cold_start(benchmark: Any, describe_row: Any, network: Any, cache: str, tmp_path: Path) -> None:
    precision = network.precision
    with open_network(network, precision, "latency") as (scope, name):
        execution, label = scope.audit.execution, scope.classify(synthetic_cell(CELL_SEED)).label
    samples_ms: list[float] = []

    def start() -> Any:
        folder = None if cache == "warm" else tmp_path / str(len(samples_ms))
        found = measure_cold_start(network.model.bundle, precision, execution, "openvino", cache=folder)
        samples_ms.append(1000 * found.load_s)
        return found

    found = benchmark.pedantic(start, rounds=3 if cache == "warm" else 2)
    assert found.label == label
    # until the first label, by the process's own clock: its end is no part of it
    describe_row("cold", f"{name}, {cache} engine cache", samples_ms=samples_ms, peak_mib=found.peak_mib)


def test_compiling_alone(benchmark: Any, describe_row: Any, network: Any) -> None:
    # what a start without a cache can't do without: the library, used plainly, reads and compiles the same file
    bundle, precision = read_bundle(network.model.bundle), network.precision
    entry = bundle.graph(precision)
    assert entry is not None
    graphs = {f"{precision}/openvino-plain": bundle.file(entry)}
    task = BaselineTask(network.model.run, graphs, bundle.manifest.crop, batch=1)
    name, load = next(one for one in baseline_factories("openvino", task) if one[0].endswith("-latency"))
    describe_row("cold", f"{network.model.name}/{name}, reading and compiling alone")
    classify = benchmark.pedantic(load, rounds=2)
    assert as_expected(network, precision, classify(network.images[:1]))


def test_memory_stays_flat(network: Any) -> None:
    if network.model.name != "shipped":
        pytest.skip("hundreds of predictions of a large network take minutes: `make soak` does it")
    with open_network(network, network.precision, "throughput") as (scope, _):
        scope.classify_many(network.images * 10)
        before = resident_mib()
        for _ in range(320 // len(network.images)):
            scope.classify_many(network.images)
        assert resident_mib() - before < MAX_GROWTH_MIB


def resident_mib() -> float:
    """Resident memory of this process."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux tells how much memory a process holds")
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmRSS:"))


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
