"""The models that are measured: the shipped bundle, and backbones with random weights."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from blastscope import SHIPPED_BUNDLE, __version__
from blastscope.benchmarks.interleaved_timing import Image
from blastscope.runtime.bundle import read_bundle
from blastscope.runtime.crop import Crop, CropSpecification, crop_cell
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import default_cache_dir
from blastscope.runtime.io.synthetic import synthetic_cells
from blastscope.runtime.types import Refusal

if TYPE_CHECKING:
    from blastscope.train.config import TrainConfig

logger = logging.getLogger(__name__)

SAMPLE_CELLS = 64  # that set the batch-norm statistics and the int8 ranges of random weights


@dataclass(frozen=True)
class BenchmarkModel:
    """A network in two forms: a run for PyTorch and a bundle for the runtime.

    Attributes
    ----------
    name
        'shipped', or the timm backbone.
    run
        Folder of a trained ensemble.
    bundle
        Folder of a bundle.
    same_weights
        False for the shipped bundle, whose run is not shipped: PyTorch then runs the same architecture with random weights,
        which takes as long and gives other labels.
    cache
        Folder for files that the baselines need; None: nothing is kept.
    """

    name: str
    run: Path
    bundle: Path
    same_weights: bool
    cache: Path | None = None


def prepare_model(name: str, data: Path | None) -> BenchmarkModel:
    """The model `name`, built in the user's cache at its first use: minutes for Inception-ResNet-v2.

    Parameters
    ----------
    name
        'shipped', or a timm backbone, which gets random weights.
    data
        Folder of C-NMC cells that set the batch-norm statistics of random weights; None: synthetic cells set them.

    Returns
    -------
    BenchmarkModel
        With both its forms on disk.
    """
    from blastscope.train.config import TrainConfig

    shipped = name == "shipped"
    manifest = read_bundle(SHIPPED_BUNDLE).manifest if shipped else None
    config = TrainConfig.model_validate(manifest.training.config) if manifest else _random_config(name)
    folder = default_cache_dir() / "benchmarks" / f"{name}-{config.crop.side_px}-{__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            logger.info("%s: building, once, in '%s'", name, folder)
            _build(config, folder, sample_crops(config.crop, data), shipped=shipped)
            (folder / "done").touch()
    return BenchmarkModel(name, folder / "run", SHIPPED_BUNDLE if shipped else folder / "bundle", not shipped, folder)


def sample_crops(spec: CropSpecification, data: Path | None) -> NDArray[np.uint8]:
    """At most 64 crops, uint8 (N, S, S, 3) RGB, of real cells below `data`, or of synthetic ones where `data` is None."""
    if data is None:
        return crop_images([cell.image for cell in synthetic_cells(SAMPLE_CELLS, seed=0)], spec)
    cells = random.Random(0).sample(scan_dataset(data).cells, SAMPLE_CELLS)
    images = [read_image(cell.path) for cell in cells]
    return crop_images([image for image in images if not isinstance(image, Refusal)], spec)


def crop_images(images: Sequence[Image], spec: CropSpecification) -> NDArray[np.uint8]:
    """The crops, uint8 (N, S, S, 3) RGB, of images that are known to be cells; an image that is refused has none."""
    crops = [crop_cell(image, spec) for image in images]
    return np.stack([crop.pixels for crop in crops if isinstance(crop, Crop)])


def _random_config(backbone: str) -> TrainConfig:
    """The paper's configuration on another backbone, from random weights."""
    from blastscope.train.config import NetworkConfig, TrainConfig

    return TrainConfig(network=NetworkConfig(backbone=backbone, weights="none"))


def _build(config: TrainConfig, folder: Path, crops: NDArray[np.uint8], *, shipped: bool) -> None:
    from blastscope.train.ensemble_checkpoint import random_ensemble, save_ensemble

    trained = random_ensemble(config, crops)
    save_ensemble(folder / "run", trained)
    if not shipped:
        from blastscope.benchmarks.benchmark_bundle import make_benchmark_bundle

        make_benchmark_bundle(trained, crops, folder / "bundle")
