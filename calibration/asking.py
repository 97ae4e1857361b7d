"""What several networks say of the same cells, cropped and answered piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blastscope.calibration.pace import Pace, Tell
from blastscope.calibration.sample import crop_cells
from blastscope.runtime.bundle.digest import bytes_sha256
from blastscope.runtime.cells import Cell
from blastscope.runtime.classes import CLASSES
from blastscope.runtime.crop import CropSpec
from blastscope.runtime.errors import UsageError

PIECE = 64  # cells cropped at once: the crops of all of them may not fit into memory

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # crops (N, S, S, 3) to probabilities (N, 3, 2)


@dataclass(frozen=True, slots=True)
class AskedCells:
    """Cells with the probabilities (N, 3, 2) that each network gave them, by the network's name."""

    cells: tuple[Cell, ...]
    answers: dict[str, NDArray[np.float32]]
    refused: tuple[tuple[Cell, str], ...]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each cell."""
        return labels_of(self.cells)

    @property
    def patients(self) -> list[str]:
        """Patient of each cell."""
        return [cell.patient for cell in self.cells]


def remembering(infer: Infer) -> Infer:
    """`infer`, which answers the same crops from memory when they come again."""
    known: dict[str, NDArray[np.float32]] = {}

    def answer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        key = bytes_sha256(crops.tobytes())
        if key not in known:
            known[key] = np.array(infer(crops))
        return known[key]

    return answer


def labels_of(cells: Sequence[Cell]) -> NDArray[np.int64]:
    """Class index of each cell."""
    return np.array([CLASSES.index(cell.label) for cell in cells], np.int64)


def ask(networks: Mapping[str, Infer], cells: Sequence[Cell], spec: CropSpec, *, tell: Tell | None = None) -> AskedCells:
    """What each of `networks` says of `cells`. `tell` hears how far that is. Raises `UsageError` where none can be asked."""
    kept: list[Cell] = []
    refused: list[tuple[Cell, str]] = []
    answers: dict[str, list[NDArray[np.float32]]] = {name: [] for name in networks}
    pace = Pace("cells", len(cells), tell)
    for start in range(0, len(cells), PIECE):
        piece = crop_cells(cells[start : start + PIECE], spec)
        kept += piece.cells
        refused += piece.refused
        if len(piece.crops):
            for name, infer in networks.items():
                answers[name].append(np.array(infer(piece.crops)))
        pace.step(len(cells[start : start + PIECE]))
    if not kept:
        raise UsageError(f"the crop refuses all of the {len(cells)} validation cells that are to judge")
    return AskedCells(tuple(kept), {name: np.concatenate(parts) for name, parts in answers.items()}, tuple(refused))
