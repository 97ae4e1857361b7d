"""The crops that graphs are compared on: validation cells where they are at hand, else cells that the project draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.sample import choose_cells, crop_cells, note_other_cells
from blastscope.export.config import ExportConfig
from blastscope.runtime.cells import find_cells
from blastscope.runtime.crop import Crop, CropSpec, crop_cell
from blastscope.runtime.drawn import draw_cells
from blastscope.runtime.errors import DataError
from blastscope.train.checkpoint import TrainedEnsemble

CANDIDATES = 96  # crops among which the golden set is chosen


@dataclass(frozen=True, slots=True)
class CheckCrops:
    """Crops, and where they come from."""

    crops: NDArray[np.uint8]  # (N, S, S, 3)
    source: Literal["drawn", "validation"]


def cells_to_check(
    trained: TrainedEnsemble, data: Path | None, config: ExportConfig, tell: Callable[[str], None]
) -> CheckCrops:
    """Crops of validation cells found below `data`, or drawn ones when there are none or the configuration asks for them."""
    count = max(CANDIDATES, config.parity_cells)
    spec = trained.config.crop
    if config.drawn or data is None or not trained.provenance.validation:
        tell("drawing cells to check the graphs on")
        return CheckCrops(drawn_crops(count, spec, config.seed), "drawn")
    tell(f"cropping validation cells of '{data}'")
    # by name: the patients don't tell the parts apart after a split by image, and the folder may have moved
    names = {Path(cell.file).name for cell in trained.provenance.validation}
    folder = find_cells(data)
    note_other_cells(folder, trained.provenance.data_sha256, tell)
    cells = [cell for cell in folder.cells if cell.path.name in names]
    if len(cells) < len(names):
        tell(f"only {len(cells)} of the run's {len(names)} validation cells are there")
    crops = crop_cells(choose_cells(cells, count, config.seed), spec).crops
    if not len(crops):
        raise DataError(data, "none of the run's validation cells is here: name the folder that it was trained on")
    return CheckCrops(crops, "validation")


def drawn_crops(count: int, spec: CropSpec, seed: int) -> NDArray[np.uint8]:
    """(count, S, S, 3) crops of drawn cells, normal ones and blasts in turn."""
    crops = [crop_cell(cell.image, spec) for cell in draw_cells(count, seed)]
    return np.stack([crop.pixels for crop in crops if isinstance(crop, Crop)])
