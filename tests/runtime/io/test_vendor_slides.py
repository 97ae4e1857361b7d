"""Slides in scanners' own formats are read by OpenSlide, or refused by their name."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from stream_layouts import HEIGHT, PLAIN, SMOOTH, WIDTH, ndpi
from vendor_slides import FIELD, aperio, hamamatsu_vms, leica, overlapping, philips, trestle, ventana

from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.slides.slide import SCAN_SUFFIXES, EncodedSlide, Slide, open_slide, read_overview, read_region
from blastscope.runtime.io.slides.tiff import TiffSlide
from blastscope.runtime.io.slides.vendor import VendorSlide
from blastscope.runtime.types import Refusal

Writer = Callable[[Path], NDArray[np.uint8]]
SLIDES: dict[str, tuple[str, Writer, float]] = {  # and the mean difference to what went in
    "Ventana": ("a.bif", ventana, 0),
    "Trestle": ("a.tif", trestle, 0),
    "Leica": ("a.scn", leica, 0),
    "Aperio": ("a.svs", aperio, 0),
    "Philips": ("a.tiff", philips, 0),
    "Hamamatsu in one file": ("a.ndpi", ndpi, 1.5),
    "Hamamatsu in several": ("a.vms", hamamatsu_vms, 1.5),
}
NEEDED = {"Ventana": "a Ventana slide (.bif)", "Trestle": "a Trestle slide", "Leica": "a Leica slide (.scn)"} | {
    "Hamamatsu in several": "a Hamamatsu slide (.vms, .vmu)"
}


@pytest.fixture
def openslide() -> None:
    pytest.importorskip("openslide", reason="openslide isn't installed: pip install 'blastscope[slides]'")


@pytest.fixture
def without_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("slide", "vendor"):
        monkeypatch.setattr(f"blastscope.runtime.io.slides.{module}.has_openslide", lambda: False)


def opened(path: Path) -> Slide:
    slide = open_slide(path)
    assert not isinstance(slide, Refusal), slide
    return slide


@pytest.mark.usefixtures("openslide")
@pytest.mark.parametrize("vendor", SLIDES)
def test_a_scanners_slide_shows_what_was_scanned_at_its_scale(tmp_path: Path, vendor: str) -> None:
    name, write, most = SLIDES[vendor]
    expected = write(tmp_path / name)
    slide = opened(tmp_path / name)
    assert (slide.height, slide.width) == expected.shape[:2]
    shown = read_region(slide, (0, 0, slide.width, slide.height))
    assert np.abs(shown.astype(int) - expected).mean() <= most
    part = read_region(slide, (31, 17, 150, 101))
    assert np.array_equal(part, shown[17:101, 31:150])
    assert slide.pixel_um == pytest.approx(0.25)
    assert f"{slide.width} x {slide.height} pixels" in slide.notes[0]
    slide.close()


@pytest.mark.usefixtures("without_openslide")
@pytest.mark.parametrize("vendor", NEEDED)
def test_without_openslide_the_format_and_the_command_are_named(tmp_path: Path, vendor: str) -> None:
    name, write, _ = SLIDES[vendor]
    write(tmp_path / name)
    assert open_slide(tmp_path / name) == Refusal(
        "undecodable", f"{NEEDED[vendor]}, which is read by OpenSlide: pip install 'blastscope[slides]'"
    )


def test_without_openslides_library_the_command_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ventana(tmp_path / "a.bif")
    aperio(tmp_path / "a.svs")
    monkeypatch.setattr("blastscope.runtime.io.slides.vendor.has_openslide", lambda: True)
    monkeypatch.setattr("blastscope.runtime.io.slides.slide.has_openslide", lambda: True)
    monkeypatch.setitem(sys.modules, "openslide", None)
    refusal = open_slide(tmp_path / "a.bif")
    assert isinstance(refusal, Refusal)
    assert "pip install 'blastscope[slides]'" in refusal.detail
    slide = opened(tmp_path / "a.svs")
    assert isinstance(slide, TiffSlide)
    slide.close()


@pytest.mark.parametrize("vendor", NEEDED)
def test_a_slide_is_no_image_of_a_cell(tmp_path: Path, vendor: str) -> None:
    name, write, _ = SLIDES[vendor]
    write(tmp_path / name)
    refusal = read_image(tmp_path / name)
    assert isinstance(refusal, Refusal)
    assert refusal.detail.startswith(NEEDED[vendor])
    assert "use 'blastscope examine'" in refusal.detail


@pytest.mark.usefixtures("without_openslide")
@pytest.mark.parametrize("vendor", [vendor for vendor in SLIDES if vendor not in NEEDED])
def test_some_are_read_without_openslide_alike(tmp_path: Path, vendor: str) -> None:
    name, write, most = SLIDES[vendor]
    expected = write(tmp_path / name)
    slide = opened(tmp_path / name)
    assert isinstance(slide, TiffSlide)
    shown = read_region(slide, (0, 0, slide.width, slide.height))
    assert np.abs(shown.astype(int) - expected).mean() <= most
    assert slide.pixel_um == pytest.approx(0.25)
    slide.close()


def test_trestles_tiles_that_do_not_overlap_are_read_side_by_side(tmp_path: Path) -> None:
    words = "Background Color=FFFFFF;OverlapsXY= 0 0;Objective Power=40;"
    tifffile.imwrite(
        tmp_path / "a.tif", PLAIN, tile=(64, 64), photometric="rgb", description=words, software="MedScan", metadata=None
    )
    slide = TiffSlide(tmp_path / "a.tif")
    assert np.array_equal(slide.read((0, 0, WIDTH, HEIGHT)), PLAIN)
    slide.close()
    assert overlapping().shape != FIELD.shape


@pytest.mark.usefixtures("openslide")
def test_only_what_was_scanned_counts_and_between_areas_is_glass(tmp_path: Path) -> None:
    leica(tmp_path / "a.scn")
    slide = opened(tmp_path / "a.scn")
    assert (slide.width, slide.height) == (300 + WIDTH, 300 + HEIGHT)
    assert slide.blank((WIDTH, 0, 300 + WIDTH, 300))
    assert not slide.blank((WIDTH - 1, 0, 300 + WIDTH, 300))
    assert (read_region(slide, (WIDTH, 0, 300 + WIDTH, 300)) == 255).all()
    slide.close()


@pytest.mark.usefixtures("openslide")
def test_what_a_sparse_slide_leaves_out_is_known(tmp_path: Path) -> None:
    philips(tmp_path / "a.tiff")
    slide = opened(tmp_path / "a.tiff")
    assert isinstance(slide, VendorSlide)
    assert slide.blank((130, 0, 300, 300))
    assert not slide.blank((120, 0, 300, 300))
    slide.close()


@pytest.mark.usefixtures("openslide")
def test_an_overview_of_a_scanners_slide_is_the_slide_in_small(tmp_path: Path) -> None:
    aperio(tmp_path / "a.svs")
    slide = opened(tmp_path / "a.svs")
    assert len(slide.reduced) == 1
    assert np.array_equal(read_overview(slide, WIDTH // 2), PLAIN[::2, ::2])
    slide.close()


# ---- what looks like something else


def jpeg(path: Path) -> None:
    Image.fromarray(SMOOTH).save(path, "JPEG")


def mirax(folder: Path) -> Path:
    """A JPEG beside the folder that holds the slide."""
    (folder / "slide").mkdir()
    (folder / "slide" / "Slidedat.ini").write_text("[GENERAL]\n", encoding="utf-8")
    jpeg(folder / "slide.mrxs")
    return folder / "slide.mrxs"


def mirax_under_another_name(folder: Path) -> Path:
    return mirax(folder).rename(folder / "slide.jpg")


def mirax_alone(folder: Path) -> Path:
    jpeg(folder / "slide.mrxs")
    return folder / "slide.mrxs"


def olympus(folder: Path) -> Path:
    """A small TIFF beside the folder that holds the slide."""
    (folder / "_slide_" / "stack1").mkdir(parents=True)
    tifffile.imwrite(folder / "slide.vsi", PLAIN, photometric="rgb")
    return folder / "slide.vsi"


def olympus_under_another_name(folder: Path) -> Path:
    return olympus(folder).rename(folder / "slide.tif")


def olympus_alone(folder: Path) -> Path:
    tifffile.imwrite(folder / "slide.vsi", PLAIN, photometric="rgb")
    return folder / "slide.vsi"


def part_of_a_hamamatsu_slide(folder: Path) -> Path:
    hamamatsu_vms(folder / "a.vms")
    return folder / "image.jpg"


PREVIEWS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "MIRAX": (mirax, "a MIRAX slide (.mrxs)"),
    "MIRAX under another name": (mirax_under_another_name, "a MIRAX slide (.mrxs)"),
    "MIRAX without its folder": (mirax_alone, "a MIRAX slide (.mrxs)"),
    "Olympus": (olympus, "an Olympus slide (.vsi)"),
    "Olympus under another name": (olympus_under_another_name, "an Olympus slide (.vsi)"),
    "Olympus without its folder": (olympus_alone, "an Olympus slide (.vsi)"),
    "Hamamatsu": (part_of_a_hamamatsu_slide, "a part of the Hamamatsu slide 'a.vms'"),
}


@pytest.mark.parametrize("case", PREVIEWS)
def test_a_preview_is_never_taken_for_the_slide(tmp_path: Path, case: str) -> None:
    write, name = PREVIEWS[case]
    path = write(tmp_path)
    for refusal in (open_slide(path), read_image(path)):
        assert isinstance(refusal, Refusal)
        assert refusal.detail.startswith(name)


@pytest.mark.usefixtures("openslide")
def test_a_slide_that_openslide_cannot_read_is_refused_by_its_name(tmp_path: Path) -> None:
    refusal = open_slide(mirax(tmp_path))
    assert isinstance(refusal, Refusal)
    assert refusal.detail.startswith("a MIRAX slide (.mrxs) that OpenSlide doesn't read: ")


@pytest.mark.parametrize(("tag", "words"), [(322, "1000000000 x 128"), (256, "4000000000 x 384 pixels")])
def test_sizes_that_cannot_be_are_refused_before_openslide_sees_them(tmp_path: Path, tag: int, words: str) -> None:
    trestle(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        at = tiff.pages.first.tags[tag].offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, {322: 1_000_000_000, 256: 4_000_000_000}[tag])
    (tmp_path / "a.tif").write_bytes(content)
    refusal = open_slide(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "bomb"
    assert words in refusal.detail


@pytest.mark.usefixtures("without_openslide")
def test_without_openslide_a_mirax_slide_names_the_command(tmp_path: Path) -> None:
    refusal = open_slide(mirax(tmp_path))
    assert isinstance(refusal, Refusal)
    assert "pip install 'blastscope[slides]'" in refusal.detail


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"ZISRAWFILE\0", "a Zeiss slide (.czi)"),
        (b"SQLite format 3\0", "a Sakura slide (.svslide)"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"\xda\xce\xbe\x0a", "a Nikon ND2 file that is damaged: it has no header"),
        (
            b"OLYMPUSRAWFORMAT",
            "an Olympus OIR file, which isn't read here: save it as 8-bit RGB TIFF in the microscope's program, or as OME-Zarr",
        ),
        (b"\0\0\0\x18ftypheic", "a HEIF photograph"),
        (b"\0\0\0\x18ftypavif", "an AVIF photograph, which isn't read here: save it as PNG or TIFF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"GIF89a", "a GIF picture"),
    ],
)
def test_other_containers_are_called_by_their_name(tmp_path: Path, head: bytes, name: str) -> None:
    (tmp_path / "a.bin").write_bytes(head + bytes(300))
    refusal = open_slide(tmp_path / "a.bin")
    assert isinstance(refusal, Refusal)
    assert refusal.detail.startswith(name)


def test_a_picture_beside_a_slide_of_several_files_is_still_one(tmp_path: Path) -> None:
    hamamatsu_vms(tmp_path / "a.vms")
    jpeg(tmp_path / "frame.jpg")
    assert isinstance(open_slide(tmp_path / "frame.jpg"), EncodedSlide)


def test_slides_in_a_folder_are_found_by_their_suffix() -> None:
    assert {".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svs", ".vms"} < set(SCAN_SUFFIXES)
