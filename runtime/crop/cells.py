"""The crops of many labelled cells, decoded and cropped in threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blastscope.runtime.cells import Cell
from blastscope.runtime.crop.reference import Crop, crop_cell
from blastscope.runtime.crop.spec import CropSpec
from blastscope.runtime.files import in_order
from blastscope.runtime.image import read_image
from blastscope.runtime.prediction import Refusal


def crops_of(cells: Iterable[Cell], spec: CropSpec, *, workers: int) -> Iterator[tuple[Cell, Crop | Refusal]]:
    """Each cell with its crop, or with why there is none, in the order given; by `workers` threads, a few cells ahead."""

    def crop(cell: Cell) -> Crop | Refusal:
        image = read_image(cell.path)
        return image if isinstance(image, Refusal) else crop_cell(image, spec)

    return in_order(crop, cells, workers=workers)
