"""Frames and scans are read piece by piece, and exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from stream_layouts import HEIGHT, LAYOUTS, PLAIN, SIDE, WIDTH, ome_zarr

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.slides.slide import ArraySlide, Slide, find_frames, open_slide, read_overview, read_region
from blastscope.runtime.types import Refusal


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Slide, NDArray[np.uint8]]]]:
    """Every layout, open, with what it must give."""
    opened = {}
    for number, (name, (file, write)) in enumerate(LAYOUTS.items()):
        path = tmp_path_factory.mktemp(f"layout{number}") / file
        pixels = write(path)
        scan = open_slide(path)
        assert not isinstance(scan, Refusal), f"{name}: {scan}"
        opened[name] = scan, pixels
    yield opened
    for scan, _ in opened.values():
        scan.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scan_read_whole_is_what_was_written(scans: dict[str, tuple[Slide, NDArray[np.uint8]]], layout: str) -> None:
    scan, pixels = scans[layout]
    assert (scan.width, scan.height) == (WIDTH, HEIGHT)
    assert np.array_equal(read_region(scan, (0, 0, WIDTH, HEIGHT)), pixels)


@settings(max_examples=60, phases=[Phase.generate])
@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_any_part_is_that_part_of_the_whole(scans: dict[str, tuple[Slide, NDArray[np.uint8]]], layout: str, data: Any) -> None:
    scan, pixels = scans[layout]
    x0, y0 = data.draw(st.integers(0, WIDTH - 1)), data.draw(st.integers(0, HEIGHT - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, WIDTH)), data.draw(st.integers(y0 + 1, HEIGHT))
    assert np.array_equal(read_region(scan, (x0, y0, x1, y1)), pixels[y0:y1, x0:x1])


def test_an_overview_takes_a_smaller_copy_where_there_is_one(scans: dict[str, tuple[Slide, NDArray[np.uint8]]]) -> None:
    for layout in ("a pyramid", "OME-Zarr 0.4"):
        scan = scans[layout][0]
        assert np.array_equal(read_overview(scan, WIDTH // 2), PLAIN[: HEIGHT // 2 * 2 : 2, ::2])
        assert len(scan.reduced) == 1
    assert read_overview(scans["raw strips"][0], 70).shape == (50, 70, 3)
    assert np.array_equal(read_overview(ArraySlide(PLAIN), 10_000), PLAIN)


@pytest.mark.parametrize(
    ("layout", "note"),
    [
        ("OME-TIFF", "0.25 micrometres a pixel by OME-XML"),
        ("OME-Zarr 0.4", "0.25 micrometres a pixel by OME-Zarr"),
        ("OME-Zarr 0.5", "0.25 micrometres a pixel by OME-Zarr"),
    ],
)
def test_the_scale_is_read_where_the_file_says_it(
    scans: dict[str, tuple[Slide, NDArray[np.uint8]]], layout: str, note: str
) -> None:
    scan = scans[layout][0]
    assert scan.pixel_um == pytest.approx(0.25)
    assert note in scan.notes


@pytest.mark.parametrize(
    ("options", "pixel_um"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (254_000, 254_000), "resolutionunit": "INCH"}, 0.1),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),  # a printer's
        ({"resolution": (40_000, 40_000), "resolutionunit": "NONE"}, None),
        ({"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}, None),  # not square
        ({"description": "Aperio Leica Biosystems GT450|AppMag = 40|MPP = 0.2630"}, 0.263),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "um"}}, 0.25),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": r"\u00B5m"}}, 0.25),
        ({"resolution": (4000, 4000), "imagej": True, "metadata": {"unit": "mm"}}, 0.25),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "pixel"}}, None),
        ({"resolution": (4, 2), "imagej": True, "metadata": {"unit": "micron"}}, None),  # not square
    ],
)
def test_resolution_tags_count_where_they_can_be_a_microscopes(
    tmp_path: Path, options: dict[str, Any], pixel_um: float | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLAIN, photometric="rgb", **options)
    scan = open_slide(tmp_path / "a.tif")
    assert not isinstance(scan, Refusal)
    scan.close()
    assert scan.pixel_um == (pytest.approx(pixel_um) if pixel_um else None)
    across, down = options.get("resolution", (1, 1))
    assert ("not square" in " ".join(scan.notes)) == (across != down)


def test_of_several_pages_the_one_that_was_read_is_stated(scans: dict[str, tuple[Slide, NDArray[np.uint8]]]) -> None:
    assert scans["a pyramid"][0].notes == (f"read: page 1 of 1 with 1 smaller copy of it, {WIDTH} x {HEIGHT} pixels",)
    assert scans["raw strips"][0].notes == ()


def test_what_was_made_of_a_file_is_noted_and_its_size_is_that_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PLAIN).save(tmp_path / "phone.jpg", exif=exif)
    (tmp_path / "phone.jpg").write_bytes((tmp_path / "phone.jpg").read_bytes()[:-2])
    scan = open_slide(tmp_path / "phone.jpg")
    assert not isinstance(scan, Refusal)
    assert (scan.width, scan.height) == (HEIGHT, WIDTH)
    assert scan.notes == (
        "turned upright, as its EXIF orientation 6 says",
        "the JPEG's end marker is missing, no pixel is",
    )
    assert read_region(scan, (0, 0, HEIGHT, WIDTH)).shape == (WIDTH, HEIGHT, 3)


def test_a_thumbnail_beside_the_slide_is_no_second_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        tiff.write(PLAIN, photometric="rgb", tile=(SIDE, SIDE))
        tiff.write(PLAIN[:40, :50], photometric="rgb", subfiletype=1)
    scan = open_slide(tmp_path / "a.svs")
    assert not isinstance(scan, Refusal)
    assert np.array_equal(read_region(scan, (0, 0, WIDTH, HEIGHT)), PLAIN)
    scan.close()
    assert scan.notes == (f"read: page 1 of 2, {WIDTH} x {HEIGHT} pixels",)


def test_folders_give_the_frames_below_them_and_a_zarr_is_one(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.svs", "a.png", "notes.txt", "a.overlay.png", ".hidden.png", "deep/c.JPG"):
        (tmp_path / name).touch()
    ome_zarr(5)(tmp_path / "deep" / "s.zarr")
    found = [tmp_path / name for name in ("a.png", "b.svs", "deep/c.JPG", "deep/s.zarr")]
    assert find_frames([tmp_path]) == found
    assert find_frames([tmp_path / "nowhere.png", found[3]]) == [tmp_path / "nowhere.png", found[3]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no frame"):
        find_frames([tmp_path / "empty"])
