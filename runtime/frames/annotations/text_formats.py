"""Annotations that are text: GeoJSON for QuPath, and COCO or YOLO labels for those who train detectors.

QuPath opens GeoJSON as cells: File > Import objects from file, or drop it on the image. COCO has one file of all frames, YOLO a
text file a frame.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from blastscope.runtime.errors import DataError
from blastscope.runtime.frames.annotations.cell_annotation import CLASS_NAMES, KINDS, CellAnnotation, Outline, annotations_of
from blastscope.runtime.frames.report.theme import names_of
from blastscope.runtime.frames.types import FrameReport

NAMES = uuid.UUID(
    "6f1d6b2e-6f0c-4bb0-9a51-5f2f4f2f6d30"
)  # QuPath knows objects again by UUIDs; these are made of frame and box
DECIMALS = 9  # of YOLO's shares: a hundredth of a pixel on the widest slide


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


class CocoBuilder:
    """Collects frames into one COCO object-detection dataset.

    Categories are 1 HEM, 2 ALL and 3 refused. Boxes are [x, y, width, height] and polygons [x, y, ...], both from the corner.
    Beside COCO's own keys an annotation has `score`, the probability of its own call (as COCO's results have it; null
    without a call), and `attributes` with what else is known.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._names = names_of(paths)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, report: FrameReport) -> None:
        """The next frame. One that couldn't be examined is left out, since nobody knows what it shows."""
        if report.refusal is not None or report.size is None:
            return
        width, height = report.size
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": self._names[report.path], "width": width, "height": height})
        for cell in annotations_of(report):
            x0, y0, x1, y1 = cell.box
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image,
                    "category_id": KINDS.index(cell.kind) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": [cell.outline.ravel().tolist()],
                    "area": cell.area_px,
                    "iscrowd": 0,
                    "score": cell.measurements.get("Probability of the call"),
                    "attributes": {"number": cell.number, **cell.measurements, **cell.texts},
                }
            )

    def text(self) -> str:
        """The dataset as JSON."""
        categories = [
            {"id": number, "name": CLASS_NAMES[kind], "supercategory": "white cell"} for number, kind in enumerate(KINDS, 1)
        ]
        info = {"description": "White cells found and called by blastscope. For research use."}
        whole = {"info": info, "licenses": [], "images": self._images, "annotations": self._annotations}
        return json.dumps({**whole, "categories": categories}, allow_nan=False)


def yolo_text(report: FrameReport) -> str:
    """The cells of a frame as YOLO's detection labels.

    Parameters
    ----------
    report : FrameReport
        The frame, with its size.

    Returns
    -------
    str
        One line per cell: class (0 HEM, 1 ALL, 2 refused), then the box's centre x, centre y, width and height as shares of
        the frame's width and height, from the corner. Empty for a frame without a cell, which is YOLO's background image.
    """
    assert report.size is not None
    width, height = report.size
    lines = []
    for cell in annotations_of(report):
        x0, y0, x1, y1 = cell.box
        shares = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        lines.append(f"{KINDS.index(cell.kind)} {' '.join(f'{share:.{DECIMALS}f}' for share in shares)}\n")
    return "".join(lines)


def yolo_data() -> str:
    """The content of YOLO's `data.yaml`: where the frames are to lie, and what the classes are called."""
    names = "".join(f"  {number}: {CLASS_NAMES[kind]}\n" for number, kind in enumerate(KINDS))
    return (
        f"# put the frames into images/, as their labels lie in labels/\npath: .\ntrain: images\nval: images\nnames:\n{names}"
    )


def yolo_places(paths: Iterable[Path]) -> Mapping[Path, PurePosixPath]:
    """The place of each frame's label file below YOLO's folder.

    It bears the frame's own name, with its folders where two frames have the same: YOLO finds labels by the image's name.

    Parameters
    ----------
    paths : iterable of Path
        The frames.

    Returns
    -------
    mapping of Path to PurePosixPath

    Raises
    ------
    DataError
        Two frames differ in their suffix alone, so that one file would be the labels of both.
    """
    places: dict[Path, PurePosixPath] = {}
    taken: dict[str, Path] = {}
    for path, name in names_of(paths).items():
        if path is None:
            continue
        place = PurePosixPath("labels", PurePosixPath(name.lstrip("/")).with_suffix(".txt"))
        if (other := taken.setdefault(str(place).casefold(), path)) != path:
            raise DataError(
                path, f"has the name of '{other}' but for its suffix, so YOLO would give both the same labels: rename one"
            )
        places[path] = place
    return places
