"""`LabelledArchive`: labelled cells, of which those most like a cell are shown beside its call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.backends.openvino.features import open_features
from blastscope.runtime.backends.protocol import EngineOptions
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.bundle.graphs import RefusedGraph
from blastscope.runtime.bundle.manifest import GraphEntry
from blastscope.runtime.bundle.neighbour_index import read_index
from blastscope.runtime.crop import CropSpecification, crop_cell
from blastscope.runtime.errors import BundleError, UsageError
from blastscope.runtime.inference.options import whole_number
from blastscope.runtime.inference.worker_pool import InferencePool
from blastscope.runtime.io.image import load_pixels
from blastscope.runtime.types import CLASSES, PRECISIONS, Box, ClassName, Refusal

NEAREST = 5

Features = NDArray[np.float32]  # (N, D), or (D,) of one cell


class NeighbourRow(TypedDict):
    """A `Neighbour` as plain values, as the command line prints it.

    Attributes
    ----------
    path : str or None
        Its file, or the frame that it is in; None where the bundle's index told of it.
    box : list of int or None
        Of a cell in a frame: x0, y0, x1, y1 in pixels, half-open.
    file : str
        The name of its file.
    label : ClassName
        The archive's label.
    patient : str
        The archive's id; empty where it has none.
    person : str
        One id for all ids of the same person.
    distance : float
        How far it is from the cell.
    """

    path: str | None
    box: list[int] | None
    file: str
    label: ClassName
    patient: str
    person: str
    distance: float


@dataclass(frozen=True, slots=True)
class ArchiveCell:
    """One labelled cell of an archive.

    Attributes
    ----------
    file : str
        The name of its image file, or of the frame that it is in.
    label : {'hem', 'all'}
        The label that the archive gives it.
    patient : str
        The patient's id, as the archive has it; empty where it has none.
    person : str
        One id for all ids of the same person.
    path : Path or None
        Its image file, or the frame that it is in; None where the bundle's index told of it.
    box : (x0, y0, x1, y1) or None
        Of a cell in a frame, in pixels, half-open.
    sha256 : str
        Digest of its image file, or of its picture; empty where there is none.
    image : Path, bytes or None
        What shows the cell on black: a file, or a picture as PNG.
    """

    file: str
    label: ClassName
    patient: str
    person: str
    path: Path | None = None
    box: Box | None = None
    sha256: str = ""
    image: Path | bytes | None = field(default=None, repr=False)

    @property
    def who(self) -> str:
        """The patient in words, with the other id of a person who has several."""
        if not self.patient:
            return "patient unknown"
        return f"patient {self.patient}" + ("" if self.person == self.patient else f", person {self.person}")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A labelled cell that is like another cell.

    Attributes
    ----------
    cell : ArchiveCell
        Its label, person and picture.
    distance : float
        Root mean square of the differences of both cells' features, each in standard deviations over the training's cells. 0 is
        the same picture, or 0.01 by the bundle's index, which rounds features; two unrelated cells of the training are
        about 1.3 apart.
    """

    cell: ArchiveCell
    distance: float

    def row(self) -> NeighbourRow:
        """The neighbour as plain values, which `json.dumps` takes."""
        cell = self.cell
        return NeighbourRow(
            path=None if cell.path is None else str(cell.path),
            box=None if cell.box is None else list(cell.box),
            file=cell.file,
            label=cell.label,
            patient=cell.patient,
            person=cell.person,
            distance=self.distance,
        )


def in_words(neighbours: Sequence[Neighbour]) -> str:
    """What labels neighbours have, and of how many people they are, in words.

    Parameters
    ----------
    neighbours : sequence of Neighbour
        At least one.

    Returns
    -------
    str
        Such as '4 ALL and 1 HEM, of 3 people'. Ids of one person count once; nothing is said of people where one isn't known.
    """
    counts = Counter(one.cell.label for one in neighbours)
    said = " and ".join(f"{counts[label]} {label.upper()}" for label in reversed(CLASSES) if counts[label])
    people = {one.cell.person for one in neighbours}
    if "" in people:
        return said
    return f"{said}, of {'one person' if len(people) == 1 else f'{len(people)} people'}"


class LabelledArchive:
    """Labelled cells, by the features that a bundle's networks measure novelty by.

    `Scope.open_archive` makes one. It holds a network of its own: `close` it, or use it as a context manager. Thread-safe.

    Attributes
    ----------
    cells : tuple of ArchiveCell
        Its cells.
    features : (N, D) float32 array
        Those of each cell, in standard deviations over the training's cells.
    left_out : tuple of (Path, str)
        Files that couldn't be used, each with the reason.
    graph : str
        SHA-256 of the fused graph whose features they are.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        cells: Sequence[ArchiveCell],
        features: Features,
        left_out: Sequence[tuple[Path, str]] = (),
    ) -> None:
        self._network, self.graph = network, network.entry.sha256
        self.cells, self.features, self.left_out = tuple(cells), features, tuple(left_out)

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
            The image shows no such cell, or `count` is no whole number from 1 on.
        Closed
            The archive is closed.
        """
        count = whole_number("count", count)
        found = self._network.measure(image)
        if isinstance(found, Refusal):
            raise UsageError(f"the cell can't be compared, it is refused: {found.detail}")
        apart = distances(self.features, found)
        order = np.argsort(apart, kind="stable")[:count]
        return tuple(Neighbour(self.cells[place], float(apart[place])) for place in order.tolist())

    def close(self) -> None:
        """Frees the network. Safe to call twice."""
        self._network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_training_cells(bundle: Bundle, *, threads: int | None = None) -> LabelledArchive:
    """The training's cells, by the index of neighbours in a bundle.

    Parameters
    ----------
    bundle : Bundle
        As `read_bundle` gives it.
    threads : int, optional
        How many threads its network takes.

    Returns
    -------
    LabelledArchive
        Its cells have no pictures.

    Raises
    ------
    UsageError
        The bundle has no index.
    BundleError
        The index breaks a rule of the format.
    UnavailableError
        OpenVINO is missing or refuses the graph.
    """
    index, entry = read_index(bundle), bundle.manifest.neighbours
    if index is None or entry is None:
        raise UsageError(
            f"bundle '{bundle.path}' has no index of the training's cells: put one into it by 'blastscope add-neighbours', "
            "or name a folder of labelled cells"
        )
    network = FeatureNetwork(bundle, threads, graph=entry.graph)
    columns = zip(index.files, index.labels, index.patients, index.people, strict=True)
    try:
        network.check_width(entry.features)
    except BaseException:
        network.close()
        raise
    return LabelledArchive(network, [ArchiveCell(*column) for column in columns], index.features)


class FeatureNetwork:
    """A bundle's graph as far as the features that novelty is measured by, on the CPU. Thread-safe.

    Parameters
    ----------
    bundle : Bundle
        Its networks must measure novelty.
    threads : int or None
        None takes what the CPU has.
    graph : str, optional
        SHA-256 of the fused graph. By default the first of fp32, fp16 and int8 that the bundle has.

    Raises
    ------
    UsageError
        The bundle measures no novelty.
    UnavailableError
        OpenVINO is missing or refuses the graph.
    """

    def __init__(self, bundle: Bundle, threads: int | None, *, graph: str | None = None) -> None:
        self._bundle, self._crop = bundle, bundle.manifest.crop
        self.entry = _fused_graph(bundle, graph)
        self._pool = _open_pool(bundle, self.entry, threads, self._crop)
        self.digest, self.workers = self._pool.engine.digest, len(self._pool.engine.lanes)

    def measure(self, image: object) -> Features | Refusal:
        """The features (D,) of the cell on `image`, which is as `Scope.classify` takes it; or why there are none."""
        pixels: Any = load_pixels(image)
        crop = pixels if isinstance(pixels, Refusal) else crop_cell(pixels, self._crop)
        return crop if isinstance(crop, Refusal) else self._infer(crop.pixels)

    def check_width(self, features: int) -> None:
        """Raises `BundleError` where the network gives another number of features."""
        side = self._crop.side_px
        found = len(self._infer(np.zeros((side, side, 3), np.uint8)))
        if found != features:
            raise BundleError(
                self._bundle.path, f"the index of neighbours has {features} features a cell, {self.entry.file} gives {found}"
            )

    def close(self) -> None:
        """Frees the network. Safe to call twice."""
        self._pool.close()

    def _infer(self, pixels: NDArray[np.uint8]) -> Features:
        with self._pool.call():
            features: Features = self._pool.infer_on_lane(pixels[None])[0]
        return features


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


def _fused_graph(bundle: Bundle, digest: str | None) -> GraphEntry:
    fused = filter(None, (bundle.graph(precision) for precision in PRECISIONS))
    entry = next((each for each in fused if digest in (None, each.sha256)), None)
    if entry is None or not bundle.manifest.measures_novelty:
        raise UsageError(
            f"bundle '{bundle.path}' measures no novelty, so it has no features by which cells could be compared: take one "
            "whose networks share a trunk, such as the one that is shipped"
        )
    return entry


def _open_pool(bundle: Bundle, entry: GraphEntry, threads: int | None, crop: CropSpecification) -> InferencePool:
    options = EngineOptions(workload="throughput", threads=threads, crop=crop)
    try:
        return InferencePool(open_features(bundle.file(entry), entry.sha256, options))
    except RefusedGraph as error:
        raise error.in_bundle(bundle.path, entry.file) from error
