"""`AnnotationWriter`: writes an examination's cells for other programs, in each format that is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from blastscope.runtime.errors import DataError
from blastscope.runtime.frames.annotations.dicom import check_dicom_slides, write_annotations
from blastscope.runtime.frames.annotations.ome_tiff import check_ome_types, write_ome_tiff
from blastscope.runtime.frames.annotations.text_formats import CocoBuilder, geojson_text, yolo_data, yolo_places, yolo_text
from blastscope.runtime.frames.report.theme import names_of
from blastscope.runtime.frames.report.writers import check_places, file_names
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.atomic import write_content
from blastscope.runtime.io.slides.slide import Slide
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Audit

SUFFIXES = {"geojson": ".geojson", "ome": ".ome.tiff", "dicom": ".ann.dcm"}  # of the formats with one file per frame


@dataclass(frozen=True)
class AnnotationOptions:
    """Which annotations go where; None for what isn't wanted.

    Attributes
    ----------
    geojson, ome, dicom : Path or None
        A folder for one file per frame, NAME.geojson, NAME.ome.tiff or NAME.ann.dcm; or, for a single frame, that file.
    coco : Path or None
        A JSON file on all frames.
    yolo : Path or None
        A folder for `data.yaml` and `labels`.
    """

    geojson: Path | None = None
    coco: Path | None = None
    yolo: Path | None = None
    ome: Path | None = None
    dicom: Path | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


class AnnotationWriter:
    """Writes the cells of each frame's report. Give `look` to `Scope.examine_files`.

    Parameters
    ----------
    wanted : AnnotationOptions
        What to write.
    paths : sequence of Path
        The frames that will be examined.
    others, beside : iterable of Path or None
        What else is read, and what else is written, where nothing may be written.
    version : str
        Of this software, for DICOM.

    Raises
    ------
    DataError
        At once: for a place that can't be written, that is named twice or is read, and for a frame that a format can't take.
    MissingLibrary
        A format's library isn't installed.
    """

    def __init__(
        self,
        wanted: AnnotationOptions,
        paths: Sequence[Path],
        *,
        others: Iterable[Path | None] = (),
        beside: Iterable[Path | None] = (),
        version: str = "",
    ) -> None:
        self._wanted, self._version = wanted, version
        names = file_names(names_of(paths))
        self._places = {
            kind: {path: _place(folder, f"{name}{suffix}", suffix, len(paths)) for path, name in names.items()}
            for kind, suffix in SUFFIXES.items()
            if (folder := getattr(wanted, kind))
        }
        self._labels = {path: wanted.yolo / place for path, place in yolo_places(paths).items()} if wanted.yolo else {}
        single = [wanted.coco, wanted.yolo / "data.yaml" if wanted.yolo else None]
        each = [place for places in (*self._places.values(), self._labels) for place in places.values()]
        for folder in {place.parent for place in each}:
            if folder.is_file():
                raise DataError(folder, "is a file, where a folder is asked for: name another place")
        check_places([*filter(None, (*beside, *single)), *each] if wanted else [], paths, others=others)
        if wanted.ome:
            check_ome_types()
        if wanted.dicom:
            check_dicom_slides(paths)
        self._coco = CocoBuilder(paths) if wanted.coco else None
        self._untold: list[str] = []
        self._lock = threading.Lock()

    def collect(self, scan: Slide, report: FrameReport) -> None:
        """Writes the frame's OME-TIFF while its pixels can be read; called by several threads."""
        place = self._place_of("ome", report)
        if place is None:
            return
        try:
            refusal = write_ome_tiff(scan, report, place)
        except ReadError as unreadable:  # a file that changes meanwhile
            refusal = unreadable.refusal
        if refusal:
            with self._lock:
                self._untold.append(f"{report.path}: no OME-TIFF: {refusal.detail}")

    def add(self, report: FrameReport, audit: Audit) -> Iterator[str]:
        """Writes what a report alone decides; gives what there is to tell of it."""
        with self._lock:
            told, self._untold = self._untold, []
        yield from told
        if self._coco:
            self._coco.add(report)
        if (place := self._place_of("geojson", report)) is not None:
            write_content(place, geojson_text(report))
        if (place := self._place_of("dicom", report)) is not None:
            if report.cells:
                write_annotations(report, place, audit, self._version)
            else:
                yield f"{report.path}: no DICOM annotations: an instance of them holds a cell at least"
        if report.path in self._labels and report.refusal is None:
            write_content(self._labels[report.path], yolo_text(report))

    def finish(self) -> list[Path]:
        """Writes what speaks of all frames; gives the places of everything that was asked for."""
        wanted = self._wanted
        if wanted.coco and self._coco:
            write_content(wanted.coco, self._coco.text())
        if wanted.yolo:
            write_content(wanted.yolo / "data.yaml", yolo_data())
        return [place for field in fields(wanted) if (place := getattr(wanted, field.name))]

    def _place_of(self, kind: str, report: FrameReport) -> Path | None:
        if report.refusal is not None or report.path is None:
            return None
        return self._places.get(kind, {}).get(report.path)


def _place(named: Path, name: str, suffix: str, frames: int) -> Path:
    """The file of a frame: the one that is named where it is of the format and there is one frame, else one in that folder."""
    return named if frames == 1 and named.name.lower().endswith(suffix.rpartition(".")[2]) else named / name
