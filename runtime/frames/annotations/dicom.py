"""DICOM: the cells of a whole-slide image as Microscopy Bulk Simple Annotations, which slide viewers lay over it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blastscope.runtime.errors import DataError, MissingLibrary
from blastscope.runtime.frames.annotations.cell_annotation import CLASS_NAMES, KINDS, CellAnnotation, annotations_of
from blastscope.runtime.frames.report.theme import caution
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.atomic import write_file
from blastscope.runtime.types import Audit

if TYPE_CHECKING:
    from highdicom.ann import AnnotationGroup, MicroscopyBulkSimpleAnnotations
    from pydicom import Dataset

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
SERIES_NUMBER = 900  # away from the scanner's own
REMEDY = "--dicom is for DICOM slides; --geojson, --coco, --yolo and --ome take every frame"


def check_dicom_slides(paths: Iterable[Path]) -> None:
    """Checks before anything is examined that annotations can be written for each of `paths`.

    Raises
    ------
    MissingLibrary
        highdicom isn't installed.
    DataError
        One is no DICOM whole-slide image with a frame of reference of its own, so that nothing would say where its cells lie.
    """
    if find_spec("highdicom") is None:
        raise MissingLibrary("highdicom", "dicom")
    for path in paths:
        _check_one(path)


def _check_one(path: Path) -> None:
    header = _header(next(iter(_files(path)), path))
    if header is None or header.get("SOPClassUID") != WHOLE_SLIDE_IMAGE:
        raise DataError(path, f"is no DICOM whole-slide image, so there is no slide to annotate: {REMEDY}")
    if not header.get("FrameOfReferenceUID"):
        raise DataError(path, f"has no frame of reference, so nothing says where on the slide its pixels lie: {REMEDY}")


def write_annotations(report: FrameReport, path: Path, audit: Audit, version: str) -> None:
    """Writes the cells of a DICOM slide as one Microscopy Bulk Simple Annotations instance.

    A group a call (ALL, HEM, refused) holds the cells' outlines as polygons in pixels of the Total Pixel Matrix, from the
    corner of its first pixel, with area, diameter, probability of ALL and novelty as measurements.

    Parameters
    ----------
    report : FrameReport
        The slide's, with at least one cell.
    path : Path
        Where to; written whole or not at all.
    audit : Audit
        What answered.
    version : str
        Of this software.

    Raises
    ------
    DataError
        The slide's largest image isn't found, or lacks what DICOM asks of it.
    """
    assert report.path is not None
    source = _source(report)
    try:
        made = _annotations(report, source, audit, version)
    except (AttributeError, KeyError, ValueError) as error:
        raise DataError(report.path, f"is no whole DICOM slide, annotations can't refer to it: {error}") from error
    write_file(path, partial(_save, made))


def _save(made: MicroscopyBulkSimpleAnnotations, path: Path) -> None:
    made.save_as(path)


def _annotations(report: FrameReport, source: Dataset, audit: Audit, version: str) -> MicroscopyBulkSimpleAnnotations:
    from highdicom.ann import AnnotationCoordinateTypeValues, MicroscopyBulkSimpleAnnotations
    from highdicom.uid import UID

    cells = annotations_of(report)
    groups = [
        _group(number, [cell for cell in cells if cell.kind == kind], report, version)
        for number, kind in enumerate((kind for kind in KINDS if any(cell.kind == kind for cell in cells)), 1)
    ]
    return MicroscopyBulkSimpleAnnotations(
        source_images=[source],
        annotation_coordinate_type=AnnotationCoordinateTypeValues.SCOORD,
        annotation_groups=groups,
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="blastscope",
        manufacturer_model_name="blastscope examine",
        software_versions=version,
        device_serial_number=audit.bundle[:64],  # the networks' digest
        content_label="WHITE_CELLS",
        content_description="White cells, for research use",
    )


def _group(number: int, cells: list[CellAnnotation], report: FrameReport, version: str) -> AnnotationGroup:
    from highdicom.ann import AnnotationGroup, AnnotationGroupGenerationTypeValues, GraphicTypeValues, Measurements
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.uid import UID
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    def figures(name: Code, key: str, unit: Code) -> Measurements | None:
        values = np.array([cell.measurements.get(key, np.nan) for cell in cells], np.float32)
        return None if np.isnan(values).all() else Measurements(name=name, values=values, unit=unit)

    no_unit = codes.UCUM.NoUnits
    found = (
        figures(codes.SCT.Area, "Area \u00b5m^2", codes.UCUM.SquareMicrometer),
        figures(codes.SCT.Diameter, "Diameter \u00b5m", codes.UCUM.Micrometer),
        figures(Code("SCORE", "99BLASTSCOPE", "Probability of ALL"), "Probability of ALL", no_unit),
        figures(Code("NOVELTY", "99BLASTSCOPE", "Distance from training cells"), "Novelty", no_unit),
    )
    kind = cells[0].kind
    algorithm = AlgorithmIdentificationSequence(name="blastscope", family=codes.DCM.ArtificialIntelligence, version=version)
    return AnnotationGroup(
        number=number,
        uid=UID(),
        label="not called" if kind == "refused" else f"called {CLASS_NAMES[kind]}",
        annotated_property_category=codes.SCT.AnatomicalStructure,
        annotated_property_type=codes.SCT.Cell,
        graphic_type=GraphicTypeValues.POLYGON,
        graphic_data=[cell.outline.astype(np.float32) for cell in cells],
        algorithm_type=AnnotationGroupGenerationTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        measurements=[one for one in found if one is not None],
        description=caution(validated=report.validated),
    )


def _source(report: FrameReport) -> Dataset:
    """The image whose pixels were examined: the one of the slide's series that has as many."""
    assert report.path is not None
    own = _header(next(iter(_files(report.path)), report.path))
    series = own.get("SeriesInstanceUID") if own is not None else None
    for file in _files(report.path, whole_series=True):
        header = _header(file)
        if header is None or header.get("SOPClassUID") != WHOLE_SLIDE_IMAGE or header.get("SeriesInstanceUID") != series:
            continue
        kinds = header.get("ImageType", ())
        if (header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows")) == report.size and "VOLUME" in kinds:
            return header
    size = f"{report.size[0]} x {report.size[1]} pixels" if report.size else "this size"
    raise DataError(report.path, f"no image of its series has {size}, so the annotations would lie elsewhere")


def _files(path: Path, *, whole_series: bool = False) -> list[Path]:
    """The file itself or those in the folder; of a series those beside it as well, the file itself first."""
    folder = path if path.is_dir() else path.parent if whole_series else None
    beside = sorted(file for file in folder.iterdir() if file.is_file()) if folder else []
    return beside if path.is_dir() else [path, *(file for file in beside if file != path)]


def _header(path: Path) -> Dataset | None:
    """The DICOM attributes before the pixels; None of what is no DICOM file."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, AttributeError, ValueError):
        return None
