"""OME-TIFF: a frame's own pixels, with its cells as regions of interest in its OME-XML."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from blastscope.runtime.errors import MissingLibrary
from blastscope.runtime.frames.annotations.cell_annotation import CellAnnotation, Outline, annotations_of
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.atomic import write_file
from blastscope.runtime.io.image_header import MAX_PIXELS
from blastscope.runtime.io.printable import printable
from blastscope.runtime.io.slides.slide import Slide, read_region
from blastscope.runtime.types import Refusal

if TYPE_CHECKING:
    from ome_types import OME
    from ome_types.model import ROI, MapAnnotation

TILE_PX = 512


def check_ome_types() -> None:
    """Raises `MissingLibrary` where ome-types isn't installed."""
    if find_spec("ome_types") is None:
        raise MissingLibrary("ome-types", "ome")


def write_ome_tiff(scan: Slide, report: FrameReport, path: Path) -> Refusal | None:
    """Writes a frame and its cells as an OME-TIFF, which OMERO, QuPath, Fiji and napari read.

    The pixels are the frame's, lossless (deflate, in tiles, read from `scan` piece by piece). Each cell is an ROI of a polygon,
    and a second one for its nucleus; a map annotation holds its call and measurements. Coordinates count from the corner.

    Parameters
    ----------
    scan : Slide
        The open frame.
    report : FrameReport
        What was found in it.
    path : Path
        Where to; written whole or not at all.

    Returns
    -------
    Refusal or None
        Why nothing was written: more than 100 megapixels, whose copy would take the place of the slide many times over.

    Raises
    ------
    MissingLibrary, WriteError
        ome-types isn't installed; the file can't be written.
    """
    if scan.width * scan.height > MAX_PIXELS:
        most = f"{MAX_PIXELS / 1e6:.0f} megapixels"
        return Refusal(
            "too-large", f"an OME-TIFF holds the pixels too, up to {most}: use --geojson, or --dicom for DICOM slides"
        )
    xml = ome_model(report, scan.width, scan.height).to_xml().encode()

    def fill(fresh: Path) -> None:
        tifffile.imwrite(
            fresh,
            _tiles(scan),
            shape=(scan.height, scan.width, 3),
            dtype=np.uint8,
            photometric="rgb",
            tile=(TILE_PX, TILE_PX),
            compression="adobe_deflate",
            description=xml,
            metadata=None,
        )

    write_file(path, fill)
    return None


def _tiles(scan: Slide) -> Iterator[NDArray[np.uint8]]:
    for top in range(0, scan.height, TILE_PX):
        for left in range(0, scan.width, TILE_PX):
            yield read_region(scan, (left, top, min(left + TILE_PX, scan.width), min(top + TILE_PX, scan.height)))


def ome_model(report: FrameReport, width: int, height: int) -> OME:
    """The OME-XML of a frame of so many pixels: one image of three interleaved channels, an ROI and an annotation a cell.

    Raises `MissingLibrary` where ome-types isn't installed.
    """
    check_ome_types()
    from ome_types.model import (
        OME,
        AnnotationRef,
        Channel,
        Image,
        MapAnnotation,
        Pixels,
        Pixels_DimensionOrder,
        PixelType,
        ROIRef,
        StructuredAnnotations,
        TiffData,
    )

    def described(cell: CellAnnotation) -> MapAnnotation:
        known = {"call": cell.name, **{name: f"{value:.6g}" for name, value in cell.measurements.items()}, **cell.texts}
        pairs: Any = {key: printable(value) for key, value in known.items()}
        return MapAnnotation(id=f"Annotation:{cell.number}", namespace="blastscope/cell", value=pairs)

    cells = annotations_of(report)
    rois = [_roi(cell) for cell in cells]
    for roi, cell in zip(rois, cells, strict=True):
        roi.annotation_refs = [AnnotationRef(id=f"Annotation:{cell.number}")]
    pixels = Pixels(
        id="Pixels:0",
        dimension_order=Pixels_DimensionOrder.XYCZT,
        type=PixelType.UINT8,
        size_x=width,
        size_y=height,
        size_z=1,
        size_c=3,
        size_t=1,
        physical_size_x=report.pixel_um,  # in micrometres, OME's default
        physical_size_y=report.pixel_um,
        interleaved=True,
        channels=[Channel(id="Channel:0:0", samples_per_pixel=3)],
        tiff_data_blocks=[TiffData(ifd=0, plane_count=1)],
    )
    name = printable(report.path.name) if report.path else "frame"
    image = Image(id="Image:0", name=name, pixels=pixels, roi_refs=[ROIRef(id=roi.id) for roi in rois])
    annotations = StructuredAnnotations(map_annotations=[described(cell) for cell in cells])
    return OME(creator="blastscope", images=[image], rois=rois, structured_annotations=annotations)


def _roi(cell: CellAnnotation) -> ROI:
    from ome_types.model import ROI, Color, Polygon

    score = cell.measurements.get("Probability of the call")
    words = cell.refusal or (f"{cell.name} {score:.2f}" if score is not None else cell.name)
    stroke = Color((*cell.colour, 1.0))
    shapes: Any = [
        Polygon(id=f"Shape:{cell.number}:0", points=_points(cell.outline), text=words, stroke_color=stroke, the_z=0, the_t=0)
    ]
    if cell.nucleus is not None:
        shapes.append(
            Polygon(
                id=f"Shape:{cell.number}:1", points=_points(cell.nucleus), text="nucleus", stroke_color=stroke, the_z=0, the_t=0
            )
        )
    return ROI(id=f"ROI:{cell.number}", name=f"{cell.number} {words}", union=shapes)


def _points(outline: Outline) -> str:
    return " ".join(f"{x:g},{y:g}" if max(x, y) < 1e5 else f"{x:.1f},{y:.1f}" for x, y in outline.tolist())
