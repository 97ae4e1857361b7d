"""The pool: training pictures of each source, drawn once, with the trunk's maps of them, kept on disk shard by shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.hashing import file_sha256
from blastscope.train.detector.composites import Cell, drawn_cell, prepare_cell
from blastscope.train.detector.config import DetectorConfig
from blastscope.train.detector.network import DetectorTrunk, Targets, TrunkRunner, encode, joined
from blastscope.train.detector.pictures import Prepared, draw_sample, prepare
from blastscope.train.detector.sources import cnmc_cells, each_source, pbc_cells, read_rgb
from blastscope.train.fit_checkpoint import read_tensors, write_tensors
from blastscope.train.progress import TrainingProgress

POOL_VERSION = 1  # a change of how pictures are drawn must raise it
SOURCES = ("bccd", "raabin", "pbc", "pbc_cells", "cnmc")
# sources whose pictures show the same laboratory's: leaving one out leaves out all of them
SAME_SOURCE = {"bccd": ("bccd",), "raabin": ("raabin",), "pbc": ("pbc", "pbc_cells")}
MOST_CELLS = 800  # of C-NMC, evenly over its patients


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Some pictures of one source: the trunk's maps, and what should be found in them.

    Attributes
    ----------
    fine, coarse : (N, C, h, w) float16 array
        The trunk's maps of N pictures.
    targets : Targets
        Of the same pictures.
    """

    fine: NDArray[np.float16]
    coarse: NDArray[np.float16]
    targets: Targets


class PictureSource:
    """Draws the training pictures of the sources; a source's frames are read when it is first asked for."""

    def __init__(self, data: Path, config: DetectorConfig) -> None:
        self._data, self._config = data, config
        self._frames: dict[str, list[Prepared] | None] = {"cnmc": None}
        self._cells: list[Cell] = []

    def pictures(self, source: str, shard: int, count: int) -> tuple[NDArray[np.uint8], Targets]:
        """`count` pictures (N, S, S, 3) uint8 RGB of `source` with their targets; the same ones at each call."""
        config = self._config.picture
        rng = np.random.default_rng([self._config.seed, SOURCES.index(source), shard])
        frames, cells = self._read(source), self._all_cells()
        samples = [draw_sample(frames, cells, config, rng) for _ in range(count)]
        return np.stack([sample.picture for sample in samples]), joined([encode(sample) for sample in samples])

    def _all_cells(self) -> list[Cell]:
        if not self._cells:
            paths = cnmc_cells(self._data / "cnmc")
            step = max(len(paths) // MOST_CELLS, 1)
            whole = [*map(read_rgb, paths[::step]), *map(drawn_cell, range(self._config.pool.drawn_cells))]
            self._cells = [prepare_cell(picture, self._config.picture) for picture in whole]
        return self._cells

    def _read(self, source: str) -> list[Prepared] | None:
        if source not in self._frames:
            frames = pbc_cells(self._data / "pbc") if source == "pbc_cells" else dict(each_source(self._data))[source]
            self._frames[source] = [prepare(frame, self._config.picture) for frame in frames]
        return self._frames[source]


def shards_of(config: DetectorConfig, source: str) -> list[int]:
    """How many pictures each shard of `source` holds."""
    whole, each = getattr(config.pool, source), config.pool.shard
    return [min(each, whole - start) for start in range(0, whole, each)]


def pool_key(data: Path, trunk: DetectorTrunk, config: DetectorConfig) -> str:
    """A digest of all that decides what the pool holds."""
    unseen = {"shown_red_cell_px"} if config.picture.white_balance else {"shown_red_cell_px", "white_balance"}  # as before
    pictures = config.picture.model_dump_json(exclude=unseen)
    digest = hashlib.sha256(f"{POOL_VERSION} {config.seed} {config.backbone} {config.stages} {pictures}".encode())
    digest.update(f"{config.pool.shard} {MOST_CELLS} {config.pool.drawn_cells}".encode())
    for name in ("bccd/train.txt", "txl/boxes.csv"):
        if not (data / name).is_file():
            raise DataError(data / name, "is missing: DATA must hold bccd/, txl/, pbc/ and cnmc/")
        digest.update(file_sha256(data / name).encode())
    for folder in ("pbc", "cnmc"):
        names = sorted(str(path.relative_to(data)) for path in (data / folder).rglob("*.*"))
        digest.update("\n".join(names).encode())
    for name, tensor in trunk.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def fill_pool(data: Path, trunk: DetectorTrunk, config: DetectorConfig, folder: Path, progress: TrainingProgress) -> None:
    """Draws the training pictures that are missing in the pool, and keeps the trunk's maps of them.

    Parameters
    ----------
    data : Path
        Folder of the sources.
    trunk : DetectorTrunk
        Gives the maps.
    config : DetectorConfig
        How many pictures, and what they look like.
    folder : Path
        The pool.
    progress : TrainingProgress
        Is told of each shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = PictureSource(data, config)
    runner: TrunkRunner | None = None
    wanted = [(source, at, count) for source in SOURCES for at, count in enumerate(shards_of(config, source))]
    wanted.sort(key=lambda item: item[1])  # a little of each source first
    for done, (source, at, count) in enumerate(wanted):
        place = _place(folder, source, at, count)
        if place.is_file():
            continue
        runner = runner or TrunkRunner(trunk, config.picture.side_px)
        drawn, targets = pictures.pictures(source, at, count)
        fine, coarse = runner.maps(drawn)
        arrays = {"fine": fine, "coarse": coarse, **targets._asdict()}
        write_tensors(place, {name: torch.from_numpy(array) for name, array in arrays.items()}, private=True)
        progress.advance("pictures", done + 1, len(wanted))


def _place(folder: Path, source: str, at: int, count: int) -> Path:
    return folder / f"{source}-{at:03d}-{count}.safetensors"


def read_pool(config: DetectorConfig, folder: Path, left_out: str | None) -> Iterator[tuple[str, Shard]]:
    """The shards of all sources but `left_out`, with their sources."""
    without = SAME_SOURCE[left_out] if left_out else ()
    for source in sorted(SOURCES):
        for at, count in enumerate(shards_of(config, source)):
            if source not in without:
                tensors = read_tensors(_place(folder, source, at, count))[0]
                arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
                yield source, Shard(arrays.pop("fine"), arrays.pop("coarse"), Targets(**arrays))
