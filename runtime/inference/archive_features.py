"""`open_archive`: the features of labelled cells, made once and kept in the user's cache for this user alone."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from blastscope.runtime.backends.blob_store import delete_stale_engines
from blastscope.runtime.bundle import Bundle
from blastscope.runtime.errors import UsageError, WriteError
from blastscope.runtime.inference.neighbours import ArchiveCell, FeatureNetwork, Features, LabelledArchive
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.concurrency import ordered_map
from blastscope.runtime.io.hashing import bytes_sha256
from blastscope.runtime.io.image_decode import read_content
from blastscope.runtime.io.own_files import Unusable, make_private_folder, read_own
from blastscope.runtime.types import Refusal

CHANGED = "was changed while it was read"
LARGEST_CACHE = 2**31  # bytes: five million cells
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ArchiveListing:
    """Labelled cells at one place, before anything is measured of them.

    Attributes
    ----------
    root : Path
        The folder or table.
    cells : tuple of ArchiveCell
        Those that can be used; each has an image.
    left_out : tuple of (Path, str)
        Files that can't, each with the reason.
    """

    root: Path
    cells: tuple[ArchiveCell, ...]
    left_out: tuple[tuple[Path, str], ...] = ()


def open_archive(
    bundle: Bundle, listing: ArchiveListing, *, cache_dir: Path | None, threads: int | None = None
) -> LabelledArchive:
    """The archive of listed cells, once all their features are there.

    Parameters
    ----------
    bundle : Bundle
        Whose networks compare. They must measure novelty.
    listing : ArchiveListing
        The cells.
    cache_dir : Path or None
        Where features are kept; None keeps none.
    threads : int, optional
        How many threads the network takes.

    Returns
    -------
    LabelledArchive

    Raises
    ------
    UsageError
        The bundle measures no novelty, or no cell can be compared.
    UnavailableError
        OpenVINO is missing or refuses the graph.
    """
    network = FeatureNetwork(bundle, threads)
    try:
        return _measured(network, listing, bundle, cache_dir)
    except BaseException:
        network.close()
        raise


def _measured(network: FeatureNetwork, listing: ArchiveListing, bundle: Bundle, cache_dir: Path | None) -> LabelledArchive:
    """The features of all cells: from the cache, and for cells that aren't there by the network."""
    facts = (network.digest, bundle.manifest.crop.model_dump_json(), os.path.realpath(listing.root))
    place = _place(facts, cache_dir) if cache_dir else None
    known = _read_cache(place) if place else {}
    fresh = [cell for cell in listing.cells if cell.sha256 not in known]
    if fresh:
        told = "comparing needs the features of %d cells of '%s': once, some hundredths of a second each"
        LOG.info(told, len(fresh), listing.root)
    left_out = list(listing.left_out)

    def measure(cell: ArchiveCell) -> Features | str:
        return _features_of(network, cell)

    for cell, found in ordered_map(measure, fresh, workers=max(2, network.workers)):
        if isinstance(found, str):
            left_out.append((cell.path or Path(cell.file), found))
        else:
            known[cell.sha256] = found
    cells = tuple(cell for cell in listing.cells if cell.sha256 in known)
    if not cells:
        raise UsageError(f"no cell of '{listing.root}' can be compared, the first: {left_out[0][1]}")
    features = np.stack([known[cell.sha256] for cell in cells])
    if place and fresh:
        _write_cache(place, cells, features)
    return LabelledArchive(network, cells, features, left_out)


def _features_of(network: FeatureNetwork, cell: ArchiveCell) -> Features | str:
    """The features of a cell, or why there are none."""
    content = read_content(cell.image) if isinstance(cell.image, Path) else cell.image
    if isinstance(content, Refusal):
        return content.detail
    if content is None or bytes_sha256(content) != cell.sha256:
        return CHANGED
    found = network.measure(content)
    return found.detail if isinstance(found, Refusal) else found


def _place(facts: Sequence[str], cache_dir: Path) -> Path:
    """Where the features of this place by this network are kept; each cell's by its content, so an archive may grow."""
    name = hashlib.sha256("\0".join(facts).encode("utf-8", "surrogateescape")).hexdigest()
    return cache_dir / "archives" / f"{name}.safetensors"


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


def _write_cache(place: Path, cells: Sequence[ArchiveCell], features: Features) -> None:
    """Keeps features for the next time, for this user's eyes alone; where that can't be done they are made anew then."""
    digests = np.frombuffer(b"".join(bytes.fromhex(cell.sha256) for cell in cells), np.uint8).reshape(-1, 32)
    try:
        make_private_folder(place.parent)
        write_content(place, save({"features": features, "sha256": digests}), private=True)
        delete_stale_engines(place.parent)
    except (OSError, WriteError) as error:
        LOG.info("the archive's features can't be kept (%s), so they are made anew each time", error)
