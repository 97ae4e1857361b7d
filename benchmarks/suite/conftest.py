"""Options and fixtures of the suite: the pace, the networks, and the idle check around each benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from blastscope.benchmarks.cpu_contention import LIMIT, Watch, wait_for_idle
from blastscope.benchmarks.interleaved_timing import Image
from blastscope.benchmarks.models import Contender, prepare
from blastscope.benchmarks.reference_labels import References, clearest, expected, graph_answers
from blastscope.benchmarks.roofline import multiply_adds
from blastscope.benchmarks.schema import What
from blastscope.cli.session import find_data
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.types import ClassName, Precision

NETWORKS = {"short": ("shipped",), "normal": ("shipped", "inception_resnet_v2")}
PATIENCE_S = {"short": 1.0, "normal": 5.0}
CELLS = 32  # drawn; a quarter of them is used, those that are called most clearly


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
class Network:
    """What is measured of a network, and what is right."""

    contender: Contender
    images: list[Image]  # those that every precision calls clearly
    labels: dict[Precision, tuple[ClassName | None, ...]]
    gmac: float  # a crop

    @property
    def precision(self) -> Precision:
        """The smallest graph there is: what one runs."""
        return next(one for one in ("int8", "fp16", "fp32") if one in self.labels)

    def need(self, precision: Precision) -> None:
        """Skips where the bundle has no such graph."""
        if precision not in self.labels:
            pytest.skip(f"{self.contender.name} has no {precision} graph")


@pytest.fixture(scope="session")
def network(request: pytest.FixtureRequest) -> Network:
    contender = prepare(request.param, find_data(), print)
    bundle = read_bundle(contender.bundle)
    references = References(bundle.manifest.crop, CELLS, contender.cache)
    answers = graph_answers(contender.bundle, references)
    places = clearest(list(answers.values()), CELLS // 4)
    labels = {precision: expected(found, places) for precision, found in answers.items()}
    entry = bundle.graph(next(iter(answers)))
    assert entry is not None
    gmac = multiply_adds(bundle.file(entry)) / 1e9
    return Network(contender, [references.images[place] for place in places], labels, gmac)


@pytest.fixture
def told(benchmark: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Says of a benchmark what its row is to say; the machine's other load is watched meanwhile."""
    others = wait_for_idle(PATIENCE_S[request.config.getoption("--pace")])
    watch = Watch()

    def tell(what: What, name: str, batch: int = 1, **facts: object) -> None:
        benchmark.group = what
        benchmark.extra_info.update(what=what, name=name, batch=batch, **facts)

    yield tell
    benchmark.extra_info.update(others=watch.others(), began_busy=(others or 0.0) > LIMIT)
