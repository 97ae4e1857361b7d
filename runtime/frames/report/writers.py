"""`ReportWriter`: writes CSV, JSON, HTML, overlays and contact sheets of an examination; each file is complete or absent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from blastscope.runtime.bundle.manifest_io import MANIFEST
from blastscope.runtime.errors import DataError, UsageError
from blastscope.runtime.frames.report.contact_sheet import draw_contact_sheet
from blastscope.runtime.frames.report.html_report import diameter_um, render_slide_report
from blastscope.runtime.frames.report.theme import names_of
from blastscope.runtime.frames.report.thumbnails import MOST_MAPS, Thumbnail, ThumbnailCollector
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.io.atomic import check_place, write_file
from blastscope.runtime.io.paths import resolved
from blastscope.runtime.io.printable import without_surrogates
from blastscope.runtime.io.slides.slide import OVERLAY
from blastscope.runtime.types import Audit

MOST_NAME = 180  # bytes of a frame's name that its overlay and page take on: a file's may have 255, and theirs are longer
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
PAGES = {".html", ".htm"}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # how a cell begins that a spreadsheet computes
COLUMNS = (
    *("path", "number", "x0", "y0", "x1", "y1", "label", "probability", "score", "voter", "refusal", "detail"),
    *("pixel_um", "scale_source", "diameter_um", "validated", "novelty", "set"),
)


@dataclass(frozen=True)
class OutputOptions:
    """Where things go; None for what isn't wanted. Raises `UsageError` for a name that says no format.

    Attributes
    ----------
    overlay : Path or None
        A folder for the frames with their cells drawn in.
    sheet : Path or None
        A picture of all cells: PNG or JPEG.
    report : Path or None
        One HTML page, or a folder of one page per frame.
    csv : Path or None
        A table with one row per cell.
    """

    overlay: Path | None = None
    sheet: Path | None = None
    report: Path | None = None
    csv: Path | None = None

    def __post_init__(self) -> None:
        """Checked before anything is examined."""
        if self.sheet and self.sheet.suffix.lower() not in PICTURES:
            raise UsageError(f"a sheet is written as one of {', '.join(PICTURES)}, not as '{self.sheet.name}'")

    @property
    def one_page(self) -> bool:
        """Whether the report is a single page."""
        return self.report is not None and self.report.suffix.lower() in PAGES

    @property
    def report_page(self) -> Path | None:
        """The page on all frames."""
        return self.report if self.one_page or self.report is None else self.report / "index.html"


class ReportWriter:
    """Writes the outputs that were asked for, from the reports on `paths`. Give `album.collect` to `Scope.examine_files`.

    Raises `DataError` at once for a place where nothing can be written, that is named twice, or where one of the frames or of
    the `others` lies, which are read too.
    """

    def __init__(self, wanted: OutputOptions, paths: Sequence[Path], *, others: Iterable[Path | None] = ()) -> None:
        self._wanted = wanted
        self._titles = names_of(paths)
        self._names = file_names(self._titles)
        overlay = wanted.overlay
        for folder in filter(None, (overlay, None if wanted.one_page else wanted.report)):
            if folder.is_file():
                raise DataError(folder, "is a file, where a folder is asked for: name another place")
        places = (wanted.csv, wanted.sheet, wanted.report_page, overlay and overlay / "index")
        check_places(filter(None, places), paths, others=others)
        overlays = {path: overlay / f"{name}{OVERLAY}" for path, name in self._names.items()} if overlay else {}
        maps = MOST_MAPS if wanted.one_page else len(paths) if wanted.report else 0
        self.album = ThumbnailCollector(overlays=overlays, cells=bool(wanted.sheet or wanted.report), maps=maps)
        self._kept: list[Thumbnail] = []
        self._links: dict[int, str] = {}
        self._rows: list[list[object]] = []

    def add(self, report: FrameReport, audit: Audit) -> None:
        """Adds a frame's report. The frame's own page is written at once."""
        shown, wanted = self.album.shown(report), self._wanted
        if wanted.csv:
            self._rows += _rows(report)
        if wanted.report and not wanted.one_page:
            if report.refusal is None and report.path:
                name = f"{self._names[report.path]}.html"
                _write_text(wanted.report / name, render_slide_report([shown], self._titles[report.path], audit=audit))
                self._links[len(self._kept)] = quote(name)  # a name may hold # or %
            shown = shown if wanted.sheet else Thumbnail(report)
        if wanted.sheet or wanted.report:
            self._kept.append(shown)

    def finish(self, title: str, audit: Audit, *, alarms: Sequence[str] = ()) -> list[Path]:
        """Writes what speaks of all frames, with the `alarms` of a drift; gives the places of everything that was written."""
        wanted, written = self._wanted, []
        if wanted.csv:
            write_file(wanted.csv, partial(_write_rows, self._rows))
            written.append(wanted.csv)
        if wanted.sheet:
            sheet = draw_contact_sheet(self._kept, title)
            write_file(wanted.sheet, partial(sheet.save, format=PICTURES[wanted.sheet.suffix.lower()]))
            written.append(wanted.sheet)
        if wanted.report_page:
            links = None if wanted.one_page else self._links
            _write_text(wanted.report_page, render_slide_report(self._kept, title, audit=audit, links=links, alarms=alarms))
            written.append(wanted.report_page)
        return [*written, *([wanted.overlay] if wanted.overlay else [])]


def check_places(places: Iterable[Path], frames: Iterable[Path], *, others: Iterable[Path | None] = ()) -> None:
    """Raises `DataError` for an output path that can't be written, is given twice, is one of the inputs, or lies in a bundle.

    A bundle holds what its manifest lists, and is refused if there is anything else.
    """
    taken = {resolved(other): "is read by this command" for other in others if other}
    taken |= {resolved(frame): "is one of the frames" for frame in frames}
    for place in places:
        if reason := taken.get(resolved(place)):
            raise DataError(place, f"{reason}: name another place")
        taken[resolved(place)] = "is to hold two things"
        if bundle := next((folder for folder in resolved(place).parents if _is_bundle(folder)), None):
            raise DataError(place, f"lies in the bundle '{bundle}': name another place")
        check_place(place)


def _is_bundle(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and any(folder.glob("*/*.onnx"))


def file_names(titles: Mapping[Path | None, str]) -> dict[Path, str]:
    """A name for each path that no other has, whatever the case: what is made of a frame is called by it."""
    taken, names = {"index"}, {}
    for path, title in titles.items():
        if path is None:
            continue
        called = Path(title).with_suffix("")
        stem = "-".join(part for part in called.parts if part != called.anchor).encode()[:MOST_NAME].decode("utf-8", "ignore")
        name, number = stem, 2
        while name.lower() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.lower())
        names[path] = name
    return names


def _rows(report: FrameReport) -> list[list[object]]:
    parameters = report.parameters
    rows: list[list[object]] = []
    for number, cell in enumerate(report.cells, 1):
        row, across = cell.row(), diameter_um(cell, report)
        call = [row["label"], row["probability"], row["score"], row["voter"], row["refusal"], row["detail"]]
        scale = (
            [parameters.pixel_um, parameters.scale_source, round(across, 2) if across else None] if parameters else [None] * 3
        )
        path = _as_data(report.path) if report.path else None
        doubt = [row["novelty"], None if row["set"] is None else " ".join(row["set"])]
        rows.append([path, number, *row["box"], *call, *scale, str(report.validated).lower(), *doubt])
    return rows


def _as_data(path: Path) -> str:
    """The path as a spreadsheet takes no formula from it, and programs still open it."""
    text = without_surrogates(path)
    return f"./{text}" if text.startswith(FORMULA) else text


def _write_rows(rows: list[list[object]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(map(_line, [COLUMNS, *rows]))


def _line(row: Sequence[object]) -> str:
    """Ends with a line feed alone, and quotes what holds a carriage return: Python's writer does either."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _write_text(path: Path, text: str) -> None:
    write_file(path, partial(_fill, text))


def _fill(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
