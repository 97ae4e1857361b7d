"""What a user waits for: pixels to call, a folder, many callers, opening, the first answer; and that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import pytest

from blastscope import Scope, open_bundle
from blastscope.benchmarks.baselines import Task, openings
from blastscope.benchmarks.bench import NATURAL
from blastscope.benchmarks.cold_start import CELL, measure_cold
from blastscope.benchmarks.contenders import handle
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.io.synthetic import synthetic_cell
from blastscope.runtime.types import PRECISIONS, Precision

IMAGES = 16  # that callers share, and a folder holds
GROWTH_MIB = 16  # what hundreds of answers may add to a process: allocators keep some pages


@contextmanager
def opened(network: Any, precision: Precision, workload: str) -> Iterator[tuple[Scope, str]]:
    """A handle, and the name of its rows."""
    with open_bundle(
        network.contender.bundle, device="cpu", precision=precision, workload=workload, layout="fused", allow_ungated=True
    ) as scope:
        execution = scope.audit.execution
        graph = precision if NATURAL[precision] == execution else f"{precision}-{execution}"
        yield scope, f"{network.contender.name}/{graph}/openvino"


def right(network: Any, precision: Precision, labels: Any) -> bool:
    """Whether labels of the network's images, again and again, are the expected ones."""
    wanted = network.labels[precision]
    return all(wanted[place % len(wanted)] in (None, label) for place, label in enumerate(labels))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_pixels_to_call(benchmark: Any, told: Any, network: Any, precision: Precision, batch: int) -> None:
    network.need(precision)
    with opened(network, precision, "latency" if batch == 1 else "throughput") as (scope, name):
        told("pixels", name, batch, execution=scope.audit.execution, gmac=network.gmac * batch)
        labels = benchmark.pedantic(handle(scope), (network.images[:batch],), rounds=10, warmup_rounds=2)
    assert right(network, precision, labels)


def test_folder_to_calls(benchmark: Any, told: Any, network: Any, tmp_path: Path) -> None:
    precision = network.precision
    paths = [tmp_path / f"{number:03}.png" for number in range(IMAGES)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), network.images[number % len(network.images)][..., ::-1])
    with opened(network, precision, "throughput") as (scope, name):
        told("files", name, IMAGES, execution=scope.audit.execution, gmac=network.gmac * IMAGES)
        found = benchmark.pedantic(lambda: list(scope.classify_files(paths)), rounds=5, warmup_rounds=1)
    assert [path for path, _ in found] == paths
    assert right(network, precision, [prediction.label for _, prediction in found])


@pytest.mark.parametrize("callers", [1, 2, 4, 8])
def test_callers(benchmark: Any, told: Any, network: Any, callers: int) -> None:
    precision = network.precision
    images = [network.images[number % len(network.images)] for number in range(IMAGES)]
    with opened(network, precision, "throughput") as (scope, name), ThreadPoolExecutor(callers) as pool:
        at_once = "1 caller" if callers == 1 else f"{callers} callers"
        told("callers", f"{name}, {at_once}", IMAGES, execution=scope.audit.execution, gmac=network.gmac * IMAGES)
        calls = benchmark.pedantic(lambda: list(pool.map(scope.classify, images)), rounds=5, warmup_rounds=1)
    assert right(network, precision, [call.label for call in calls])


def test_load(benchmark: Any, told: Any, network: Any) -> None:
    precision = network.precision
    with opened(network, precision, "latency") as (_, name):
        told("load", name)

    def load() -> object:
        with opened(network, precision, "latency") as (scope, _):
            return scope.classify(network.images[0]).label

    assert right(network, precision, [benchmark.pedantic(load, rounds=3, warmup_rounds=1)])


@pytest.mark.parametrize("cache", ["warm", "empty"])
def test_cold_start(benchmark: Any, told: Any, network: Any, cache: str, tmp_path: Path) -> None:
    precision = network.precision
    with opened(network, precision, "latency") as (scope, name):
        execution, label = scope.audit.execution, scope.classify(synthetic_cell(CELL)).label
    samples: list[float] = []

    def start() -> Any:
        place = None if cache == "warm" else tmp_path / str(len(samples))
        found = measure_cold(network.contender.bundle, precision, execution, "openvino", cache=place)
        samples.append(1000 * found.load_s)
        return found

    found = benchmark.pedantic(start, rounds=3 if cache == "warm" else 2)
    assert found.label == label
    # the process's end is no part of its first answer, so its own clock counts
    told("cold", f"{name}, {cache} engine cache", samples_ms=samples, peak_mib=found.peak_mib)


def test_compiling_alone(benchmark: Any, told: Any, network: Any) -> None:
    # what a start without a cache can't do without: the library, used plainly, reads and compiles the same file
    bundle, precision = read_bundle(network.contender.bundle), network.precision
    entry = bundle.graph(precision)
    assert entry is not None
    graphs = {f"{precision}/openvino-plain": bundle.file(entry)}
    task = Task(network.contender.run, graphs, bundle.manifest.crop, batch=1)
    name, opening = next(side for side in openings("openvino", task) if side[0].endswith("-latency"))
    told("cold", f"{network.contender.name}/{name}, reading and compiling alone")
    answer = benchmark.pedantic(opening, rounds=2)
    assert right(network, precision, answer(network.images[:1]))


def test_memory_stays_flat(network: Any) -> None:
    if network.contender.name != "shipped":
        pytest.skip("hundreds of answers of a large network take minutes: `make soak` does it")
    with opened(network, network.precision, "throughput") as (scope, _):
        scope.classify_many(network.images * 10)
        before = resident_mib()
        for _ in range(320 // len(network.images)):
            scope.classify_many(network.images)
        assert resident_mib() - before < GROWTH_MIB


def resident_mib() -> float:
    """What this process holds."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux tells how much memory a process holds")
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
