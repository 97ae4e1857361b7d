"""What is no single 8-bit RGB image, or is damaged, is refused with a reason."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stream_layouts import LAYOUTS, PLAIN, SIDE, describe, jpeg_tiles, ome_zarr, write_tiles

from blastscope.runtime.errors import MissingLibrary
from blastscope.runtime.io.slides.slide import open_slide, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Refusal


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of the layouts that are files."""
    path = tmp_path_factory.mktemp("files") / "a.tif"
    contents = {}
    for name, (file, write) in LAYOUTS.items():
        if not file.endswith("zarr"):
            write(path)
            contents[name] = path.read_bytes()
    return contents


def tiff_of(pixels: NDArray[Any], **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def holding(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def two_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(PLAIN, photometric="rgb")
        tiff.write(PLAIN[:90], photometric="rgb")


def huge(path: Path) -> None:
    """Compressed in one piece: nothing of it can be read without all of it."""
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"rowsperstrip": 20_000, "compression": "deflate", "photometric": "rgb"}
        tiff.write(iter([b"xx"]), shape=(20_000, 20_000, 3), dtype=np.uint8, **options)


def cut_short(path: Path) -> None:
    tifffile.imwrite(path, PLAIN, photometric="rgb", tile=(SIDE, SIDE))
    path.write_bytes(path.read_bytes()[:-50_000])


def unknown_codec(path: Path) -> None:
    write_tiles(path, [b"x"] * 12, compression=34887)


def without_pieces(path: Path) -> None:
    """As a program leaves it that broke off before the first piece."""
    write_tiles(path, [b""] * 12, compression=8)


ALPHA = np.dstack([PLAIN, PLAIN[..., :1]])


REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a stack": (tiff_of(np.stack([PLAIN] * 3), photometric="rgb"), "undecodable", "3 pages"),
    "channels apart in pages": (
        tiff_of(PLAIN.transpose(2, 0, 1), photometric="minisblack", metadata={"axes": "CYX"}, ome=True),
        "undecodable",
        "(CYX: 3 x 150 x 210): save its channels as one RGB image",
    ),
    "two images": (two_pages, "undecodable", "2 images"),
    "16 bits": (tiff_of(PLAIN.astype(np.uint16), photometric="rgb"), "not-8-bit-rgb", "16-bit RGB"),
    "gray": (tiff_of(PLAIN[..., 0], photometric="minisblack"), "not-8-bit-rgb", "gray"),
    "two extra channels": (tiff_of(np.dstack([ALPHA, ALPHA[..., :1]]), photometric="rgb"), "not-8-bit-rgb", "an extra channel"),
    "one compressed piece": (huge, "bomb", "save it in tiles"),
    "no piece of it": (without_pieces, "undecodable", "all of its pieces are left out"),
    "a codec nobody has": (unknown_codec, "undecodable", "LERC"),
    "a turned image": (tiff_of(PLAIN, photometric="rgb", extratags=[(274, 3, 1, 6, True)]), "undecodable", "upright"),
    "cut short": (cut_short, "undecodable", "truncated"),
    "only a magic number": (holding(b"II*\0"), "undecodable", ""),
    "no image": (holding(b"hello"), "undecodable", "by its first bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_single_8_bit_rgb_image_is_refused_with_a_reason(tmp_path: Path, case: str) -> None:
    write, code, words = REFUSED[case]
    write(tmp_path / "a.tif")
    refusal = open_slide(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert words in refusal.detail


def test_a_damaged_piece_is_refused_when_it_is_read(tmp_path: Path) -> None:
    jpeg_tiles(ycbcr=True)(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page = tiff.pages.first
        start = page.dataoffsets[5]
    content[start : start + 40] = b"\0" * 40
    (tmp_path / "a.tif").write_bytes(content)
    scan = open_slide(tmp_path / "a.tif")
    assert not isinstance(scan, Refusal)
    assert read_region(scan, (0, 0, SIDE, SIDE)).shape == (SIDE, SIDE, 3)  # another piece is whole
    with pytest.raises(ReadError, match="a piece of the scan is damaged"):
        read_region(scan, (SIDE, SIDE, 2 * SIDE, 2 * SIDE))
    scan.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    assert open_slide(tmp_path / "a.tif") == Refusal("undecodable", "not a file")


@settings(max_examples=60)
@given(st.sampled_from(["a pyramid", "colours apart in tiles", "JPEG strips with shared tables", "OME-TIFF"]), st.data())
def test_a_damaged_scan_is_read_or_refused_and_nothing_else(files: dict[str, bytes], layout: str, data: Any) -> None:
    content = bytearray(files[layout])
    head, tail = range(min(700, len(content))), range(max(len(content) - 900, 0), len(content))  # where the directories are
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from([*head, *tail]))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tif")
        path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
        scan = open_slide(path)
        if isinstance(scan, Refusal):
            return
        with contextlib.suppress(ReadError):
            read_region(scan, (0, 0, min(scan.width, 300), min(scan.height, 300)))
        scan.close()


@pytest.mark.parametrize(
    ("shape", "change", "words"),
    [
        ((4, 3, 1, 20, 20), {}, "stack (t: 4)"),
        ((1, 2, 1, 20, 20), {}, "2 channels"),
        ((1, 3, 1, 20, 20), {"omero": {"channels": [{"color": name} for name in ("0000FF", "00FF00", "FF0000")]}}, "not red"),
        ((1, 3, 1, 20, 20), {"multiscales": []}, "no 'multiscales'"),
    ],
)
def test_a_zarr_that_is_no_rgb_image_is_refused(
    tmp_path: Path, shape: tuple[int, ...], change: dict[str, Any], words: str
) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    for level in "01":
        group.create_array(level, shape=shape, dtype="uint8")
    group.attrs.update({**describe(4), **change})
    refusal = open_slide(tmp_path / "a.zarr")
    assert isinstance(refusal, Refusal)
    assert words in refusal.detail


def test_without_zarr_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ome_zarr(4)(tmp_path / "a.zarr")
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(MissingLibrary, match=r"blastscope\[zarr\]"):
        open_slide(tmp_path / "a.zarr")
