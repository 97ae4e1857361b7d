"""Annotations for other programs, read back by the libraries that others read them with."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from dicom_slide import write_dicom_slide
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry import box as rectangle
from shapely.geometry import shape
from skimage.measure import find_contours

from blastscope.runtime.errors import DataError, MissingLibrary
from blastscope.runtime.frames.annotations import dicom, ome_tiff
from blastscope.runtime.frames.annotations.cell_annotation import pixel_outline
from blastscope.runtime.frames.annotations.text_formats import geojson_text, yolo_text
from blastscope.runtime.frames.annotations.writer import AnnotationOptions, AnnotationWriter
from blastscope.runtime.frames.pipeline import Examiner
from blastscope.runtime.frames.types import FrameCell, FrameReport
from blastscope.runtime.io.slides.slide import ArraySlide, open_slide, read_region
from blastscope.runtime.types import Audit, Prediction, Refusal

AUDIT = Audit("b" * 64, "e", "openvino", "CPU", "fp16", "f32")
NAMES = ("BloodImage_00010.jpg", "BloodImage_00026.jpg", "BloodImage_00190.jpg")


def called(cells: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
    """ALL, HEM and refused in turn."""
    return [
        (
            Prediction("all", 0.9, 0.9, "combined", None, None, None, AUDIT, novelty=0.75, set=("all",)),
            Prediction("hem", 0.8, 0.2, "a", None, None, None, AUDIT),
            Prediction(None, None, None, None, None, None, Refusal("unlike-training", "too far"), AUDIT),
        )[number % 3]
        for number in range(len(cells))
    ]


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> list[Path]:
    return [shared_data / "bccd" / "JPEGImages" / name for name in NAMES]


@pytest.fixture(scope="module")
def reports(frames: list[Path]) -> list[FrameReport]:
    """Real cells of real frames, each kind of call among them."""
    found = list(Examiner(called, pixel_um=0.075).examine_files(frames))
    pool = [replace_call(cell, number) for number, cell in enumerate(cell for one in found for cell in one.cells)]
    cells = iter(pool)
    given = [replace(one, cells=tuple(next(cells) for _ in one.cells)) for one in found]
    assert {cell.label for one in given for cell in one.cells} == {"all", "hem", None}
    return given


def replace_call(cell: FrameCell, number: int) -> FrameCell:
    """Whatever the finder thought of the cell, it is called, or refused by the networks."""
    return FrameCell(replace(cell.found, refusal=None), called([np.zeros((1, 1, 3), np.uint8)] * 3)[number % 3])


def mask_of(cell: FrameCell, report: FrameReport) -> NDArray[np.bool_]:
    """The pixels of a cell, by OpenCV."""
    assert report.size is not None
    mask = np.zeros(report.size[::-1], np.uint8)
    cv2.drawContours(mask, [cell.contour], -1, (1,), cv2.FILLED)
    return mask.astype(bool)


def write(wanted: AnnotationOptions, reports: Sequence[FrameReport]) -> None:
    paths = [report.path for report in reports if report.path]
    writer = AnnotationWriter(wanted, paths, version="1.2.3")
    for path, report in zip(paths, reports, strict=True):
        scan = open_slide(path)
        assert not isinstance(scan, Refusal)
        writer.collect(scan, report)
        scan.close()
        assert list(writer.add(report, AUDIT)) == []
    assert writer.finish() == [place for place in vars(wanted).values() if place]


def test_an_outline_is_that_of_marching_squares_and_never_crosses_itself() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        noise = cv2.GaussianBlur(rng.random((60, 60)).astype(np.float32), (0, 0), rng.uniform(0.5, 4))
        blobs = (noise > np.quantile(noise, rng.uniform(0.5, 0.95))).astype(np.uint8)
        for contour in cv2.findContours(blobs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
            ours = Polygon(pixel_outline(np.asarray(contour.reshape(-1, 2), np.int32)))
            filled = np.zeros((62, 62), np.uint8)
            cv2.drawContours(filled, [contour + 1], -1, (1,), cv2.FILLED)
            theirs = max(find_contours(filled, 0.5, fully_connected="high"), key=len)[:, ::-1] - 0.5
            assert ours.is_valid
            assert ours.symmetric_difference(Polygon(theirs)).area < 1e-6
            assert ours.area == filled.sum() - 0.5


def test_qupath_gets_valid_cells_with_classes_and_measurements(reports: list[FrameReport], tmp_path: Path) -> None:
    write(AnnotationOptions(geojson=tmp_path), reports)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{Path(name).stem}.geojson" for name in NAMES]
    for report in reports:
        assert report.path is not None
        read = json.loads((tmp_path / f"{report.path.stem}.geojson").read_text(encoding="utf-8"))
        assert read["type"] == "FeatureCollection"
        assert len({feature["id"] for feature in read["features"]}) == len(report.cells)
        for feature, cell in zip(read["features"], report.cells, strict=True):
            outline, nucleus = shape(feature["geometry"]), shape(feature["nucleusGeometry"])
            ys, xs = np.nonzero(mask_of(cell, report))
            assert outline.is_valid
            assert nucleus.is_valid
            assert outline.exterior.is_ccw  # as GeoJSON asks, in its axes
            assert outline.area == len(xs) - 0.5  # from the corner, so a mask of n pixels has n of area
            assert outline.centroid.distance(rectangle(xs.mean(), ys.mean(), xs.mean() + 1, ys.mean() + 1).centroid) < 0.1
            assert outline.intersection(nucleus).area > 0.9 * nucleus.area
            known = feature["properties"]
            assert known["objectType"] == "cell"
            assert known["classification"]["name"] == {"all": "ALL", "hem": "HEM", None: "refused"}[cell.label]
            score = cell.prediction.score if cell.prediction else None
            assert known["measurements"].get("Probability of ALL") == score
            assert known["measurements"]["Area \u00b5m^2"] == pytest.approx(len(xs) * 0.075**2)
            assert known["metadata"].get("refusal") == (cell.refusal.code if cell.refusal else None)
    assert geojson_text(reports[0]) == geojson_text(reports[0])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself, with numpy 2
def test_pycocotools_reads_the_same_cells_and_pixels(reports: list[FrameReport], tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    write(AnnotationOptions(coco=tmp_path / "cells.json"), reports)
    read = COCO(str(tmp_path / "cells.json"))
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == ["HEM", "ALL", "refused"]
    images = read.loadImgs(read.getImgIds())
    assert [image["file_name"] for image in images] == list(NAMES)
    for image, report in zip(images, reports, strict=True):
        assert (image["width"], image["height"]) == report.size
        annotations = read.loadAnns(read.getAnnIds(imgIds=image["id"]))
        for annotation, cell in zip(annotations, report.cells, strict=True):
            mask, drawn = mask_of(cell, report), read.annToMask(annotation).astype(bool)
            assert (mask ^ drawn).sum() <= 0.01 * mask.sum()
            ys, xs = np.nonzero(drawn)
            x0, y0, x1, y1 = cell.box
            assert np.abs(np.subtract([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x0, y0, x1, y1])).max() <= 1
            assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert annotation["score"] == cell.probability


def test_yolo_labels_give_the_boxes_back(reports: list[FrameReport], tmp_path: Path) -> None:
    write(AnnotationOptions(yolo=tmp_path), reports)
    assert "1: ALL" in (tmp_path / "data.yaml").read_text(encoding="utf-8")
    for report in reports:
        assert report.path is not None
        assert report.size is not None
        lines = (tmp_path / "labels" / f"{report.path.stem}.txt").read_text(encoding="utf-8").splitlines()
        for line, cell in zip(lines, report.cells, strict=True):
            kind, *shares = line.split()
            x, y, width, height = np.array(shares, np.float64) * (report.size * 2)
            assert np.allclose((x - width / 2, y - height / 2, x + width / 2, y + height / 2), cell.box, atol=1e-4)
            assert ["hem", "all", None][int(kind)] == cell.label
    assert yolo_text(replace(reports[0], cells=())) == ""


def test_an_ome_tiff_is_valid_and_holds_pixels_scale_and_cells(reports: list[FrameReport], tmp_path: Path) -> None:
    import ome_types
    from lxml import etree

    write(AnnotationOptions(ome=tmp_path), reports)
    schema = etree.XMLSchema(etree.parse(Path(ome_types.__file__).with_name("ome-2016-06.xsd")))
    for report in reports:
        assert report.path is not None
        path = tmp_path / f"{report.path.stem}.ome.tiff"
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_ome
            assert tiff.ome_metadata is not None
            schema.assertValid(etree.fromstring(tiff.ome_metadata.encode()))
            assert tiff.series[0].axes == "YXS"
            pixels = tiff.asarray()
        scan, again = open_slide(report.path), open_slide(path)
        assert not isinstance(scan, Refusal)
        assert not isinstance(again, Refusal)
        whole = 0, 0, scan.width, scan.height
        assert np.array_equal(pixels, read_region(scan, whole))
        assert np.array_equal(pixels, read_region(again, whole))
        assert again.pixel_um == 0.075
        again.close()
        model = ome_types.from_tiff(path)
        assert [one.id for one in model.images[0].roi_refs] == [one.id for one in model.rois]
        for roi, cell in zip(model.rois, report.cells, strict=True):
            points = [[float(value) for value in pair.split(",")] for pair in roi.union[0].points.split()]  # type: ignore[union-attr]
            assert np.array_equal(points, pixel_outline(cell.contour))
            assert roi.union[0].text == (
                cell.refusal.code if cell.refusal else f"{str(cell.label).upper()} {cell.probability:.2f}"
            )
            (told,) = roi.annotation_refs
            known = next(one for one in model.structured_annotations if one.id == told.id)
            assert dict(known.value)["call"] == {"all": "ALL", "hem": "HEM", None: "refused"}[cell.label]  # type: ignore[union-attr]


def test_the_pixels_of_a_large_slide_are_not_copied(
    reports: list[FrameReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ome_tiff, "MAX_PIXELS", 1000)
    refusal = ome_tiff.write_ome_tiff(ArraySlide(np.zeros((40, 40, 3), np.uint8)), reports[0], tmp_path / "a.ome.tiff")
    assert refusal is not None
    assert "--geojson" in refusal.detail
    assert not any(tmp_path.iterdir())


@pytest.fixture
def annread() -> Any:
    return pytest.importorskip("highdicom.ann", reason="highdicom is not installed: pip install 'blastscope[dicom]'").annread


@pytest.fixture
def slide(shared_data: Path, tmp_path: Path) -> Path:
    frame = cv2.imread(str(shared_data / "bccd" / "JPEGImages" / NAMES[0]))
    return write_dicom_slide(tmp_path / "slide", np.ascontiguousarray(frame[..., ::-1]), 0.075)


def test_dicom_annotations_lie_on_the_cells_of_their_slide(annread: Any, slide: Path, tmp_path: Path) -> None:
    from pydicom import dcmread

    (report,) = Examiner(called).examine_files([slide])
    report = replace(report, cells=tuple(replace_call(cell, number) for number, cell in enumerate(report.cells * 2)))
    write(AnnotationOptions(dicom=tmp_path / "out"), [report])
    read = annread(tmp_path / "out" / "level-0.ann.dcm")
    image = dcmread(slide)
    assert read.ReferencedImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert (read.StudyInstanceUID, read.PatientID) == (image.StudyInstanceUID, "p1")
    assert read.AnnotationCoordinateType == "2D"  # of the Total Pixel Matrix, from the corner of its first pixel
    groups = {group.label: group for group in read.get_annotation_groups()}
    assert set(groups) == {"called ALL", "called HEM", "not called"}
    for label, name in (("all", "called ALL"), ("hem", "called HEM"), (None, "not called")):
        own = [cell for cell in report.cells if cell.label == label]
        outlines = groups[name].get_graphic_data("2D")
        for outline, cell in zip(outlines, own, strict=True):
            assert np.array_equal(outline, pixel_outline(cell.contour))
        names, values, _ = groups[name].get_measurements()
        figures = dict(zip((one.meaning for one in names), values.T, strict=True))
        areas = [mask_of(cell, report).sum() * 0.075**2 for cell in own]
        assert np.allclose(figures["Area"], areas, rtol=1e-5)
        if label:
            assert np.allclose(figures["Probability of ALL"], [cell.prediction.score for cell in own if cell.prediction])


# dciodvfy 1.00 of 2022 complains of this attribute where it is absent, with an empty value, in every 2D instance
ABSENT = "Only valid for AnnotationCoordinateType of 3D - attribute <CommonZCoordinateValue> = <>"


@pytest.mark.usefixtures("annread")
def test_dciodvfy_finds_no_error_in_dicom_annotations(slide: Path, tmp_path: Path) -> None:
    verifier = shutil.which("dciodvfy")
    if verifier is None:
        pytest.skip("dciodvfy is not installed (Debian's package dicom3tools)")
    (report,) = Examiner(called).examine_files([slide])
    write(AnnotationOptions(dicom=tmp_path / "a.dcm"), [report])
    told = subprocess.run([verifier, str(tmp_path / "a.dcm")], capture_output=True, text=True, check=False).stderr
    assert "MicroscopyBulkSimpleAnnotations" in told
    assert [line for line in told.splitlines() if line.startswith("Error") and ABSENT not in line] == []


@pytest.mark.usefixtures("annread")
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder, frame: shutil.copy(frame, folder / "a.png"), "is no DICOM whole-slide image"),
        (lambda folder, _: folder / "gone.dcm", "is no DICOM whole-slide image"),
        (
            lambda folder, _: write_dicom_slide(folder, np.zeros((9, 9, 3), np.uint8), 0.1, FrameOfReferenceUID=None),
            "has no frame of reference",
        ),
    ],
)
def test_what_is_no_dicom_slide_is_refused_before_it_is_examined(
    make: Any, problem: str, frames: list[Path], tmp_path: Path
) -> None:
    path = Path(make(tmp_path, frames[0]))
    with pytest.raises(DataError, match=problem) as caught:
        AnnotationWriter(AnnotationOptions(dicom=tmp_path / "out"), [path])
    assert "--geojson" in str(caught.value)


@pytest.mark.usefixtures("annread")
def test_a_slide_without_the_image_that_was_examined_is_an_error(slide: Path, reports: list[FrameReport]) -> None:
    with pytest.raises(DataError, match="no image of its series has 640 x 481 pixels"):
        dicom.write_annotations(replace(reports[0], path=slide, size=(640, 481)), slide.with_name("a"), AUDIT, "1")


@pytest.mark.parametrize(("kind", "command"), [("ome", "blastscope[ome]"), ("dicom", "blastscope[dicom]")])
def test_a_missing_library_is_named_with_its_command(
    kind: str, command: str, frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ome_tiff, "find_spec", lambda _: None)
    monkeypatch.setattr(dicom, "find_spec", lambda _: None)
    with pytest.raises(MissingLibrary, match=command.replace("[", r"\[").replace("]", r"\]")):
        AnnotationWriter(AnnotationOptions(**{kind: tmp_path / "out"}), frames)


def test_frames_that_yolo_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    options = AnnotationOptions(yolo=tmp_path / "y")
    with pytest.raises(DataError, match="rename one"):
        AnnotationWriter(options, [Path("a.png"), Path("A.jpg")])
    writer = AnnotationWriter(options, [Path("one/a.png"), Path("two/a.png")])
    assert [path.relative_to(tmp_path).as_posix() for path in writer._labels.values()] == [
        "y/labels/one/a.txt",
        "y/labels/two/a.txt",
    ]


def test_a_frame_that_could_not_be_examined_gets_no_file(frames: list[Path], tmp_path: Path) -> None:
    refused = FrameReport((), None, Refusal("undecodable", "no"), path=frames[0])
    write(AnnotationOptions(geojson=tmp_path / "g", coco=tmp_path / "c.json", yolo=tmp_path / "y"), [refused])
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["images"] == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["c.json", "data.yaml"]


def test_annotations_are_never_written_over_a_frame(tmp_path: Path) -> None:
    for name in ("a.png", "a.ome.tiff"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="is one of the frames"):
        AnnotationWriter(AnnotationOptions(ome=tmp_path), [tmp_path / "a.png", tmp_path / "a.ome.tiff"])
