"""GeoJSON that QuPath opens as cells: File > Import objects from file, or drop it on the image."""

from __future__ import annotations

import json
import uuid
from typing import Any

from blastscope.runtime.frames.annotations.cell_annotation import CellAnnotation, Outline, annotations_of
from blastscope.runtime.frames.types import FrameReport

NAMES = uuid.UUID(
    "6f1d6b2e-6f0c-4bb0-9a51-5f2f4f2f6d30"
)  # QuPath knows objects again by UUIDs; these are made of frame and box


def geojson_text(report: FrameReport) -> str:
    """The cells of a frame as a GeoJSON FeatureCollection.

    Each cell is a feature of QuPath's object type `cell`, with its nucleus, classification, measurements and, from
    QuPath 0.5 on, metadata. Rings are closed, outer rings run counterclockwise in GeoJSON's axes (y upwards).

    Parameters
    ----------
    report : FrameReport
        The frame.

    Returns
    -------
    str
        JSON. The same report gives the same text.
    """
    features = [_feature(cell, report) for cell in annotations_of(report)]
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)


def _feature(cell: CellAnnotation, report: FrameReport) -> dict[str, Any]:
    feature: dict[str, Any] = {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMES, f"{report.path} {cell.box}".encode("utf-8", "backslashreplace").decode())),
        "geometry": _polygon(cell.outline),
    }
    if cell.nucleus is not None:
        feature["nucleusGeometry"] = _polygon(cell.nucleus)
    feature["properties"] = {
        "objectType": "cell",
        "name": str(cell.number),
        "classification": {"name": cell.name, "color": list(cell.colour)},
        "measurements": cell.measurements,
        "metadata": cell.texts,
    }
    return feature


def _polygon(outline: Outline) -> dict[str, Any]:
    x, y = outline.T
    turn = float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() + (x[0] - x[-1]) * (y[0] + y[-1]))
    ring = outline if turn < 0 else outline[::-1]
    return {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]}
