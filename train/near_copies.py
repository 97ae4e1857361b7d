"""Cells that were cut out of a picture twice: one cell under two patient ids, with other bytes, another rim or other colours.

Such ids are one person, and a split that parts them scores cells that trained. Two crops are of one cell where their fine gray
levels, without the cell's coarse shading and whatever its colours, correlate at some shift. In the C-NMC cells at hand no pair
of different people comes above 0.79, and of every group of ids in `TWIN_PATIENTS` pairs lie above the limit.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from blastscope.runtime.io.atomic import clear_abandoned_files, write_content
from blastscope.runtime.io.cnmc import Dataset, DatasetEntry
from blastscope.train.config import SHIPPED, TrainConfig
from blastscope.train.data_loader import CropStore, cache_crops
from blastscope.train.progress import TrainingProgress

LIMIT = 0.8  # of the correlation, chosen on the C-NMC cells at hand; 146 of their 160 pairs above it are above 0.9
SIDE = 96  # pixels to which a crop is brought
SHADING = 4.0  # pixels; what varies more slowly is the cell's form and stain
GRAIN = 0.7  # pixels; what varies faster is noise
COARSE_SIDE = 48  # of the pictures by which candidates are found
COARSE_GRAIN = 2.0  # pixels of a crop; so that a cell that lies elsewhere by a few is a candidate still
CANDIDATES = 3  # for each cell
LEAST_COARSE = 0.3  # a candidate's correlation without a shift
SHIFT = 6  # pixels by which a rim that was cut otherwise may move a cell
LEAST_DETAIL = 0.5  # gray levels, root of the mean square: a cell without any correlates with every other such
BLOCK = 512  # cells whose candidates are looked for at a time
CACHE_VERSION = 1  # a change of what is found must raise it
MOST_DRAWN = 40  # pairs
TILE, GAP, CAPTION = 192, 8, 24  # pixels of a drawn sheet


class NearCopy(NamedTuple):
    """Two crops that show one cell.

    Attributes
    ----------
    first, second : int
        Rows of the crop store; `first` is the lower.
    correlation : float
        Of their fine gray levels, at most 1.
    """

    first: int
    second: int
    correlation: float


class _Detail(NamedTuple):
    """Fine gray levels of a crop, 0 outside of the cell, and 1 where the cell is: (SIDE, SIDE) float32 arrays."""

    gray: NDArray[np.float32]
    inside: NDArray[np.float32]


def find_near_copies(
    store: CropStore, *, limit: float = LIMIT, progress: Callable[[int, int], None] | None = None
) -> tuple[NearCopy, ...]:
    """The pairs of crops of different patient ids and one class that show the same cell.

    Cells that were turned or mirrored aren't found. 5,700 cells take ten seconds of one core.

    Parameters
    ----------
    store : CropStore
        The crops, at one scale.
    limit : float
        Correlation from which two are one cell, up to 1.
    progress : callable, optional
        Called with (done, all) cells.

    Returns
    -------
    tuple of NearCopy
        The most alike first.
    """
    patients, labels = store.patients, store.labels
    details = [_detail(crop) for crop in store.crops]
    coarse = np.stack([_coarse(detail) for detail in details])
    rich = np.flatnonzero(np.linalg.norm(coarse, axis=1) > 0)
    found: dict[tuple[int, int], NearCopy] = {}
    for start in range(0, len(rich), BLOCK):
        rows = rich[start : start + BLOCK]
        alike = coarse[rows] @ coarse.T
        alike[(patients[rows, None] == patients[None]) | (labels[rows, None] != labels[None])] = -1
        for row, likeness in zip(rows, alike, strict=True):
            for other in np.argsort(-likeness)[:CANDIDATES]:
                pair = (min(int(row), int(other)), max(int(row), int(other)))
                if likeness[other] < LEAST_COARSE or pair in found:
                    continue
                found[pair] = NearCopy(*pair, _correlation(details[pair[0]], details[pair[1]]))
        if progress:
            progress(min(start + BLOCK, len(rich)), len(rich))
    return tuple(sorted((copy for copy in found.values() if copy.correlation >= limit), key=lambda copy: -copy.correlation))


def _detail(crop: NDArray[np.uint8]) -> _Detail:
    small = cv2.resize(np.ascontiguousarray(crop), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    inside = cv2.erode((small.min(axis=2) > 0).astype(np.float32), np.ones((3, 3), np.uint8))
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    shading = _blur(gray * inside, SHADING) / np.maximum(_blur(inside, SHADING), 1e-3)
    return _Detail(np.asarray(_blur((gray - shading) * inside, GRAIN) * inside, np.float32), np.asarray(inside, np.float32))


def _blur(picture: cv2.typing.MatLike, sigma: float) -> cv2.typing.MatLike:
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def _coarse(detail: _Detail) -> NDArray[np.float32]:
    """A vector of length 1 by which candidates are found; zeros where there is no detail to compare."""
    pixels = float(detail.inside.sum())
    if not pixels or np.sqrt((detail.gray**2).sum() / pixels) < LEAST_DETAIL:
        return np.zeros(COARSE_SIDE**2, np.float32)
    small = cv2.resize(_blur(detail.gray, COARSE_GRAIN), (COARSE_SIDE, COARSE_SIDE), interpolation=cv2.INTER_AREA).ravel()
    return np.asarray(small / np.linalg.norm(small), np.float32)


def _correlation(one: _Detail, other: _Detail) -> float:
    """The highest correlation over shifts, of the pixels that are inside both cells."""
    gray, inside = (cv2.copyMakeBorder(part, SHIFT, SHIFT, SHIFT, SHIFT, cv2.BORDER_CONSTANT) for part in other)
    product = cv2.matchTemplate(gray, one.gray, cv2.TM_CCORR)
    energies = cv2.matchTemplate(np.square(gray), one.inside, cv2.TM_CCORR) * cv2.matchTemplate(
        inside, np.square(one.gray), cv2.TM_CCORR
    )
    return float((product / np.sqrt(np.maximum(energies, 1e-6))).max())


def ids_to_join(cells: Sequence[DatasetEntry], copies: Sequence[NearCopy]) -> list[tuple[str, str, int, float]]:
    """The patient ids that show one cell and aren't known to be one person.

    Parameters
    ----------
    cells : sequence of DatasetEntry
        The cells of the crop store.
    copies : sequence of NearCopy
        As `find_near_copies` gives them.

    Returns
    -------
    list of (str, str, int, float)
        Two ids, how many cells they share, and the highest correlation; most cells first.
    """
    shared: dict[tuple[str, str], list[float]] = {}
    for copy in copies:
        one, other = cells[copy.first], cells[copy.second]
        if one.person != other.person:
            shared.setdefault((min(one.patient, other.patient), max(one.patient, other.patient)), []).append(copy.correlation)
    return sorted(((*ids, len(found), max(found)) for ids, found in shared.items()), key=lambda row: (-row[2], row[:2]))


class ComparedCells(NamedTuple):
    """The cells of a folder, compared with one another.

    Attributes
    ----------
    store : CropStore
        Their crops: the middle of each cell at its own scale, whatever crops a training asks for.
    copies : tuple of NearCopy
        The pairs that show one cell.
    """

    store: CropStore
    copies: tuple[NearCopy, ...]


def compare_cells(folder: Dataset, cache_dir: Path, progress: TrainingProgress) -> ComparedCells:
    """Crops and compares the cells of a folder, or reads from the cache what was found before.

    Parameters
    ----------
    folder : Dataset
        The cells.
    cache_dir : Path
        Where crops and results are kept; only this user may read them.
    progress : TrainingProgress
        Is told how far the work is.

    Returns
    -------
    ComparedCells
    """
    spec = TrainConfig.from_toml(SHIPPED).crop
    store = cache_crops(folder, spec, cache_dir, progress=progress.crops)
    key = hashlib.sha256(f"{CACHE_VERSION} {store.data_sha256} {spec.model_dump_json()}".encode()).hexdigest()
    place = cache_dir / f"copies-{key[:24]}.json"
    clear_abandoned_files(cache_dir, prefix="copies-")
    copies = _read(place, len(store.cells))
    if copies is None:
        copies = find_near_copies(store, progress=partial(progress.advance, "copies"))
        write_content(place, json.dumps(copies), private=True)
    return ComparedCells(store, copies)


def _read(place: Path, cells: int) -> tuple[NearCopy, ...] | None:
    """What is cached; None where nothing is, or where it is damaged."""
    try:
        found = tuple(NearCopy(int(first), int(second), float(one)) for first, second, one in json.loads(place.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return found if all(0 <= copy.first < copy.second < cells for copy in found) else None


def draw_pairs(store: CropStore, copies: Sequence[NearCopy]) -> bytes:
    """The cells of pairs side by side, as they are and with each channel stretched, for somebody who decides by eye.

    Parameters
    ----------
    store : CropStore
        The crops.
    copies : sequence of NearCopy
        The pairs, from top to bottom; the first 40 are drawn.

    Returns
    -------
    bytes
        A PNG file.
    """
    shown = copies[:MOST_DRAWN]
    sheet = Image.new("RGB", (4 * (TILE + GAP) + GAP, len(shown) * (TILE + CAPTION) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, copy in enumerate(shown):
        top = row * (TILE + CAPTION) + GAP
        names = [f"{cell.patient}: {cell.path.name}" for cell in (store.cells[copy.first], store.cells[copy.second])]
        pen.text((GAP, top), f"{copy.correlation:.3f}   {names[0]}   {names[1]}", fill="black")
        crops = [np.asarray(store.crops[place]) for place in (copy.first, copy.second)]
        for column, crop in enumerate((*crops, *map(_stretched, crops))):
            tile = Image.fromarray(crop).resize((TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (GAP + column * (TILE + GAP), top + CAPTION - GAP))
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return content.getvalue()


def _stretched(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each channel from its lowest to its highest hundredth of the cell's pixels."""
    cell = crop.max(axis=2) > 0
    if not cell.any():
        return crop
    low, high = np.percentile(crop[cell], [1, 99], axis=0)
    wide = (crop - low) / np.maximum(high - low, 1) * 255
    return np.where(cell[:, :, None], np.clip(wide, 0, 255), 0).astype(np.uint8)
