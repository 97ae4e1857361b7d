"""Run by `make engines-check`: every precision of the fused Inception-ResNet-v2 ensemble for every kind of GPU, and for all.

From a waived bundle as benchmarks use it, through the same calls as `blastscope build`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blastscope.benchmarks.benchmark_bundle import make_benchmark_bundle
from blastscope.export.engine_builds import BuildRequest, build_engines, plan_engines
from blastscope.runtime.backends.tensorrt.builder import BuildStep
from blastscope.runtime.backends.tensorrt.catalog import EngineHost
from blastscope.runtime.backends.tensorrt.key import BatchProfile
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.crop import crop_cell
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import PRECISIONS, Precision
from blastscope.train.config import NetworkConfig, TrainConfig
from blastscope.train.ensemble_checkpoint import random_ensemble

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")

KINDS = sorted((name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")), key=lambda name: int(name[2:]))
TARGETS: list[tuple[str, ...]] = [(), *((kind,) for kind in KINDS), ("sm86", "sm89", "sm120"), tuple(KINDS[1:])]


class Silent:
    def say(self, text: str) -> None: ...
    def begin(self, planned: object) -> None: ...
    def step(self, step: BuildStep) -> None: ...


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    config = TrainConfig(network=NetworkConfig(backbone="inception_resnet_v2", weights="none"))
    crops = np.stack([crop_cell(cell.image, config.crop).pixels for cell in synthetic_cells(6, seed=0)])
    return make_benchmark_bundle(random_ensemble(config, crops), crops, tmp_path_factory.mktemp("waived") / "bundle")


@pytest.mark.parametrize(
    ("targets", "batch"),
    [*(pytest.param(targets, "1:8:64", id="+".join(targets) or "portable") for targets in TARGETS), ((), "1:1:1")],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_is_built(precision: Precision, targets: tuple[str, ...], batch: str, bundle: Bundle, tmp_path: Path) -> None:
    request = BuildRequest("tensorrt-rtx", (precision,), "all", BatchProfile.parse(batch), targets)
    planned = plan_engines(bundle, request, EngineHost.here())
    (built,) = build_engines(bundle, planned, tmp_path, Silent())
    print(f"{built.key.name}: {built.size / 1e6:.0f} MB")
    assert built.built
    built.path.unlink()  # up to half a gigabyte each
