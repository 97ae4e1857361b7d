"""Zeiss slides, HEIF photographs and DICOM slides, written here by other libraries, read in pieces and in the right colours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dicom_slide import write_dicom_slide
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.paths import SkippedFiles, left_out
from blastscope.runtime.io.slides import dicom
from blastscope.runtime.io.slides import slide as slides
from blastscope.runtime.io.slides.dicom import DicomSlide
from blastscope.runtime.io.slides.slide import Slide, find_frames, open_slide, read_overview, read_region
from blastscope.runtime.io.slides.vendor import CziSlide, HeifSlide
from blastscope.runtime.types import Refusal

Pixels = NDArray[np.uint8]
# no two of its colours are alike when red and blue change places
FIELD = np.kron(np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
HEIGHT, WIDTH = FIELD.shape[:2]


def opened(path: Path) -> Slide:
    slide = open_slide(path)
    assert not isinstance(slide, Refusal), slide
    return slide


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = importlib.util.find_spec

    def find(name: str, *words: Any) -> object:
        return None if name in names else found(name, *words)

    for module in ("dicom", "vendor"):
        monkeypatch.setattr(f"blastscope.runtime.io.slides.{module}.find_spec", find)


# ---- Zeiss


def write_czi(path: Path, pieces: dict[tuple[int, int], Pixels], um: float = 0.25, **words: Any) -> None:
    """A mosaic whose pieces lie with their corners there. The library takes what the file holds: blue first."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(path)) as file:
        for corner, piece in pieces.items():
            file.write(np.ascontiguousarray(piece[..., ::-1]), location=corner, **words)
        file.write_metadata("slide", scale_x=um * 1e-6, scale_y=um * 1e-6)


def test_a_zeiss_mosaic_is_one_frame_in_red_green_and_blue(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", {(-100, 50): FIELD[:, :320], (220, 50): FIELD[:, 320:]})
    slide = opened(tmp_path / "a.czi")
    assert isinstance(slide, CziSlide)
    assert (slide.width, slide.height, slide.pixel_um) == (WIDTH, HEIGHT, 0.25)
    assert np.array_equal(slide.read((0, 0, WIDTH, HEIGHT)), FIELD)
    assert np.array_equal(slide.read((301, 17, 388, 200)), FIELD[17:200, 301:388])
    assert "0.25 micrometres a pixel by the Zeiss metadata" in slide.notes
    slide.close()


def test_a_gap_in_a_zeiss_mosaic_is_blank_glass(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", {(0, 0): FIELD, (1000, 0): FIELD})
    slide = opened(tmp_path / "a.czi")
    assert slide.width == 1000 + WIDTH
    assert (slide.read((WIDTH, 0, 1000, HEIGHT)) == 255).all()
    assert slide.blank((WIDTH, 0, 1000, HEIGHT))
    assert not slide.blank((WIDTH - 1, 0, 1000, HEIGHT))
    slide.close()


def test_an_overview_of_a_zeiss_slide_is_the_slide_in_small(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", {(0, 0): FIELD})
    slide = opened(tmp_path / "a.czi")
    small = cv2.resize(FIELD, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    assert np.abs(read_overview(slide, WIDTH // 4).astype(int) - small).max() <= 1
    slide.close()


@pytest.mark.parametrize(
    ("shape", "planes", "code", "words"),
    [
        ((64, 64, 3), [{"Z": 0}, {"Z": 1}], "undecodable", "a Zeiss stack (Z: 2)"),
        ((64, 64, 3), [{"T": 0}, {"T": 1}], "undecodable", "a Zeiss stack (T: 2)"),
        ((64, 64, 1), [{"C": 0}], "not-8-bit-rgb", "a Zeiss slide of Gray8 pixels"),
    ],
)
def test_stacks_and_gray_zeiss_slides_are_refused(
    tmp_path: Path, shape: tuple[int, ...], planes: list[dict[str, int]], code: str, words: str
) -> None:
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for plane in planes:
            file.write(np.zeros(shape, np.uint8), plane=plane)
    refusal = open_slide(tmp_path / "a.czi")
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert refusal.detail.startswith(words)


def test_a_damaged_zeiss_slide_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pylibCZIrw")
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE\0" + bytes(600))
    refusal = open_slide(tmp_path / "a.czi")
    assert isinstance(refusal, Refusal)
    assert refusal.detail.startswith("a Zeiss slide (.czi) that is damaged: ")


# ---- HEIF

PHOTO = FIELD[:64, :96]  # the encoder takes seconds for a large one
DOWN, ACROSS = PHOTO.shape[:2]


def write_heif(path: Path, pixels: Pixels, **words: Any) -> None:
    heif = pytest.importorskip("pillow_heif")
    mode = {3: "RGB", 4: "RGBA"}[pixels.shape[2]] + (";16" if pixels.dtype == np.uint16 else "")
    file = heif.from_bytes(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())
    file.save(path, quality=-1, chroma=444, **words)


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg"])
def test_a_heif_photograph_is_read_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    write_heif(tmp_path / "a.heic", PHOTO)
    (tmp_path / "a.heic").rename(tmp_path / name)
    slide = opened(tmp_path / name)
    assert isinstance(slide, HeifSlide)
    assert (slide.width, slide.height, slide.pixel_um, slide.notes) == (ACROSS, DOWN, None, ())
    assert np.abs(slide.read((0, 0, ACROSS, DOWN)).astype(int) - PHOTO).max() <= 2  # by way of YCbCr
    assert np.array_equal(slide.read((30, 20, 90, 60)), slide.read((0, 0, ACROSS, DOWN))[20:60, 30:90])


def test_an_exif_orientation_does_not_turn_a_heif_photograph(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    write_heif(tmp_path / "a.heic", PHOTO, exif=exif.tobytes())
    slide = opened(tmp_path / "a.heic")
    assert (slide.width, slide.height) in ((ACROSS, DOWN), (DOWN, ACROSS))
    turned = PHOTO if slide.width == ACROSS else np.rot90(PHOTO, -1)  # the writer may lay the rotation into the file itself
    assert np.abs(slide.read((0, 0, slide.width, slide.height)).astype(int) - turned).max() <= 2


def test_transparent_deep_and_several_heif_pictures_are_refused(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    clear = np.dstack([PHOTO, np.full((DOWN, ACROSS), 128, np.uint8)])
    write_heif(tmp_path / "clear.heic", clear)
    with pytest.raises(slides.ReadError, match="alpha isn't opaque"):
        read_region(opened(tmp_path / "clear.heic"), (0, 0, 9, 9))
    opaque = np.dstack([PHOTO, np.full((DOWN, ACROSS), 255, np.uint8)])
    write_heif(tmp_path / "opaque.heic", opaque)
    assert opened(tmp_path / "opaque.heic").read((0, 0, 9, 9)).shape == (9, 9, 3)
    write_heif(tmp_path / "deep.heic", PHOTO.astype(np.uint16) * 257)
    deep = open_slide(tmp_path / "deep.heic")
    assert isinstance(deep, Refusal)
    assert deep.code == "not-8-bit-rgb"
    several = heif.from_bytes("RGB", (ACROSS, DOWN), PHOTO.tobytes())
    several.add_frombytes("RGB", (ACROSS, DOWN), PHOTO.tobytes())
    several.save(tmp_path / "two.heic", quality=95)
    two = open_slide(tmp_path / "two.heic")
    assert isinstance(two, Refusal)
    assert "of 2 images" in two.detail


def test_a_photograph_of_another_codec_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(300))
    refusal = open_slide(tmp_path / "a.heic")
    assert isinstance(refusal, Refusal)
    assert refusal.detail.startswith("an AVIF photograph, which isn't read here")


# ---- DICOM


@pytest.mark.parametrize("level", [0, 1])
def test_a_dicom_slide_is_read_by_wsidicom_as_by_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    pytest.importorskip("wsidicom")
    path = write_dicom_slide(tmp_path / "slide", FIELD, 0.25)
    write_dicom_slide(tmp_path / "slide" / "other", FIELD, 0.25)
    (tmp_path / "slide" / "notes.txt").write_text("Tuesday", encoding="utf-8")
    by_openslide = opened(path)
    without(monkeypatch, "openslide")
    slide = opened(path.with_name(f"level-{level}.dcm"))
    assert isinstance(slide, DicomSlide)
    assert (slide.width, slide.height, slide.pixel_um) == (WIDTH, HEIGHT, 0.25)
    assert slide.notes[0] == f"read: by wsidicom, 2 files of a series, {WIDTH} x {HEIGHT} pixels"
    box = (33, 20, 417, 301)
    assert np.array_equal(slide.read(box), FIELD[20:301, 33:417])
    assert np.array_equal(slide.read(box), by_openslide.read(box))
    small = cv2.resize(FIELD, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    assert np.array_equal(slide.reduced[0].read((0, 0, WIDTH // 2, HEIGHT // 2)), small)
    slide.close()
    by_openslide.close()


def say_where_tiles_lie(path: Path, x: int, y: int) -> None:
    """Gives each tile of the slide a place in words, which is the usual one moved by (x, y)."""
    pydicom = pytest.importorskip("pydicom")
    image = pydicom.dcmread(path)
    across = -(-image.TotalPixelMatrixColumns // image.Columns)
    frames = []
    for number in range(image.NumberOfFrames):
        place, frame = pydicom.Dataset(), pydicom.Dataset()
        place.ColumnPositionInTotalImagePixelMatrix = number % across * image.Columns + x + 1
        place.RowPositionInTotalImagePixelMatrix = number // across * image.Rows + y + 1
        for axis in "XYZ":
            setattr(place, f"{axis}OffsetInSlideCoordinateSystem", 0)
        frame.PlanePositionSlideSequence = [place]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence, image.DimensionOrganizationType = frames, "TILED_SPARSE"
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows = WIDTH + x, HEIGHT + y
    image.save_as(path)


@pytest.mark.parametrize("readers", ["wsidicom", "both"])
def test_a_dicom_slide_whose_tiles_lie_in_no_grid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readers: str
) -> None:
    pytest.importorskip("wsidicom")
    path = write_dicom_slide(tmp_path, FIELD, 0.25, levels=1)
    if readers == "wsidicom":
        without(monkeypatch, "openslide")
    say_where_tiles_lie(path, 0, 0)
    slide = opened(path)
    assert np.array_equal(slide.read((0, 0, WIDTH, HEIGHT)), FIELD)
    slide.close()
    say_where_tiles_lie(path, 0, 4)
    refusal = open_slide(path)
    assert isinstance(refusal, Refusal)
    assert "tiles lie in no grid, one of them at (0, 4): save it with tiles side by side" in refusal.detail


@pytest.mark.parametrize("side", [0, None])
def test_a_dicom_slide_of_tiles_without_a_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int | None
) -> None:
    pytest.importorskip("wsidicom")
    pydicom = pytest.importorskip("pydicom")
    path = write_dicom_slide(tmp_path, FIELD, 0.25, levels=1)
    without(monkeypatch, "openslide")
    say_where_tiles_lie(path, 0, 0)
    image = pydicom.dcmread(path)
    image.Rows = side
    image.save_as(path)
    refusal = open_slide(path)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "undecodable"


def test_a_dicom_file_that_is_no_slide_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wsidicom")
    path = write_dicom_slide(tmp_path, FIELD, 0.25, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    without(monkeypatch, "openslide")
    refusal = open_slide(path)
    assert isinstance(refusal, Refusal)
    assert refusal.detail == "a DICOM file that is no whole slide image"


def test_a_folder_of_dicom_slides_gives_each_slide_once(tmp_path: Path) -> None:
    """A slide's levels and its label are files of one series; the full resolution stands for it, whatever the names say."""
    pytest.importorskip("pydicom")
    small = FIELD[:200, :300]
    first = write_dicom_slide(tmp_path / "slide", small, 0.25, levels=3)
    for one, name in ((first, "z.dcm"), (first.with_name("level-1.dcm"), "a.DCM")):
        one.rename(first.with_name(name))
    write_dicom_slide(tmp_path / "other", FIELD, 0.25).rename(tmp_path / "slide" / "m.dcm")
    (tmp_path / "slide" / ".hidden.dcm").write_bytes(b"")
    Image.fromarray(small).save(tmp_path / "slide" / "frame.png")
    passed = SkippedFiles()
    found = find_frames([tmp_path / "slide"], passed=passed)
    assert [path.name for path in found] == ["frame.png", "m.dcm", "z.dcm"]
    assert not passed
    slide = opened(found[2])
    assert (slide.width, slide.height, len(slide.reduced)) == (300, 200, 2)
    slide.close()


def test_dicom_files_that_are_no_slide_are_left_out_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    small = FIELD[:200, :300]
    scan = write_dicom_slide(tmp_path / "ct", small, 0.25, levels=3, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    label = write_dicom_slide(tmp_path / "label", small, 0.25, levels=1, ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    write_dicom_slide(tmp_path / "good", small, 0.25, levels=1)
    passed = SkippedFiles()
    assert find_frames([tmp_path], passed=passed) == [tmp_path / "good" / "level-0.dcm"]
    assert passed.reasons == {dicom.NO_SLIDE: 3, dicom.NO_PIXELS: 1}
    assert list(left_out(passed)) == [f"left out of the folders: 3 {dicom.NO_SLIDE}, 1 {dicom.NO_PIXELS}"]
    for folder, count in ((scan.parent, 3), (label.parent, 1)):
        with pytest.raises(DataError, match=rf"holds no frame: looked for .*\.dcm.*; it holds {count} DICOM files"):
            find_frames([folder])


def test_a_dicom_file_that_cannot_be_read_stands_for_its_slide(tmp_path: Path) -> None:
    """Whoever examines it says why: a slide whose copy broke off isn't passed over."""
    pytest.importorskip("pydicom")
    whole = write_dicom_slide(tmp_path / "whole", FIELD[:200, :300], 0.25, levels=1).read_bytes()
    cut, empty = tmp_path / "in" / "cut.dcm", tmp_path / "in" / "empty.dcm"
    cut.parent.mkdir()
    cut.write_bytes(whole[:100])
    empty.touch()
    passed = SkippedFiles()
    assert find_frames([tmp_path / "in"], passed=passed) == [cut, empty]
    assert not passed
    assert all(isinstance(open_slide(path), Refusal) for path in (cut, empty))


def test_without_its_library_dicom_is_left_out_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    Image.fromarray(FIELD).save(tmp_path / "b.png")
    without(monkeypatch, "pydicom")
    passed = SkippedFiles()
    assert find_frames([tmp_path], passed=passed) == [tmp_path / "b.png"]
    assert list(left_out(passed)) == [
        "left out of the folders: 1 DICOM files, which pydicom reads (pip install 'blastscope[slides]')"
    ]


# ---- libraries that are missing

MISSING: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "a.czi": (lambda path: path.write_bytes(b"ZISRAWFILE\0" + bytes(600)), ("pylibCZIrw", "openslide"), "pylibCZIrw"),
    "a.heic": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(300)), ("pillow_heif",), "pillow-heif"),
    "a.dcm": (lambda path: path.write_bytes(bytes(128) + b"DICM" + bytes(300)), ("wsidicom", "openslide"), "OpenSlide"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_library_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write, modules, library = MISSING[name]
    write(tmp_path / name)
    without(monkeypatch, *modules)
    refusal = open_slide(tmp_path / name)
    assert isinstance(refusal, Refusal)
    assert f"read by {library}: pip install 'blastscope[slides]'" in refusal.detail
    image = read_image(tmp_path / name)
    assert isinstance(image, Refusal)
    assert "isn't an image of a cell: use 'blastscope examine'" in image.detail
