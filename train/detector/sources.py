"""The frames that a detector learns from, by source: their files, boxes, and the scale that their red cells show."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.errors import DataError

WHITE, RED, PLATELET = 0, 1, 2  # the classes of boxes, in the order of the heat map's channels
GROUPS = ("lymphoid", "myeloid", "other")
# of PBC's types; immature granulocytes are myeloid, and an erythroblast is a nucleated cell that is neither
GROUP_OF_TYPE = {
    "lymphocyte": 0,
    "monocyte": 1,
    "neutrophil": 1,
    "eosinophil": 1,
    "basophil": 1,
    "ig": 1,
    "erythroblast": 2,
}
FRAME_SOURCES = ("bccd", "raabin", "pbc")
PBC_RED_CELL_PX = 79.0  # median over the boxes of TXL-PBC's frames, which are pictures of the same set
_LABELS = {"WBC": WHITE, "RBC": RED, "Platelets": PLATELET, "wbc": WHITE, "rbc": RED, "platelet": PLATELET}
_EDGE_PX = 4  # a box that is nearer to the frame's edge may be cut
_FEWEST_RED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame with its boxes.

    Attributes
    ----------
    path : Path
        The picture's file.
    boxes : (K, 4) float32 array
        x0, y0, x1, y1 in pixels of the file.
    labels : (K,) int array
        `WHITE`, `RED` or `PLATELET`.
    red_cell_px : float
        Median diameter of its red cells, in pixels of the file; where too few are boxed, the source's.
    group : int or None
        Of a single cell whose type is known, the index in `GROUPS`. Such a frame has no boxes.
    """

    path: Path
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    red_cell_px: float
    group: int | None = None
    single: bool = False  # one cell in the middle, whose box is not known


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The picture (H, W, 3) uint8 RGB of `path`. Raises `DataError`."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(path, "can't be read as a picture")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def check_frames(data: Path, sources: Sequence[str] = ("bccd", "txl", "pbc", "cnmc")) -> None:
    """Raises `DataError` where a folder of `sources` is missing below `data`. What lies in them is not read."""
    for name in sources:
        if not (data / name).is_dir():
            *most, last = (f"{one}/" for one in sources)
            raise DataError(data / name, f"is missing: DATA must hold {', '.join(most)} and {last}")


def bccd_frames(folder: Path, split: str) -> list[Frame]:
    """BCCD's frames that `split`.txt names ("train" or "val"), in its order. Raises `DataError`."""
    names = folder / f"{split}.txt"
    if not names.is_file():
        raise DataError(names, "BCCD's split is missing: DATA must hold bccd/, txl/, pbc/ and cnmc/")
    found = []
    for name in names.read_text("utf-8").split():
        stem = Path(name).stem
        tree = ElementTree.parse(folder / "Annotations" / f"{stem}.xml")
        rows = []
        for entry in tree.iterfind("object"):
            corners = [float(entry.findtext(f"bndbox/{key}", "nan")) for key in ("xmin", "ymin", "xmax", "ymax")]
            rows.append((*corners, _LABELS[entry.findtext("name", "")]))
        found.append((folder / "JPEGImages" / f"{stem}.jpg", rows, (640, 480)))
    return _with_scale(found)


def txl_frames(folder: Path, source: str) -> list[Frame]:
    """TXL-PBC's frames of `source` ("pbc" or "raabin"), by name. Raises `DataError`."""
    table = folder / "boxes.csv"
    if not table.is_file():
        raise DataError(table, "the table of boxes is missing: DATA must hold bccd/, txl/, pbc/ and cnmc/")
    rows: dict[str, list[tuple[float, ...]]] = {}
    with table.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["path"].startswith(f"{source}/"):
                corners = [float(row[key]) for key in ("x0", "y0", "x1", "y1")]
                rows.setdefault(row["path"], []).append((*corners, _LABELS[row["label"]]))
    size = (360, 363) if source == "pbc" else (575, 575)
    return _with_scale([(folder / name, rows[name], size) for name in sorted(rows)])


def pbc_cells(folder: Path) -> list[Frame]:
    """The PBC set's single cells, by type and name. Raises `DataError`."""
    files = sorted(folder.glob("*/*.jpg"))
    if not files:
        raise DataError(folder, "holds no pictures of single cells: DATA must hold bccd/, txl/, pbc/ and cnmc/")
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return [Frame(path, *none, PBC_RED_CELL_PX, GROUP_OF_TYPE.get(path.parent.name), single=True) for path in files]


def cnmc_cells(folder: Path) -> list[Path]:
    """C-NMC's single cells on black, by patient and name. Raises `DataError`."""
    files = sorted(folder.glob("C-NMC_training_data/*/*/*.webp")) or sorted(folder.glob("C-NMC_training_data/*/*/*.bmp"))
    if not files:
        raise DataError(folder, "holds no cells of C-NMC's training data")
    return files


def _with_scale(found: list[tuple[Path, list[tuple[float, ...]], tuple[int, int]]]) -> list[Frame]:
    tables = [np.asarray(rows, np.float64).reshape(-1, 5) for _, rows, _ in found]
    sizes = [_red_sizes(table, size) for table, (_, _, size) in zip(tables, found, strict=True)]
    measured = np.concatenate(sizes) if sizes else np.zeros(0)
    if not len(measured):
        where = found[0][0].parent if found else Path()
        raise DataError(where, "has no frame with the box of a whole red cell: nothing tells the scale")
    usual = float(np.median(measured))
    return [
        Frame(
            path,
            table[:, :4].astype(np.float32),
            table[:, 4].astype(np.int64),
            float(np.median(own)) if len(own) >= _FEWEST_RED else usual,
        )
        for (path, _, _), table, own in zip(found, tables, sizes, strict=True)
    ]


def _red_sizes(table: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """The diameters of red cells that the frame's edge doesn't cut."""
    x0, y0, x1, y1, label = table.T
    whole = (x0 > _EDGE_PX) & (y0 > _EDGE_PX) & (x1 < size[0] - _EDGE_PX) & (y1 < size[1] - _EDGE_PX)
    own = whole & (label == RED)
    return np.asarray(np.sqrt((x1 - x0) * (y1 - y0))[own], np.float64)


def each_source(data: Path) -> Iterator[tuple[str, list[Frame]]]:
    """The training frames of each source of frames with boxes; of BCCD those of its training split."""
    yield "bccd", bccd_frames(data / "bccd", "train")
    yield "raabin", txl_frames(data / "txl", "raabin")
    yield "pbc", txl_frames(data / "txl", "pbc")
