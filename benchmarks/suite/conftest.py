"""Options and fixtures of the suite: the pace, the networks, and the monitor of other CPU load around each benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from blastscope.benchmarks.contenders import ReferencePredictions, clearest_cells, expected_labels, predict_graphs
from blastscope.benchmarks.interleaved_timing import BUSY_THRESHOLD, ContentionMonitor, Image, wait_for_idle
from blastscope.benchmarks.models import BenchmarkModel, prepare_model
from blastscope.benchmarks.roofline import multiply_adds
from blastscope.benchmarks.schema import MeasuredScope
from blastscope.cli.options import find_data
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.types import ClassName, Precision

NETWORKS = {"short": ("shipped",), "normal": ("shipped", "inception_resnet_v2")}
IDLE_TIMEOUT_S = {"short": 1.0, "normal": 5.0}
CELLS = 32  # synthetic; a quarter of them is used, those with the largest margins


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pace", choices=sorted(NETWORKS), default="normal", help="short: the shipped bundle alone")
    parser.addoption("--network", action="append", help="repeatable; default by the pace")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "network" in metafunc.fixturenames:
        pace = metafunc.config.getoption("--pace")
        metafunc.parametrize(
            "network", metafunc.config.getoption("--network") or NETWORKS[pace], scope="session", indirect=True
        )


@dataclass(frozen=True)
class BenchmarkedNetwork:
    """A network, its images and their expected labels.

    Attributes
    ----------
    model : BenchmarkModel
        The network.
    images : list of (H, W, 3) uint8 arrays
        Those with a large margin in every precision.
    labels : dict of str to tuple
        Expected labels of the images, by precision.
    gmac : float
        1e9 multiply-adds of a crop.
    """

    model: BenchmarkModel
    images: list[Image]
    labels: dict[Precision, tuple[ClassName | None, ...]]
    gmac: float

    @property
    def precision(self) -> Precision:
        """The smallest graph of the bundle, which users run."""
        return next(one for one in ("int8", "fp16", "fp32") if one in self.labels)

    def require(self, precision: Precision) -> None:
        """Skips where the bundle has no such graph."""
        if precision not in self.labels:
            pytest.skip(f"{self.model.name} has no {precision} graph")


@pytest.fixture(scope="session")
def network(request: pytest.FixtureRequest) -> BenchmarkedNetwork:
    model = prepare_model(request.param, find_data())
    bundle = read_bundle(model.bundle)
    reference = ReferencePredictions(bundle.manifest.crop, CELLS, model.cache)
    predictions = predict_graphs(model.bundle, reference)
    cells = clearest_cells(list(predictions.values()), CELLS // 4)
    labels = {precision: expected_labels(found, cells) for precision, found in predictions.items()}
    entry = bundle.graph(next(iter(predictions)))
    assert entry is not None
    gmac = multiply_adds(bundle.file(entry)) / 1e9
    return BenchmarkedNetwork(model, [reference.images[cell] for cell in cells], labels, gmac)


@pytest.fixture
def describe_row(benchmark: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A function that sets the fields of a benchmark's row; the CPU load of other processes is monitored meanwhile."""
    other_share = wait_for_idle(IDLE_TIMEOUT_S[request.config.getoption("--pace")])
    monitor = ContentionMonitor()

    def describe(scope: MeasuredScope, name: str, batch: int = 1, **fields: object) -> None:
        benchmark.group = scope
        benchmark.extra_info.update(scope=scope, name=name, batch=batch, **fields)

    yield describe
    started_busy = (other_share or 0.0) > BUSY_THRESHOLD
    benchmark.extra_info.update(other_cpu_share=monitor.other_cpu_share(), started_busy=started_busy)
