"""A TIFF takes no more to read than a picture of its size needs, whatever its header and its pieces say."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from stream_layouts import PLAIN, SIDE, write_tiles

from blastscope.runtime.io.slides import budget as limits
from blastscope.runtime.io.slides import tiff as tiff_reader
from blastscope.runtime.io.slides import tile_table
from blastscope.runtime.io.slides.slide import decode_tiff, open_slide, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Refusal


def tiles_of_16(path: Path, side: int) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        empty = iter([b"x"] * (side // 16) ** 2)
        options: dict[str, Any] = {"tile": (16, 16), "compression": "deflate", "photometric": "rgb"}
        tiff.write(empty, shape=(side, side, 3), dtype=np.uint8, **options)


def test_tiles_by_the_million_are_refused_by_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles_of_16(tmp_path / "a.tif", 640)
    monkeypatch.setattr(limits, "MOST_PIECES", 1500)
    refusal = open_slide(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "bomb"
    assert "1600 pieces of 16 x 16 pixels, more than the 1500 for its size: save it in larger tiles" in refusal.detail


def test_one_piece_in_all_places_of_a_huge_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "white").save(content, "WEBP", lossless=True)
    write_tiles(tmp_path / "a.tif", [content.getvalue()] * 12, compression=50001)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        page = tiff.pages.first
        page.tags[324].overwrite([page.dataoffsets[0]] * 12)
    slide = open_slide(tmp_path / "a.tif")
    assert not isinstance(slide, Refusal)  # some empty tiles that share their bytes are usual
    assert (read_region(slide, (0, 0, 210, 150)) == 255).all()
    slide.close()
    monkeypatch.setattr(limits, "DECODED_BYTES", 100_000)
    monkeypatch.setattr(limits, "STORED_TIMES", 12 * SIDE * SIDE * 3 // len(content.getvalue()) - 1)
    refusal = open_slide(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert f"{12 * SIDE * SIDE * 3} bytes of pixels in {len(content.getvalue())} bytes of the file" in refusal.detail


@pytest.mark.parametrize(("kind", "compression"), [("WEBP", 50001), ("JPEG2000", 33005), ("JPEG", 7)])
def test_a_piece_that_is_far_larger_than_the_page_says_is_not_decoded(tmp_path: Path, kind: str, compression: int) -> None:
    content = io.BytesIO()
    Image.new("RGB", (700, 700), "white").save(content, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    write_tiles(tmp_path / "a.tif", [content.getvalue()] * 12, compression=compression)
    slide = open_slide(tmp_path / "a.tif")
    assert not isinstance(slide, Refusal)
    with pytest.raises(ReadError, match=f"700 x 700 pixels, more than {4 * SIDE * SIDE + 65536}"):
        read_region(slide, (0, 0, 10, 10))
    slide.close()


def test_pieces_that_are_decoded_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLAIN, photometric="rgb", tile=(SIDE, SIDE), compression="deflate")
    monkeypatch.setattr(limits, "DECODED_BYTES", 30 * SIDE * SIDE * 3)
    monkeypatch.setattr(limits, "DECODED_TIMES", 0)
    monkeypatch.setattr(tile_table, "CACHE_BYTES", 0)
    slide = open_slide(tmp_path / "a.tif")
    assert not isinstance(slide, Refusal)
    for _ in range(2):
        read_region(slide, (0, 0, 210, 150))
    with pytest.raises(ReadError, match="bytes had to be decoded for a frame of 31500 pixels"):
        read_region(slide, (0, 0, 210, 150))
    slide.close()


def test_a_chain_of_pages_that_comes_back_is_refused_before_it_is_followed(tmp_path: Path) -> None:
    for order in "<>":
        mark = b"II" if order == "<" else b"MM"
        classic = struct.pack(f"{order}2sHIHI", mark, 42, 8, 0, 8)  # a page without a tag, and after it itself
        big = struct.pack(f"{order}2sHHHQQQ", mark, 43, 8, 0, 16, 0, 16)
        for content in (classic, big):
            (tmp_path / "a.tif").write_bytes(content)
            for refusal in (open_slide(tmp_path / "a.tif"), decode_tiff(content)):
                assert refusal == Refusal("undecodable", "the TIFF is damaged: its page 1 leads back to an earlier one")


@pytest.mark.parametrize("big", [False, True])
def test_pages_are_counted_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, big: bool) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=big) as tiff:
        for number in range(5):
            tiff.write(PLAIN[:: 1 + number], photometric="rgb", subfiletype=int(number > 0))
    for most in (tiff_reader.MOST_PAGES, 5):
        monkeypatch.setattr(tiff_reader, "MOST_PAGES", most)
        slide = open_slide(tmp_path / "a.tif")
        assert not isinstance(slide, Refusal)
        slide.close()
    monkeypatch.setattr(tiff_reader, "MOST_PAGES", 4)
    assert open_slide(tmp_path / "a.tif") == Refusal("bomb", "a TIFF of more than 4 pages")
