"""`LabelledArchive`: a folder of labelled cells, of which those most like a cell are shown beside its call."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from blastscope.runtime.backends.blob_store import drop_unused
from blastscope.runtime.backends.openvino.features import open_features
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.bundle.graphs import RefusedGraph
from blastscope.runtime.crop import crop_cell
from blastscope.runtime.errors import UsageError, WriteError
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.cnmc import Dataset, DatasetEntry, scan_dataset
from blastscope.runtime.io.concurrency import ordered_map
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.image import load_pixels
from blastscope.runtime.io.image_decode import read_content
from blastscope.runtime.io.own_files import Unusable, make_private_folder, read_own
from blastscope.runtime.io.paths import read_ahead
from blastscope.runtime.types import PRECISIONS, ClassName, Refusal

NEAREST = 5
CHANGED = "was changed while it was read"
LARGEST_CACHE = 2**31  # bytes: five million cells
LOG = logging.getLogger(__name__)

Features = NDArray[np.float32]  # (N, D), or (D,) of one cell


class NeighbourRow(TypedDict):
    """A `Neighbour` as plain values, as the command line prints it.

    Attributes
    ----------
    path : str
        Its file.
    label : ClassName
        The archive's label.
    patient : str
        The archive's id.
    distance : float
        How far it is from the cell.
    """

    path: str
    label: ClassName
    patient: str
    distance: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A labelled cell of an archive that is like another cell.

    Attributes
    ----------
    path : Path
        Its image file.
    label : {'hem', 'all'}
        The label that the archive gives it.
    patient : str
        The patient's id, as the archive has it.
    distance : float
        Root mean square of the differences of both cells' features, each in standard deviations over the training's cells. 0 is
        the same picture; between two cells of the training that nothing connects it is about 1.3.
    """

    path: Path
    label: ClassName
    patient: str
    distance: float

    def row(self) -> NeighbourRow:
        """The neighbour as plain values, which `json.dumps` takes."""
        return NeighbourRow(path=str(self.path), label=self.label, patient=self.patient, distance=self.distance)


class _Read(NamedTuple):
    """What is known of an archive's cells."""

    cells: tuple[DatasetEntry, ...]
    features: Features
    left_out: tuple[tuple[Path, str], ...]


class LabelledArchive:
    """The cells of a folder in C-NMC's naming, by the features that a bundle's networks measure novelty by.

    `Scope.open_archive` makes one. It holds a network of its own: `close` it, or use it as a context manager. Thread-safe.

    Attributes
    ----------
    root : Path
        The folder.
    cells : tuple of DatasetEntry
        Its cells.
    features : (N, D) float32 array
        Those of each cell, in standard deviations over the training's cells.
    left_out : tuple of (Path, str)
        Files that couldn't be used, each with the reason.
    """

    def __init__(self, bundle: Bundle, folder: Path, *, cache_dir: Path | None, threads: int | None = None) -> None:
        dataset = scan_dataset(folder)
        self.root, self._crop = dataset.root, bundle.manifest.crop
        self._network = _open_network(bundle, threads)
        try:
            self.cells, self.features, self.left_out = self._read(dataset, cache_dir)
        except BaseException:
            self.close()
            raise

    def nearest(self, image: object, count: int = NEAREST) -> tuple[Neighbour, ...]:
        """The cells of the archive that are most like the one on `image`, the nearest first.

        Parameters
        ----------
        image : as `Scope.classify` takes it
            One cell on black, in host memory.
        count : int
            How many; fewer where the archive has fewer.

        Returns
        -------
        tuple of Neighbour

        Raises
        ------
        UsageError
            The image shows no such cell, or `count` is below 1.
        Closed
            The archive is closed.
        """
        if count < 1:
            raise UsageError(f"{count} nearest cells are asked for: ask for 1 at least")
        found = self._measure(image)
        if isinstance(found, Refusal):
            raise UsageError(f"the cell can't be compared, it is refused: {found.detail}")
        apart = distances(self.features, found)
        order = np.argsort(apart, kind="stable")[:count]
        chosen = [(self.cells[place], float(apart[place])) for place in order.tolist()]
        return tuple(Neighbour(cell.path, cell.label, cell.patient, distance) for cell, distance in chosen)

    def close(self) -> None:
        """Frees the network. Safe to call twice."""
        self._network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _measure(self, image: object) -> Features | Refusal:
        """The features (D,) of the cell on `image`."""
        pixels: Any = load_pixels(image)
        crop = pixels if isinstance(pixels, Refusal) else crop_cell(pixels, self._crop)
        if isinstance(crop, Refusal):
            return crop
        with self._network.call():
            features: Features = self._network.infer_on_lane(crop.pixels[None])[0]
        return features

    def _read(self, dataset: Dataset, cache_dir: Path | None) -> _Read:
        """The features of all cells: from the cache, and for cells that aren't there by the network."""
        place = self._place(cache_dir) if cache_dir else None
        known = _read_cache(place) if place else {}
        fresh = [cell for cell in dataset.cells if cell.sha256 not in known]
        if fresh:
            LOG.info(
                "comparing needs the features of %d cells of '%s': once, some hundredths of a second each",
                len(fresh),
                self.root,
            )
        paths = {cell.path: cell for cell in fresh}
        left_out = list(dataset.rejected)
        workers = max(2, len(self._network.engine.lanes))
        for path, found in ordered_map(lambda path: self._features_at(paths[path]), read_ahead(paths), workers=workers):
            if isinstance(found, str):
                left_out.append((path, found))
            else:
                known[paths[path].sha256] = found
        cells = tuple(cell for cell in dataset.cells if cell.sha256 in known)
        if not cells:
            raise UsageError(f"no cell of '{self.root}' can be compared, the first: {left_out[0][1]}")
        features = np.stack([known[cell.sha256] for cell in cells])
        if place and fresh:
            _write_cache(place, cells, features)
        return _Read(cells, features, tuple(left_out))

    def _features_at(self, cell: DatasetEntry) -> Features | str:
        """The features of a cell of the archive, or why there are none."""
        content = read_content(cell.path)
        if isinstance(content, Refusal):
            return content.detail
        if bytes_sha256(content) != cell.sha256:
            return CHANGED
        found = self._measure(content)
        return found.detail if isinstance(found, Refusal) else found

    def _place(self, cache_dir: Path) -> Path:
        """Where the features of this folder by this network are kept; each cell's by its content, so a folder may grow."""
        facts = (self._network.engine.digest, self._crop.model_dump_json(), os.path.realpath(self.root))
        name = hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape")).hexdigest()
        return cache_dir / "archives" / f"{name}.safetensors"


def distances(archive: Features, features: Features) -> NDArray[np.float32]:
    """How far cells are from one cell.

    Parameters
    ----------
    archive : (N, D) float32 array
        Features of the cells.
    features : (D,) float32 array
        Of the one cell.

    Returns
    -------
    (N,) float32 array
        Root mean squares of the differences.
    """
    found: NDArray[np.float32] = np.sqrt(np.square(archive - features).mean(axis=1, dtype=np.float32))
    return found


def _open_network(bundle: Bundle, threads: int | None) -> InferencePool:
    manifest = bundle.manifest
    entry = next(filter(None, (bundle.graph(precision) for precision in PRECISIONS)), None)
    if entry is None or not manifest.measures_novelty:
        raise UsageError(
            f"bundle '{bundle.path}' measures no novelty, so it has no features by which cells could be compared: take one "
            "whose networks share a trunk, such as the one that is shipped"
        )
    options = EngineOptions(workload="throughput", threads=threads, crop=manifest.crop)
    try:
        return InferencePool(open_features(bundle.file(entry), entry.sha256, options))
    except RefusedGraph as error:
        raise error.in_bundle(bundle.path, entry.file) from error


def _read_cache(place: Path) -> dict[str, Features]:
    """The features that are kept at `place`, by the digest of each cell's file; none where others could have written them."""
    try:
        arrays = load(read_own(place, LARGEST_CACHE))
        features, digests = arrays["features"], arrays["sha256"]
        os.utime(place)
    except (Unusable, OSError, SafetensorError, ValueError, KeyError):
        return {}
    sound = features.dtype == np.float32 and features.ndim == 2 and np.isfinite(features).all()
    if not sound or digests.dtype != np.uint8 or digests.shape != (len(features), 32):
        return {}
    return {digest.tobytes().hex(): row for digest, row in zip(digests, features, strict=True)}


def _write_cache(place: Path, cells: Sequence[DatasetEntry], features: Features) -> None:
    """Keeps features for the next time, for this user's eyes alone; where that can't be done they are made anew then."""
    digests = np.frombuffer(b"".join(bytes.fromhex(cell.sha256) for cell in cells), np.uint8).reshape(-1, 32)
    try:
        make_private_folder(place.parent)
        write_content(place, save({"features": features, "sha256": digests}), private=True)
        drop_unused(place.parent)
    except (OSError, WriteError) as error:
        LOG.info("the archive's features can't be kept (%s), so they are made anew each time", error)
