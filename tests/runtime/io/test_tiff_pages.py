"""Of a TIFF's images the one that is meant is read; pictures beside it and smaller copies are not taken for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from stream_layouts import HEIGHT, PLAIN, SIDE, WIDTH

from blastscope.runtime.io.image import read_image
from blastscope.runtime.io.slides.slide import Slide, open_slide, read_overview, read_region
from blastscope.runtime.types import Refusal

SMALL = PLAIN[::4, ::4].copy()
BESIDE = np.full((30, 40, 3), 240, np.uint8)
TILED: dict[str, Any] = {"photometric": "rgb", "tile": (SIDE, SIDE)}
OME_SIZE = {"PhysicalSizeX": 0.0734, "PhysicalSizeY": 0.0734}


def opened(path: Path) -> Slide:
    slide = open_slide(path)
    assert not isinstance(slide, Refusal), slide
    assert np.array_equal(read_region(slide, (0, 0, slide.width, slide.height)), PLAIN)
    assert np.array_equal(read_image(path), PLAIN)
    return slide


def thumbnail_first(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(SMALL, photometric="rgb", subfiletype=1, metadata=None)
        tiff.write(PLAIN, photometric="rgb", metadata=None)


def below_the_thumbnail(path: Path) -> None:
    """As TIFF/EP has it."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(SMALL, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        tiff.write(PLAIN, photometric="rgb", metadata=None)


def without_descriptions(path: Path) -> None:
    """An SVS that was anonymised: nothing says that the second page is a thumbnail but that it is small, and no tiles."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(PLAIN, metadata=None, **TILED)
        tiff.write(PLAIN[::8, ::8].copy(), photometric="rgb", metadata=None)
        tiff.write(PLAIN[::2, ::2].copy(), metadata=None, **TILED)
        tiff.write(BESIDE, photometric="rgb", subfiletype=9, metadata=None)


def with_pictures_beside(*names: str, first: bool = False) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        def beside() -> None:
            for name in names:
                tiff.write(BESIDE, photometric="rgb", metadata={"axes": "YXS", "Name": name, "PhysicalSizeX": 2.0})

        with tifffile.TiffWriter(path, ome=True) as tiff:
            if first:
                beside()
            tiff.write(PLAIN, subifds=1, metadata={"axes": "YXS", "Name": "slide", **OME_SIZE}, **TILED)
            tiff.write(PLAIN[::2, ::2].copy(), subfiletype=1, **TILED)
            if not first:
                beside()

    return write


MEANT: dict[str, Callable[[Path], None]] = {
    "a thumbnail first": thumbnail_first,
    "below the thumbnail": below_the_thumbnail,
    "an SVS without descriptions": without_descriptions,
    "as bfconvert names them": with_pictures_beside("label image", "macro image"),
    "as others do": with_pictures_beside("Label", "Macro", "Thumbnail_1"),
    "beside it and first": with_pictures_beside("label image", "macro image", first=True),
}


@pytest.mark.parametrize("case", MEANT)
def test_the_image_that_is_meant_is_read(tmp_path: Path, case: str) -> None:
    MEANT[case](tmp_path / "a.tif")
    slide = opened(tmp_path / "a.tif")
    slide.close()
    assert slide.notes[0].startswith("read: ")
    assert f"{WIDTH} x {HEIGHT} pixels" in slide.notes[0]
    if "named" in case or "beside" in case:
        assert slide.pixel_um == pytest.approx(0.0734)  # its own, not that of a picture beside it


def three_photographs(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for at in range(3):
            tiff.write(PLAIN[: 60 + at], photometric="rgb", metadata=None)


def two_tiled(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name in ("left", "right"):
            tiff.write(PLAIN, metadata={"axes": "YXS", "Name": name}, **TILED)


def contiguous_stack(path: Path) -> None:
    """As ImageJ writes stacks of more than 4 GB: one page for all."""
    tifffile.imwrite(path, np.stack([PLAIN] * 3), photometric="rgb", truncate=True)


@pytest.mark.parametrize(
    ("write", "words"), [(three_photographs, "3 images"), (two_tiled, "2 images"), (contiguous_stack, "3 pages")]
)
def test_where_nobody_says_which_is_meant_none_is_read(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path / "a.tif")
    for refusal in (open_slide(tmp_path / "a.tif"), read_image(tmp_path / "a.tif")):
        assert isinstance(refusal, Refusal)
        assert words in refusal.detail
        assert "give each image a file of its own" in refusal.detail


def planes(path: Path, order: str = "rgb", **channels: Any) -> None:
    pixels = PLAIN.transpose(2, 0, 1)[["rgb".index(colour) for colour in order]]
    options: dict[str, Any] = {"photometric": "minisblack", "tile": (SIDE, SIDE), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, subifds=1, metadata={"axes": "CYX", "Channel": channels, **OME_SIZE}, **options)
        tiff.write(pixels[:, ::2, ::2].copy(), subfiletype=1, **options)


CHANNELS: dict[str, tuple[str, dict[str, Any]]] = {
    "by name": ("rgb", {"Name": ["Red", "Green", "Blue"]}),
    "by one letter": ("rgb", {"Name": ["R", "G", "B"]}),
    "in another order": ("bgr", {"Name": ["blue", "green", "red"]}),
    "by colour": ("rgb", {"Color": [-16776961, 16711935, 65535]}),
    "by colour where names say nothing": ("grb", {"Name": ["0", "1", "2"], "Color": [16711935, -16776961, 65535]}),
}


@pytest.mark.parametrize("case", CHANNELS)
def test_planes_of_red_green_and_blue_are_one_image(tmp_path: Path, case: str) -> None:
    order, channels = CHANNELS[case]
    planes(tmp_path / "a.ome.tif", order, **channels)
    slide = opened(tmp_path / "a.ome.tif")
    assert slide.pixel_um == pytest.approx(0.0734)
    assert np.array_equal(read_overview(slide, WIDTH // 2), PLAIN[::2, ::2])
    assert np.array_equal(read_region(slide, (50, 60, 140, 141)), PLAIN[60:141, 50:140])
    assert not slide.blank((0, 0, WIDTH, HEIGHT))
    slide.close()


@pytest.mark.parametrize("names", [["DAPI", "FITC", "TRITC"], ["Red", "Green", "Green"], ["Red", "Green", ""]])
def test_planes_of_other_channels_are_refused(tmp_path: Path, names: list[str]) -> None:
    planes(tmp_path / "a.ome.tif", Name=names)
    refusal = open_slide(tmp_path / "a.ome.tif")
    assert isinstance(refusal, Refusal)
    assert "save its channels as one RGB image" in refusal.detail


def test_a_level_padded_to_whole_tiles_is_no_overview(tmp_path: Path) -> None:
    padded: NDArray[np.uint8] = np.zeros((SIDE * 2, SIDE * 2, 3), np.uint8)
    padded[: HEIGHT // 2, : WIDTH // 2] = PLAIN[::2, ::2]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(PLAIN, subifds=1, metadata=None, **TILED)
        tiff.write(padded, subfiletype=1, metadata=None, **TILED)
    slide = opened(tmp_path / "a.tif")
    assert len(slide.reduced) == 0
    slide.close()
