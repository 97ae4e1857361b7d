"""The crops of a data set, cached, and the batches that a training takes of them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blastscope.runtime.crop import Crop, CropSpecification
from blastscope.runtime.crop.reference import crop_dataset
from blastscope.runtime.io.atomic import clear_abandoned, write_folder
from blastscope.runtime.io.cnmc import Dataset, DatasetEntry
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.own_files import PRIVATE_FILE, exclusive_lock, make_private_folder
from blastscope.runtime.io.temporary_file import sibling
from blastscope.runtime.types import CLASSES
from blastscope.train.augment import augment, draw_augmentations
from blastscope.train.bagging import Bag, sample_epoch
from blastscope.train.config import AugmentConfig

CACHE_VERSION = 2  # of the cache; a change of the cropping code must raise it
_LOCK = "crops.lock"  # held while crops are made, apart from the lock of `write_folder`


@dataclass(frozen=True, slots=True)
class CropStore:
    """The crops of `cells`, in their order. The pixels stay on disk until they are read.

    Attributes
    ----------
    crops : (N, S, S, 3) uint8 array
        RGB; a read-only memory map.
    cells : tuple of DatasetEntry
        Whose crops these are, in order.
    sizes_px : (N,) float64 array
        Side in pixels of the square that has the area of the cell's box in its image: a crop may show less of a large cell.
    refused : tuple of (Path, str)
        Images without a crop, with the reason.
    data_sha256 : str
        Digest of the folder in hex, refused cells included.
    """

    crops: NDArray[np.uint8]
    cells: tuple[DatasetEntry, ...]
    sizes_px: NDArray[np.float64]
    refused: tuple[tuple[Path, str], ...]
    data_sha256: str

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each cell."""
        return np.array([CLASSES.index(cell.label) for cell in self.cells], np.int64)

    @property
    def patients(self) -> NDArray[np.str_]:
        """Patient of each cell."""
        return np.array([cell.patient for cell in self.cells])


def cache_crops(
    folder: Dataset,
    spec: CropSpecification,
    cache_dir: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CropStore:
    """The crops of every cell in a folder, from the cache where they were computed before.

    A cell that can't be decoded or cropped is left out and named. The cache's key holds the data's digest and the crop's
    specification, and a half-written cache is never found: it is renamed into place. A damaged one is made anew. Crops show
    patients' cells: only this user may look at them.

    Parameters
    ----------
    folder : Dataset
        The cells.
    spec : CropSpecification
        How a cell becomes a crop.
    cache_dir : Path
        Where the cache lies.
    workers : int
        Threads; 0: as many as the process may use.
    progress : callable, optional
        Called with (done, all) as cells are cropped.

    Returns
    -------
    CropStore
    """
    key = hashlib.sha256(f"{CACHE_VERSION} {folder.sha256} {spec.model_dump_json()}".encode()).hexdigest()[:24]
    place = Path(cache_dir) / f"crops-{key}"
    place.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(place.parent, prefix="crops-", lock=_LOCK)  # of whichever cells
    if not _is_sound(place):
        with exclusive_lock(sibling(place, _LOCK), wait=True):
            if not _is_sound(place):  # no other process was faster
                fill = partial(_fill, folder=folder, spec=spec, workers=workers or os.cpu_count() or 1, progress=progress)
                write_folder(place, fill, private=True)
    make_private_folder(place)
    return _open(place, folder)


def _is_sound(place: Path) -> bool:
    """Whether there is a cache whose crops are those that were written into it."""
    try:
        content = json.loads((place / "cells.json").read_text(encoding="utf-8"))
        return bool(content["crops_sha256"] == file_sha256(place / "crops.npy"))
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or one of an earlier version, without the digest
        return False


def _fill(
    place: Path, folder: Dataset, spec: CropSpecification, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    shape = (len(folder.cells), spec.side_px, spec.side_px, 3)
    start = np.lib.format.open_memmap(place / "crops.npy", mode="w+", dtype=np.uint8, shape=shape).offset
    kept: list[str] = []
    sizes: list[float] = []
    refused: list[tuple[str, str]] = []
    with (place / "crops.npy").open("r+b") as file:  # written, not mapped: on a full disk a map ends the process with SIGBUS
        file.seek(start)
        for number, (cell, result) in enumerate(crop_dataset(folder.cells, spec, workers=workers), start=1):
            if isinstance(result, Crop):
                file.write(result.pixels.tobytes())
                kept.append(cell.sha256)
                x0, y0, x1, y1 = result.box
                sizes.append(math.sqrt((x1 - x0) * (y1 - y0)))
            else:
                refused.append((cell.sha256, f"{result.code}: {result.detail}"))
            if progress:
                progress(number, len(folder.cells))
    digest = file_sha256(place / "crops.npy")
    content = {
        "layout": CACHE_VERSION,
        "crop": spec.model_dump(),
        "kept": kept,
        "sizes_px": sizes,
        "refused": refused,
        "crops_sha256": digest,
    }
    (place / "cells.json").write_text(json.dumps(content), encoding="utf-8")
    for path in place.iterdir():
        path.chmod(PRIVATE_FILE)


def _open(place: Path, folder: Dataset) -> CropStore:
    content = json.loads((place / "cells.json").read_text(encoding="utf-8"))
    by_digest = {cell.sha256: cell for cell in folder.cells}
    # in the folder's order, which may differ from the one that was cached when files were renamed since
    rows = {digest: row for row, digest in enumerate(content["kept"])}
    cells = tuple(cell for cell in folder.cells if cell.sha256 in rows)
    crops = np.load(place / "crops.npy", mmap_mode="r")
    order = np.array([rows[cell.sha256] for cell in cells], np.int64)
    ascending = bool((order == np.arange(len(order))).all())
    refused = tuple((by_digest[digest].path, reason) for digest, reason in content["refused"])
    sizes = np.array(content["sizes_px"], np.float64)[order]
    return CropStore(crops[: len(cells)] if ascending else crops[order], cells, sizes, refused, folder.sha256)


Inputs = NDArray[np.uint8] | NDArray[np.float32]  # crops (N, S, S, 3), or features (N, F) that frozen networks gave


class Batch(NamedTuple):
    """What one step of training takes.

    Attributes
    ----------
    inputs : (n, S, S, 3) or (n, F) tensor
        uint8 crops, or float32 features.
    labels : (n,) int64 tensor
        Class indices.
    nuisance : (n,) float32 tensor or None
        What the margin is not to follow (`trainer.nuisance_covariance`).
    """

    inputs: Tensor
    labels: Tensor
    nuisance: Tensor | None = None


@dataclass(frozen=True)
class TrainingBatches:
    """One epoch after the other over a bag.

    Everything random is a pure function of (seed, epoch), so that a resumed run goes on exactly where it was cut off.

    Attributes
    ----------
    inputs : (N, S, S, 3) uint8 or (N, F) float32 array
        Crops or features of all cells.
    labels : (N,) int64 array
        A class index for each row of the inputs.
    bag : Bag
        Which rows train, and which of them are augmented.
    batch_size : int
        Images of a step, of all processes together.
    seed : tuple of int
        The run's seed and the stage's number.
    chance : float64 array or None
        With how much weight each row of the bag is drawn; None: alike.
    images_per_epoch : int or None
        None: as many as the bag has.
    augment : AugmentConfig or None
        None: the inputs as they are.
    nuisance : (N,) float32 array or None
        A number for each row of the inputs.
    share : (int, int)
        This process's rank, and how many processes there are.
    """

    inputs: Inputs
    labels: NDArray[np.int64]
    bag: Bag
    batch_size: int
    seed: tuple[int, ...]
    chance: NDArray[np.float64] | None = None
    images_per_epoch: int | None = None
    augment: AugmentConfig | None = None
    nuisance: NDArray[np.float32] | None = None
    share: tuple[int, int] = field(default=(0, 1))

    @property
    def steps(self) -> int:
        """Batches in one epoch."""
        images = self.images_per_epoch or len(self.bag)
        # a last batch of one image has no spread for batch-norm to divide by
        return images // self.batch_size + (images % self.batch_size > self.share[1])

    def epoch(self, number: int, device: torch.device) -> Iterator[Batch]:
        """The batches of epoch `number`; of each batch this process's share."""
        rng = np.random.default_rng([*self.seed, number])
        order = sample_epoch(self.chance, len(self.bag), self.images_per_epoch, rng)
        table = draw_augmentations(self.augment, self.bag.augmented[order], rng) if self.augment else None
        rank, world = self.share
        for step in range(self.steps):
            places = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(order)))
            places = places[: len(places) // world * world][rank::world]  # alike for all: gradients are averaged over processes
            rows = self.bag.cells[order[places]]
            inputs = self.inputs[rows]
            if table is not None:
                inputs = augment(inputs.astype(np.uint8, copy=False), table[places], rng)
            nuisance = None if self.nuisance is None else torch.from_numpy(self.nuisance[rows]).to(device)
            yield Batch(torch.from_numpy(inputs).to(device), torch.from_numpy(self.labels[rows]).to(device), nuisance)


@dataclass(frozen=True)
class ValidationBatches:
    """The validation cells in their order, each as it is.

    Attributes
    ----------
    inputs : (N, S, S, 3) uint8 or (N, F) float32 array
        Crops or features of all cells.
    labels : (N,) int64 array
        A class index for each row of the inputs.
    rows : (V,) int64 array
        Rows of the validation cells.
    batch_size : int
        Cells of a step.
    """

    inputs: Inputs
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    batch_size: int

    def __len__(self) -> int:
        return len(self.rows)

    def all(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, labels), every cell once."""
        for start in range(0, len(self.rows), self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            yield torch.from_numpy(self.inputs[rows]).to(device), torch.from_numpy(self.labels[rows]).to(device)


def seed_of(*numbers: int) -> int:
    """One seed for PyTorch out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] % 2**63)
