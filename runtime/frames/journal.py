"""`Journal`: the finished tiles and frames in a file, from which a run that was killed is continued.

A file of JSON lines: the first says what the run is made with; of each frame follow its parameters and, as they come, its
finished tiles. A line that a killed process left incomplete is ignored, and its tile is examined again. A frame is known by its
path, size and time of change. A cell that is read back is the same to the last digit, with its nucleus and the call's audit.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from blastscope.runtime.errors import DataError, UsageError, WriteError
from blastscope.runtime.frames.features import CellFeatures
from blastscope.runtime.frames.image_pyramid import Grid
from blastscope.runtime.frames.mask_geometry import Contour, Region
from blastscope.runtime.frames.types import CellGroup, FrameCell, FrameParameters, SegmentedCell
from blastscope.runtime.io.own_files import exclusive_lock
from blastscope.runtime.io.temporary_file import sibling
from blastscope.runtime.types import Prediction, Refusal

FORMAT = 1
WHOLE = -1  # the number of the tile that is a whole frame

Row = dict[str, Any]


class TileRecord(NamedTuple):
    """What one tile gave.

    Attributes
    ----------
    cells : list of FrameCell
        Whose middles lie in the tile's core.
    crowded : bool
        Whether a place of it was too crowded to be looked at.
    """

    cells: list[FrameCell]
    crowded: bool


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What is known of one frame from an earlier run, and where what is found is kept.

    Attributes
    ----------
    key : str
        What the frame is called in the journal.
    parameters : FrameParameters or None
        Its scale and stain, where an earlier run came so far.
    places : mapping of int to int
        Where in the journal's file the line of each finished tile begins, by the tile's number.
    journal : Journal
        Takes what is found now.
    """

    key: str
    parameters: FrameParameters | None
    places: Mapping[int, int]
    journal: Journal

    def tile(self, number: int) -> TileRecord | None:
        """What an earlier run found in a tile; None where it didn't come so far."""
        place = self.places.get(number)
        if place is None:
            return None
        row = self.journal.row_at(place)
        return TileRecord([cell_from_row(cell) for cell in row["cells"]], row["crowded"])

    def keep_parameters(self, parameters: FrameParameters) -> None:
        """Writes what was measured of the frame."""
        self.journal.append({"frame": self.key, "facts": asdict(parameters)})

    def keep_tile(self, number: int, found: TileRecord) -> None:
        """Writes a finished tile. Many threads may."""
        cells = [cell_to_row(cell) for cell in found.cells]
        self.journal.append({"frame": self.key, "tile": number, "cells": cells, "crowded": found.crowded})


class Journal:
    """The file `path`, opened to be gone on with. `close` it, or use it as a context manager.

    Parameters
    ----------
    path : Path
        It is made where there is none.
    made_with : mapping
        All that changes what is found: bundle, specification, scale. JSON values.

    Raises
    ------
    UsageError
        The file was begun with something else.
    DataError, WriteError
        It is no journal; another process writes it; it can't be read or written.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self.path, self._lock = path, threading.Lock()
        self._parameters: dict[str, Row] = {}
        self._tiles: dict[str, dict[int, int]] = {}
        head = {"journal": FORMAT, **made_with}
        if path.is_dir():
            raise DataError(path, "is a folder: name a file")
        with ExitStack() as held:
            try:
                held.enter_context(exclusive_lock(sibling(path, "lock"), wait=False))
                self._file = held.enter_context(path.open("a+b"))
                whole = self._read(head)
                self._file.truncate(whole)  # a line that was broken off: what follows would stand behind it
            except OSError as error:
                if isinstance(error, DataError):
                    raise
                raise WriteError(path, error) from error
            if not whole:
                self.append(head)
            self._held = held.pop_all()

    def frame(self, path: Path) -> FrameRecord:
        """What is known of the frame at `path`, and where more of it is kept."""
        key = _key(path)
        parameters = self._parameters.get(key)
        return FrameRecord(
            key, None if parameters is None else _parameters().validate_python(parameters), self._tiles.get(key, {}), self
        )

    @property
    def tiles(self) -> int:
        """How many finished tiles an earlier run left."""
        return sum(map(len, self._tiles.values()))

    def append(self, row: Row) -> None:
        """Writes a line. It stands when this returns, whatever ends the process."""
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError as error:
                raise WriteError(self.path, error) from error

    def row_at(self, place: int) -> Row:
        """The line that begins there."""
        with self._lock:
            self._file.seek(place)
            line = self._file.readline()
        row: Row = json.loads(line)
        return row

    def close(self) -> None:
        """Ends writing. Safe to call twice."""
        with self._lock:
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, head: Row) -> int:
        """Takes up all whole lines, and gives their bytes together."""
        self._file.seek(0)
        place = 0
        for line in self._file:
            row = _parsed(line)
            if row is None:
                if place == 0 and not line.startswith(b'{"journal"'):
                    raise DataError(self.path, "is no journal of 'examine': name another file")
                break
            if place == 0:
                self._check_head(row, head)
            elif "facts" in row:
                self._parameters[row["frame"]] = row["facts"]
            else:
                self._tiles.setdefault(row["frame"], {})[row["tile"]] = place
            place += len(line)
        return place

    def _check_head(self, found: Row, wanted: Row) -> None:
        if found.get("journal") != FORMAT:
            raise DataError(self.path, "is no journal of 'examine', or one of another version: name another file")
        changed = [name for name in wanted if found.get(name) != wanted[name]]
        if changed:
            raise UsageError(f"'{self.path}' was begun with another {' and '.join(changed)}: name another file, or the same")


def _parsed(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and ("journal" in row or "frame" in row) else None


def _key(path: Path) -> str:
    """What names a frame as it is now: another content gets another name."""
    status = path.stat()
    return json.dumps([os.path.realpath(path), status.st_size, status.st_mtime_ns])


def in_order(cells: Sequence[FrameCell]) -> list[FrameCell]:
    """Cells of many tiles in the order of a report: top to bottom and left to right."""
    return sorted(cells, key=lambda cell: (cell.box[1], cell.box[0], cell.box))


def cell_to_row(cell: FrameCell) -> Row:
    """`cell` as values that `json.dumps` takes."""
    found, core = cell.found, cell.found.core
    part, grid = core.part, core.grid
    return {
        "box": list(found.box),
        "contour": _packed(np.asarray(found.contour, np.int32)),
        "nucleus": {
            "corner": [part.x, part.y],
            "mask": _packed(part.mask),
            "area": part.area,
            "lobes": part.lobes,
            "grid": [grid.x0, grid.y0, grid.factor, grid.width, grid.height],
            "shape": list(core.shape),
            "tile": list(core.corner),
        },
        "refusal": _refusal_row(found.refusal),
        "score": found.score,
        "group": None if found.group is None else list(found.group),
        "prediction": None if cell.prediction is None else _prediction_row(cell.prediction),
        "appearance": None if cell.appearance is None else list(cell.appearance),
    }


def cell_from_row(row: Row) -> FrameCell:
    """The cell that `cell_to_row` made `row` of. Raises `KeyError`, `TypeError` or `ValueError` for what is no such row."""
    nucleus = row["nucleus"]
    x, y = nucleus["corner"]
    region = Region(x, y, _unpacked(nucleus["mask"]), nucleus["area"], nucleus["lobes"])
    core = Contour(region, Grid(*nucleus["grid"]), tuple(nucleus["shape"]), _pair(nucleus["tile"]))
    x0, y0, x1, y1 = row["box"]
    group = None if row["group"] is None else CellGroup(*row["group"])
    found = SegmentedCell((x0, y0, x1, y1), _unpacked(row["contour"]), core, _refusal(row["refusal"]), row["score"], group)
    prediction = None if row["prediction"] is None else _prediction(row["prediction"])
    return FrameCell(found, prediction, None if row["appearance"] is None else CellFeatures(*row["appearance"]))


@cache
def _parameters() -> TypeAdapter[FrameParameters]:
    return TypeAdapter(FrameParameters)


@cache
def _predictions() -> TypeAdapter[Prediction]:
    return TypeAdapter(Prediction)


def _prediction_row(prediction: Prediction) -> Row:
    return {**asdict(prediction), "refusal": _refusal_row(prediction.refusal)}


def _prediction(row: Row) -> Prediction:
    return _predictions().validate_python({**row, "refusal": _refusal(row["refusal"])})


def _refusal_row(refusal: Refusal | None) -> list[str] | None:
    return None if refusal is None else [refusal.code, refusal.detail]


def _refusal(row: list[Any] | None) -> Refusal | None:
    return None if row is None else Refusal(*row)


def _pair(values: list[Any]) -> tuple[Any, Any]:
    first, second = values
    return first, second


def _packed(values: NDArray[Any]) -> list[Any]:
    """Type, shape and content, compressed: an outline of some hundred points takes a few hundred bytes."""
    content = zlib.compress(np.ascontiguousarray(values).tobytes(), 1)
    return [values.dtype.str, list(values.shape), base64.b64encode(content).decode("ascii")]


def _unpacked(packed: list[Any]) -> NDArray[Any]:
    kind, shape, text = packed
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    content = zlib.decompressobj().decompress(base64.b64decode(text), max(size, 1))
    return np.frombuffer(bytearray(content), np.dtype(kind)).reshape(shape)
