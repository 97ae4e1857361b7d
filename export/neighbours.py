"""Puts an index of neighbours into a bundle: features of the training's cells, by which those most like a cell are found."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from blastscope.calibration.calibrate import open_writable_bundle
from blastscope.calibration.calibration_data import log_dataset_mismatch
from blastscope.runtime.bundle import FORMAT, Bundle, update_bundle
from blastscope.runtime.bundle.manifest import Manifest
from blastscope.runtime.bundle.neighbour_index import (
    INDEX_FILE,
    MOST_CELLS,
    NeighbourIndex,
    index_bytes,
    index_entry,
    rounded_features,
)
from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.inference.archive_features import ArchiveListing, open_archive
from blastscope.runtime.inference.neighbours import NEAREST, ArchiveCell, Features, distances
from blastscope.runtime.io.cnmc import scan_dataset
from blastscope.runtime.io.paths import default_cache_dir

logger = logging.getLogger(__name__)

JUDGED = 500  # cells on which it is measured what rounding changes


def add_neighbours(bundle: Path, data: Path, *, cache_dir: Path | None = None) -> Bundle:
    """The bundle with an index of its training's cells, in the place of the one that it had, if any.

    Parameters
    ----------
    bundle : Path
        Folder of the bundle; it is changed in one step. Its networks must measure novelty.
    data : Path
        The cells that it was trained on. Those of the training's patients are taken.
    cache_dir : Path, optional
        Where features are kept; by default the user's cache.

    Returns
    -------
    Bundle
        The bundle as it is now.

    Raises
    ------
    BundleError
        It is no bundle.
    UsageError
        Its networks measure no novelty, or were trained on nobody's cells.
    DataError
        `data` holds none of the training's cells, or more than an index may have.
    """
    found = open_writable_bundle(bundle)
    training = found.manifest.training
    if training.data_sha256 is None:
        raise UsageError(f"bundle '{found.path}' has random weights: no cell was learnt from")
    dataset = scan_dataset(data)
    log_dataset_mismatch(dataset, training.data_sha256)
    trained = set(training.patients.training)
    chosen = [cell for cell in dataset.cells if cell.patient in trained]
    if not chosen:
        raise DataError(
            dataset.root, "holds no cell of a patient that the bundle was trained on: name the data of its training"
        )
    if len(chosen) > MOST_CELLS:
        raise DataError(dataset.root, f"holds {len(chosen)} cells of the training, an index has {MOST_CELLS} at most")
    cells = [
        ArchiveCell(one.path.name, one.label, one.patient, one.person, one.path, sha256=one.sha256, image=one.path)
        for one in chosen
    ]
    listing = ArchiveListing(dataset.root, tuple(cells), dataset.rejected)
    with open_archive(found, listing, cache_dir=cache_dir or default_cache_dir()) as archive:
        features, used, graph = archive.features, archive.cells, archive.graph
    columns = zip(*((one.label, one.file, one.patient, one.person) for one in used), strict=True)
    index = NeighbourIndex(features, *columns)
    kept = nearest_kept(features, rounded_features(features))
    logger.info("rounded to int8, the index keeps %.1f %% of the %d nearest of each cell", 100 * kept, NEAREST)
    content = index_bytes(index)
    entry = index_entry(index, content, graph)
    manifest = Manifest.model_validate({**found.manifest.model_dump(), "format": FORMAT, "neighbours": entry.model_dump()})
    return update_bundle(found, manifest, {INDEX_FILE: content})


def nearest_kept(features: Features, rounded: Features) -> float:
    """The share of each cell's nearest that rounded features keep, itself left out, over up to 500 cells, evenly chosen.

    Parameters
    ----------
    features : (N, D) float32 array
        Of the cells.
    rounded : (N, D) float32 array
        The same, rounded. Cells that are asked about aren't.

    Returns
    -------
    float
        0 to 1; 1 where there is one cell alone.
    """
    shares = [1.0]
    for row in np.unique(np.linspace(0, len(features) - 1, JUDGED).astype(int)) if len(features) > 1 else ():
        exact, coarse = (np.argsort(_without(distances(one, features[row]), row), kind="stable") for one in (features, rounded))
        count = min(NEAREST, len(features) - 1)
        shares.append(len(set(exact[:count].tolist()) & set(coarse[:count].tolist())) / count)
    return float(np.mean(shares[1:] or shares))


def _without(apart: Features, row: int) -> Features:
    apart[row] = np.inf
    return apart
