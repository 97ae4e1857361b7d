"""What a frozen trunk gives of each cell, as it is and augmented, cached beside the crops."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.locks import exclusive_lock
from blastscope.runtime.io.temporary_file import sibling
from blastscope.train.augment import augment, draw_augmentations
from blastscope.train.config import TrainConfig
from blastscope.train.crop_cache import CropStore
from blastscope.train.fit_checkpoint import Tensors, read_tensors, write_tensors
from blastscope.train.progress import Progress
from blastscope.train.trunk import Trunk

CACHE_VERSION = 1  # a change of what stands in the file must raise it


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """A row for each of the N cells of a crop store, then, for each augmented copy, a row for each cell again.

    Attributes
    ----------
    features : ((1 + copies) N, F) float32 array
        As `trunk.Statistics` has them.
    shape : ((1 + copies) N, 2) float32 array
        As `trunk.Statistics` has it.
    lightness : ((1 + copies) N,) float32 array
        Mean gray level of the cell's pixels, 0 to 255.
    """

    features: NDArray[np.float32]  # ((1 + copies) N, F), as `trunk.Statistics` has them
    shape: NDArray[np.float32]  # ((1 + copies) N, 2)
    lightness: NDArray[np.float32]  # ((1 + copies) N,) mean gray level of the cell's pixels, 0 to 255


def trunk_features(store: CropStore, trunk: Trunk, config: TrainConfig, cache_dir: Path, progress: Progress) -> FeatureTable:
    """The trunk's features of every cell, from the cache where they were computed before.

    The cache's key holds the cells, the crop, the weights of the trunk and the augmentation, so a stale file is never found.

    Parameters
    ----------
    store : CropStore
        The crops of the cells.
    trunk : Trunk
        What computes the features, on the device where it lies.
    config : TrainConfig
        With a section `trunk`.
    cache_dir : Path
        Where tables are kept; only this user may read them.
    progress : Progress
        Is told how far the work is.

    Returns
    -------
    FeatureTable
    """
    place = Path(cache_dir) / f"features-{_key(store, trunk, config)}.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    tensors = _read(place)
    if tensors is None:
        with exclusive_lock(sibling(place, "lock"), wait=True):
            tensors = _read(place)  # another process may have been faster
            if tensors is None:
                tensors = _compute(store, trunk, config, progress)
                write_tensors(place, tensors, private=True)  # of patients' cells
    return FeatureTable(*(tensors[name].numpy() for name in ("features", "shape", "lightness")))


def _read(place: Path) -> Tensors | None:
    """What is cached; None where nothing is, or where it is damaged."""
    try:
        return read_tensors(place)[0] if place.is_file() else None
    except DataError:
        return None


def _key(store: CropStore, trunk: Trunk, config: TrainConfig) -> str:
    assert config.trunk is not None
    digest = hashlib.sha256(f"{CACHE_VERSION} {store.data_sha256} {config.crop.model_dump_json()} {config.seed}".encode())
    digest.update(f"{config.augment.model_dump_json()} {config.network.model_dump_json()}".encode())
    digest.update(f"{config.trunk.stages} {config.trunk.covariances} {config.trunk.augmented_copies}".encode())
    for name, tensor in trunk.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


@torch.inference_mode()
def _compute(store: CropStore, trunk: Trunk, config: TrainConfig, progress: Progress) -> Tensors:
    assert config.trunk is not None
    cells, batch, copies = len(store.cells), config.compute.batch, config.trunk.augmented_copies
    device = next(trunk.backbone.parameters()).device
    features, shapes, lightness = [], [], []
    for copy in range(1 + copies):
        rng = np.random.default_rng([config.seed, 4, copy])
        # drawn for all, also in the paper's mode, which says which images of a bag are augmented
        table = draw_augmentations(config.augment, np.ones(cells, np.bool_), rng) if copy else None
        for start in range(0, cells, batch):
            crops = np.array(store.crops[start : start + batch])  # a copy: PyTorch takes no read-only map
            if table is not None:
                crops = augment(crops, table[start : start + batch], rng)
            statistics = trunk(torch.from_numpy(crops).to(device))
            features.append(statistics.features.cpu())
            shapes.append(statistics.shape.cpu())
            lightness.append(torch.from_numpy(_lightness(crops)))
            progress.advance("features", copy * cells + start + len(crops), (1 + copies) * cells)
    return {"features": torch.cat(features), "shape": torch.cat(shapes), "lightness": torch.cat(lightness)}


def _lightness(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    cell = crops.max(axis=3) > 0
    gray = crops.mean(axis=3, dtype=np.float32)
    found: NDArray[np.float32] = (gray.sum(axis=(1, 2)) / cell.sum(axis=(1, 2)).clip(min=1)).astype(np.float32)
    return found
