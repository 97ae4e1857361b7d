"""Crops of a data set, cached as one memory-mapped array."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.crop import Crop, CropSpecification
from blastscope.runtime.crop.reference import crop_dataset
from blastscope.runtime.io.atomic import clear_abandoned, write_folder
from blastscope.runtime.io.cnmc import Dataset, DatasetEntry
from blastscope.runtime.io.hashing import file_sha256
from blastscope.runtime.io.locks import exclusive_lock
from blastscope.runtime.io.own_files import PRIVATE_FILE, make_private_folder
from blastscope.runtime.io.temporary_file import sibling
from blastscope.runtime.types import CLASSES

CACHE_VERSION = 1  # of the cache; a change of the cropping code must raise it
_LOCK = "crops.lock"  # held while crops are made, apart from the lock of `write_folder`


@dataclass(frozen=True, slots=True)
class CropStore:
    """The crops of `cells`, in their order. The pixels stay on disk until they are read."""

    crops: NDArray[np.uint8]  # (N, S, S, 3), a read-only memory map
    cells: tuple[DatasetEntry, ...]
    refused: tuple[tuple[Path, str], ...]  # images without a crop, with the reason
    data_sha256: str  # of the folder, refused cells included

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
    """The crops of every cell in `folder`, from `cache_dir` where they were computed before.

    `progress(done, all)` is called as cells are cropped. A cell that can't be decoded or cropped is left out and named. The
    cache's key holds the data's digest and the crop's specification, and a half-written cache is never found: it is renamed
    into place. A damaged one is made anew. Crops show patients' cells: only this user may look at them.
    """
    key = hashlib.sha256(f"{CACHE_VERSION} {folder.sha256} {spec.model_dump_json()}".encode()).hexdigest()[:24]
    place = Path(cache_dir) / f"crops-{key}"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not _is_sound(place):
        clear_abandoned(place.parent, prefix="crops-", lock=_LOCK)
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
    refused: list[tuple[str, str]] = []
    with (place / "crops.npy").open("r+b") as file:  # written, not mapped: on a full disk a map ends the process with SIGBUS
        file.seek(start)
        for number, (cell, result) in enumerate(crop_dataset(folder.cells, spec, workers=workers), start=1):
            if isinstance(result, Crop):
                file.write(result.pixels.tobytes())
                kept.append(cell.sha256)
            else:
                refused.append((cell.sha256, f"{result.code}: {result.detail}"))
            if progress:
                progress(number, len(folder.cells))
    digest = file_sha256(place / "crops.npy")
    content = {"layout": CACHE_VERSION, "crop": spec.model_dump(), "kept": kept, "refused": refused, "crops_sha256": digest}
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
    return CropStore(crops[: len(cells)] if ascending else crops[order], cells, refused, folder.sha256)
