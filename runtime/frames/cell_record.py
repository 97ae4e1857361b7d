"""A found cell as plain JSON values, and back: the same cell to the last digit, with its nucleus and the call's audit."""

from __future__ import annotations

import base64
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastscope.runtime.frames.contour import Contour
from blastscope.runtime.frames.features import CellFeatures
from blastscope.runtime.frames.image_pyramid import Grid
from blastscope.runtime.frames.mask_geometry import Region
from blastscope.runtime.frames.types import CellGroup, FrameCell, FrameParameters, SegmentedCell
from blastscope.runtime.types import Audit, Prediction, Refusal

Row = dict[str, Any]


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


def facts_to_row(facts: FrameParameters) -> Row:
    """`facts` as values that `json.dumps` takes."""
    return asdict(facts)


def facts_from_row(row: Row) -> FrameParameters:
    """The facts that `facts_to_row` made `row` of."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return FrameParameters(**values)


def _prediction_row(prediction: Prediction) -> Row:
    return {**asdict(prediction), "refusal": _refusal_row(prediction.refusal)}


def _prediction(row: Row) -> Prediction:
    table, box, classes = row["probabilities"], row["box"], row["set"]
    return Prediction(
        **{
            **row,
            "probabilities": None if table is None else tuple(map(_pair, table)),
            "box": None if box is None else tuple(box),
            "refusal": _refusal(row["refusal"]),
            "audit": Audit(**row["audit"]),
            "set": None if classes is None else tuple(classes),
        }
    )


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
