"""The index of neighbours: features of the training's cells in int8, with each cell's label, person and file name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from blastscope.runtime.bundle.manifest import NeighboursEntry, describe_file
from blastscope.runtime.bundle.reader import Bundle
from blastscope.runtime.errors import BundleError
from blastscope.runtime.types import CLASSES, ClassName

INDEX_FILE = "neighbours.safetensors"
MOST_CELLS = 100_000
LARGEST_INDEX = 64 * 2**20  # bytes
STEPS = 127  # of int8, on each side of 0
_COLUMNS = ("files", "patients", "people")
_ARRAYS = {"features", "scales", "labels", *_COLUMNS}


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourIndex:
    """What an index of neighbours tells of the training's cells.

    Attributes
    ----------
    features : (N, D) float32 array
        Of each cell, in standard deviations over the training's cells.
    labels : tuple of {'hem', 'all'}
        Of each cell.
    files : tuple of str
        The name of each cell's file, without its folder.
    patients : tuple of str
        The patient's id, as the data have it.
    people : tuple of str
        One id for all ids of the same person.

    Raises
    ------
    ValueError
        There is no cell, a column has another length, or a feature is no finite number.
    """

    features: NDArray[np.float32]  # (N, D)
    labels: tuple[ClassName, ...]
    files: tuple[str, ...]
    patients: tuple[str, ...]
    people: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.features.dtype != np.float32 or self.features.ndim != 2 or not self.features.size:
            raise ValueError(f"features are {self.features.dtype} {self.features.shape}, not float32 (N, D)")
        if not np.isfinite(self.features).all():
            raise ValueError("features are not finite numbers")
        for name in ("labels", *_COLUMNS):
            if len(getattr(self, name)) != len(self.features):
                raise ValueError(f"{len(getattr(self, name))} {name} for {len(self.features)} cells")


def index_bytes(index: NeighbourIndex) -> bytes:
    """The index as a safetensors file; the same bytes for the same index.

    Each feature is rounded to int8 by a scale of its own, so that its largest value becomes 127.

    Parameters
    ----------
    index : NeighbourIndex
        Features and what is known of each cell.

    Returns
    -------
    bytes
        To be written as `INDEX_FILE`.
    """
    codes, scales = _rounded(index.features)
    labels = np.array([CLASSES.index(label) for label in index.labels], np.uint8)
    texts = {name: _packed(getattr(index, name)) for name in _COLUMNS}
    return save({"features": codes, "scales": scales, "labels": labels, **texts})


def rounded_features(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (N, D) as they come back from an index."""
    codes, scales = _rounded(features)
    return codes * scales


def _rounded(features: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (N, D) and the scales (D,) that make features of them."""
    scales = np.maximum(np.abs(features).max(axis=0) / STEPS, np.finfo(np.float32).tiny)
    return np.clip(np.rint(features / scales), -STEPS, STEPS).astype(np.int8), scales


def index_entry(index: NeighbourIndex, content: bytes, graph: str) -> NeighboursEntry:
    """The manifest's entry of an index.

    Parameters
    ----------
    index : NeighbourIndex
        What was written.
    content : bytes
        Its file, as `index_bytes` made it.
    graph : str
        SHA-256 of the fused graph whose features they are.

    Returns
    -------
    NeighboursEntry
    """
    count, width = index.features.shape
    file = describe_file(content, INDEX_FILE).model_dump()
    return NeighboursEntry(**file, graph=graph, cells=count, people=len(set(index.people)), features=width)


def read_index(bundle: Bundle) -> NeighbourIndex | None:
    """The bundle's index of neighbours, verified and in the shapes that its manifest says.

    Parameters
    ----------
    bundle : Bundle
        As `read_bundle` gives it.

    Returns
    -------
    NeighbourIndex or None
        None where the bundle has none.

    Raises
    ------
    BundleError
        The file is too large, is no safetensors file, or holds other arrays than runtime/FORMAT.md says.
    DigestMismatch
        The file was changed since the bundle was read.
    """
    entry = bundle.manifest.neighbours
    if entry is None:
        return None
    if entry.size > LARGEST_INDEX:
        raise BundleError(bundle.path, f"{entry.file} is {entry.size} bytes, at most {LARGEST_INDEX} are read")
    try:
        index = _unpacked(load(bundle.read(entry)), entry)
        if strangers := set(index.patients) - set(bundle.manifest.training.patients.training):
            raise ValueError(f"a cell of patient '{min(strangers)}', who isn't in the training")
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(bundle.path, f"{entry.file}: {error}") from error
    return index


def _unpacked(arrays: dict[str, NDArray[Any]], entry: NeighboursEntry) -> NeighbourIndex:
    """Raises `ValueError` for what breaks a rule of the format."""
    if set(arrays) != _ARRAYS:
        raise ValueError(f"holds {', '.join(sorted(arrays))}, not {', '.join(sorted(_ARRAYS))}")
    wanted = {"features": (np.int8, (entry.cells, entry.features)), "scales": (np.float32, (entry.features,))}
    for name, (kind, shape) in {**wanted, "labels": (np.uint8, (entry.cells,))}.items():
        if arrays[name].dtype != kind or arrays[name].shape != shape:
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise ValueError(f"{name} are {found}, manifest says {np.dtype(kind).name} {shape}")
    if not (np.isfinite(arrays["scales"]) & (arrays["scales"] > 0)).all():
        raise ValueError("scales are not numbers above 0")
    if arrays["labels"].max() >= len(CLASSES):
        raise ValueError(f"labels are not 0 or 1, for {' and '.join(CLASSES)}")
    labels = tuple(CLASSES[code] for code in arrays["labels"].tolist())
    texts = {name: _texts(arrays[name], name, entry.cells) for name in _COLUMNS}
    if len(set(texts["people"])) != entry.people:
        raise ValueError(f"cells of {len(set(texts['people']))} people, manifest says {entry.people}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        features = arrays["features"] * arrays["scales"]
    return NeighbourIndex(features, labels, **texts)


def _packed(texts: tuple[str, ...]) -> NDArray[np.uint8]:
    """The texts in UTF-8, each with a zero byte behind it."""
    return np.frombuffer("".join(f"{text}\0" for text in texts).encode(), np.uint8)


def _texts(array: NDArray[Any], name: str, count: int) -> tuple[str, ...]:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"{name} are {array.dtype} {array.shape}, not uint8 (bytes of UTF-8,)")
    content = array.tobytes()
    if content.count(0) != count or not content.endswith(b"\0"):
        raise ValueError(f"{name} are {content.count(0)} texts ended by zero bytes, manifest says {count}")
    return tuple(content.decode().split("\0")[:-1])
