"""The models that are measured: the shipped bundle, and backbones with random weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from blastscope import SHIPPED_BUNDLE, __version__
from blastscope.benchmarks.contenders import crop_all
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import CropSpecification
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import Refusal

CELLS = 64  # that set the batch-norm statistics and the int8 ranges of random weights

if TYPE_CHECKING:
    from blastscope.train.config import TrainConfig

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """A network in both shapes: a run for PyTorch and a bundle for the runtime.

    `same_weights` is False for the shipped bundle, whose run is not shipped: PyTorch then runs the same architecture with
    random weights, which costs the same and answers something else.
    """

    name: str
    run: Path
    bundle: Path
    same_weights: bool
    cache: Path | None = None  # where what peers need is kept; None: nowhere


def prepare(name: str, data: Path | None, tell: Tell) -> Contender:
    """The contender `name`: 'shipped', or a timm backbone, made in the user's cache when it is first asked for.

    Random weights get the batch-norm statistics of real cells below `data`, or of drawn ones. Building Inception-ResNet-v2
    takes minutes.
    """
    from blastscope.train.config import TrainConfig

    shipped = name == "shipped"
    manifest = read_bundle(SHIPPED_BUNDLE).manifest if shipped else None
    config = TrainConfig.model_validate(manifest.training.config) if manifest else _random_config(name)
    place = default_cache_dir() / "benchmarks" / f"{name}-{config.crop.side_px}-{__version__}"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):
        if not (place / "done").exists():
            tell(f"{name}: building, once, in '{place}'")
            _build(config, place, crops_for(config.crop, data), shipped=shipped, tell=tell)
            (place / "done").touch()
    return Contender(name, place / "run", SHIPPED_BUNDLE if shipped else place / "bundle", not shipped, place)


def crops_for(spec: CropSpecification, data: Path | None) -> NDArray[np.uint8]:
    """Crops (N, S, S, 3) of real cells below `data`, or of drawn ones."""
    if data is None:
        return crop_all([cell.image for cell in synthetic_cells(CELLS, seed=0)], spec)
    cells = random.Random(0).sample(scan_dataset(data).cells, CELLS)
    images = [read_image(cell.path) for cell in cells]
    return crop_all([image for image in images if not isinstance(image, Refusal)], spec)


def _random_config(backbone: str) -> TrainConfig:
    """The paper's configuration on another backbone, from random weights."""
    from blastscope.train.config import NetworkConfig, TrainConfig

    return TrainConfig(network=NetworkConfig(backbone=backbone, weights="none"))


def _build(config: TrainConfig, place: Path, crops: NDArray[np.uint8], *, shipped: bool, tell: Tell) -> None:
    from blastscope.train.ensemble_checkpoint import save_ensemble
    from blastscope.train.random_init import random_ensemble

    trained = random_ensemble(config, crops)
    save_ensemble(place / "run", trained)
    if not shipped:
        from blastscope.export.benchmark_bundle import waived_bundle

        waived_bundle(trained, crops, place / "bundle", tell=tell)
