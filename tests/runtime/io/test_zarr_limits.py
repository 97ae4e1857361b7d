"""A Zarr is read in whatever way it is stored, and nothing in it takes more than a picture of its size needs."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from blastscope.runtime.io.slides import ome_zarr
from blastscope.runtime.io.slides.ome_zarr import ZarrSlide
from blastscope.runtime.io.slides.slide import open_slide, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.io.slides.zarr_limits import DECLARED
from blastscope.runtime.types import Refusal

SIDE = 64
PIXELS = np.random.default_rng(3).integers(0, 9, (3, 150, 210), np.uint8)  # few levels, so that they can be compressed
WHOLE = (0, 0, 210, 150)


def write(path: Path, version: int = 2, *, chunks: tuple[int, ...] = (1, SIDE, SIDE), **options: Any) -> Path:
    """An OME-Zarr of `PIXELS`, and the folder of its array."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    array = group.create_array("0", shape=PIXELS.shape, chunks=chunks, dtype="uint8", **options)
    array[...] = PIXELS
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    image = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    group.attrs.update({"ome": image} if version == 3 else image)
    return path / "0"


def chunk_of(folder: Path) -> Path:
    """The first chunk."""
    return folder / "0.0.0" if (folder / "0.0.0").exists() else folder / "c" / "0" / "0" / "0"


V2 = {
    "blosc": numcodecs.Blosc("zstd"),
    "zstd": numcodecs.Zstd(),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
    "lz4": numcodecs.LZ4(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
}
V3: dict[str, Any] = {"blosc": BloscCodec(), "zstd": ZstdCodec(), "gzip": GzipCodec()}
WAYS: dict[str, dict[str, Any]] = {
    **{f"{name} 2": {"compressors": codec} for name, codec in V2.items()},
    "as it is 2": {"compressors": None},
    **{f"{name} 3": {"version": 3, "compressors": codec} for name, codec in V3.items()},
    "as it is 3": {"version": 3, "compressors": None},
    "gzip with a checksum 3": {"version": 3, "compressors": [GzipCodec(), Crc32cCodec()]},
    "shards 3": {"version": 3, "chunks": (1, 16, 16), "shards": (3, SIDE, SIDE)},
    "columns first 2": {"order": "F"},
    "channels together 2": {"chunks": (3, 50, 70)},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_zarr_is_read_in_whatever_way_it_is_compressed(tmp_path: Path, way: str) -> None:
    write(tmp_path / "a.zarr", **WAYS[way])
    slide = open_slide(tmp_path / "a.zarr")
    assert not isinstance(slide, Refusal), slide
    assert np.array_equal(read_region(slide, WHOLE), PIXELS.transpose(1, 2, 0))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> ZarrSlide:
    path = tmp_path_factory.mktemp("zarr") / "a.zarr"
    write(path, chunks=(1, 16, 24))
    return ZarrSlide(path)


@given(st.tuples(st.integers(0, 209), st.integers(0, 149)), st.integers(1, 210), st.integers(1, 150), st.integers(1, 20_000))
@settings(max_examples=40, deadline=None)
def test_a_part_is_the_same_however_many_chunks_are_decoded_at_once(
    slide: ZarrSlide, corner: tuple[int, int], width: int, height: int, portion: int
) -> None:
    x0, y0 = corner
    x1, y1 = min(x0 + width, 210), min(y0 + height, 150)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ome_zarr, "PORTION_BYTES", portion)
        assert np.array_equal(slide.read((x0, y0, x1, y1)), PIXELS[:, y0:y1, x0:x1].transpose(1, 2, 0))


def refused(path: Path) -> Refusal:
    """Why it can't be opened, or not be read."""
    slide = open_slide(path)
    if isinstance(slide, Refusal):
        return slide
    with pytest.raises(ReadError) as raised:
        read_region(slide, WHOLE)
    return raised.value.refusal


LARGER = np.zeros(40 * SIDE * SIDE, np.uint8)


@pytest.mark.parametrize("name", V2)
def test_a_chunk_that_unfolds_to_more_than_its_shape_is_not_decoded(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a.zarr", compressors=V2[name])
    chunk_of(folder).write_bytes(V2[name].encode(LARGER))
    refusal = refused(tmp_path / "a.zarr")
    assert refusal.code == "bomb"
    assert str(SIDE * SIDE) in refusal.detail


@pytest.mark.parametrize("name", V3)
def test_a_chunk_of_zarr_3_that_unfolds_to_more_is_not_decoded(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a.zarr", version=3, compressors=V3[name])
    chunk_of(folder).write_bytes(V2[name].encode(LARGER))
    assert refused(tmp_path / "a.zarr").code == "bomb"


def test_a_chunk_in_a_shard_that_unfolds_to_more_is_not_decoded(tmp_path: Path) -> None:
    folder = write(tmp_path / "a.zarr", version=3, chunks=(1, 16, 16), shards=(3, SIDE, SIDE), compressors=V3["zstd"])
    inner, count = V2["zstd"].encode(LARGER), 3 * (SIDE // 16) ** 2
    index = struct.pack("<2Q", 0, len(inner)) + b"\xff" * 16 * (count - 1)
    chunk_of(folder).write_bytes(inner + index + struct.pack("<I", numcodecs.checksum32.CRC32C().checksum(index)))
    assert refused(tmp_path / "a.zarr").code == "bomb"


@pytest.mark.parametrize("name", ["gzip", "zlib", "bz2", "lzma", "lz4", "zstd", "blosc"])
def test_a_chunk_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a.zarr", compressors=V2[name])
    whole = chunk_of(folder).read_bytes()
    for length in (0, 1, 3, 5, len(whole) // 2, len(whole) - 1):
        chunk_of(folder).write_bytes(whole[:length])
        assert refused(tmp_path / "a.zarr").code == "undecodable", length


def zstd(*blocks: bytes) -> bytes:
    """A frame that doesn't say how much it holds, of blocks as they are."""
    headers = [struct.pack("<I", len(block) << 3 | (number + 1 == len(blocks)))[:3] for number, block in enumerate(blocks)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(header + block for header, block in zip(headers, blocks, strict=True))


def test_zstandard_without_its_size_is_measured_by_its_blocks(tmp_path: Path) -> None:
    folder = write(tmp_path / "a.zarr", compressors=V2["zstd"])
    content = PIXELS[0, :SIDE, :SIDE].tobytes()
    chunk_of(folder).write_bytes(zstd(content[:99], content[99:]))
    slide = open_slide(tmp_path / "a.zarr")
    assert not isinstance(slide, Refusal)
    assert np.array_equal(read_region(slide, WHOLE), PIXELS.transpose(1, 2, 0))
    repeated = struct.pack("<I", 131072 << 3 | 1 << 1)[:3] + b"\0"  # a byte, so many times
    endless = zstd(b"")[:6] + repeated * 3000 + b"\1\0\0"
    assert DECLARED["zstd"](memoryview(endless)) == 3000 * 131072
    assert DECLARED["zstd"](memoryview(V2["zstd"].encode(LARGER))) == LARGER.nbytes
    assert DECLARED["zstd"](memoryview(V2["zstd"].encode(LARGER[:300]))) == 300


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["0.0.0", ".zarray"])
def test_a_pipe_in_the_place_of_a_file_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a.zarr")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refusal = refused(tmp_path / "a.zarr")
    assert refusal.code == "undecodable"
    assert f"'0/{name}' in the Zarr is not a file" in refusal.detail


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"shape": [3, 10**9, 10**9]}, "bomb", "1000000000 x 1000000000 pixels, more than"),
        ({"shape": [3, 1000, 1000], "chunks": [1, 1, 1]}, "bomb", "3000000 pieces of 1 x 1 pixels, more than"),
        ({"chunks": [3, 30_000, 30_000]}, "bomb", "2700000000 bytes"),
        ({"shape": [3, 0, 10]}, "undecodable", "10 x 0 pixels"),
        ({"compressor": {"id": "pcodec"}}, "undecodable", ""),
        ({"compressor": {"id": "shuffle", "elementsize": 1}}, "undecodable", "compressed as 'shuffle'"),
        ({"filters": [{"id": "delta", "dtype": "|u1"}]}, "undecodable", "filter 'delta'"),
    ],
)
def test_a_layout_that_no_picture_needs_is_refused_by_its_description(
    tmp_path: Path, change: dict[str, Any], code: str, words: str
) -> None:
    folder = write(tmp_path / "a.zarr")
    described = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps({**described, **change}))
    refusal = open_slide(tmp_path / "a.zarr")
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert words in refusal.detail


def test_a_description_larger_than_any_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blastscope.runtime.io.slides.zarr_limits.MOST_METADATA", 2000)
    folder = write(tmp_path / "a.zarr")
    described = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps({**described, "more": "x" * 2000}))
    assert refused(tmp_path / "a.zarr").code == "bomb"


def test_where_no_chunk_is_there_nothing_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "a.zarr")
    slide = open_slide(tmp_path / "a.zarr")
    assert not isinstance(slide, Refusal)
    for channel in range(3):
        (folder / f"{channel}.1.2").unlink()
    assert slide.blank((128, 64, 192, 128))
    assert not slide.blank((127, 64, 192, 128))
    assert not slide.blank((128, 64, 192, 129))
    assert (read_region(slide, (128, 64, 192, 128)) == 0).all()
    for path in folder.glob("[0-9]*"):
        path.unlink()
    refusal = open_slide(tmp_path / "a.zarr")
    assert isinstance(refusal, Refusal)
    assert "all of its chunks are left out" in refusal.detail


def coloured(path: Path, colours: list[Any]) -> None:
    write(path)
    zarr.open_group(str(path), mode="a").attrs.update({"omero": {"channels": [{"color": colour} for colour in colours]}})


@pytest.mark.parametrize(
    ("colours", "read"),
    [
        (["#FF0000", "#00FF00", "#0000FF"], True),
        (["ff0000", "00ff00", "0000ff"], True),
        (["FFFF0000", "FF00FF00", "FF0000FF"], True),
        (["#FF0000FF", "#00FF00FF", "#0000FFFF"], True),
        (["#F00", "#0F0", "#00F"], True),
        (["#0000FF", "#00FF00", "#FF0000"], False),
        (["FF0000FF", "FF00FF00", "FFFF0000"], False),
        (["FFFFFF", "FFFFFF", "FFFFFF"], False),
        (["red", "green", "blue"], False),
    ],
)
def test_red_green_and_blue_are_known_however_they_are_written(tmp_path: Path, colours: list[str], read: bool) -> None:
    coloured(tmp_path / "a.zarr", colours)
    slide = open_slide(tmp_path / "a.zarr")
    assert isinstance(slide, ZarrSlide) == read
    if isinstance(slide, Refusal):
        assert slide.code == "not-8-bit-rgb"


def test_of_a_plate_and_a_well_the_folders_of_the_fields_are_named(tmp_path: Path) -> None:
    plate = zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "B/2"}]}
    for well in ("A/1", "B/2"):
        plate.create_group(well).attrs["well"] = {"images": [{"path": "0"}, {"path": "1"}]}
        for field in "01":
            write(tmp_path / "p.zarr" / well / field)
    refusal = open_slide(tmp_path / "p.zarr")
    assert isinstance(refusal, Refusal)
    assert refusal.detail == "an OME-Zarr plate of 2 wells: name the folder of one field (A/1/0, A/1/1, B/2/0, B/2/1)"
    refusal = open_slide(tmp_path / "p.zarr" / "A" / "1")
    assert isinstance(refusal, Refusal)
    assert refusal.detail == "an OME-Zarr of 2 images (0, 1): name the folder of one"
    assert isinstance(open_slide(tmp_path / "p.zarr" / "A" / "1" / "0"), ZarrSlide)


def test_of_a_large_plate_the_first_fields_are_named(tmp_path: Path) -> None:
    plate = zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2)
    wells = [f"A/{number}" for number in range(30)]
    plate.attrs["plate"] = {"wells": [{"path": well} for well in wells]}
    for well in wells:
        plate.create_group(well).attrs["well"] = {"images": [{"path": "0"}]}
    refusal = open_slide(tmp_path / "p.zarr")
    assert isinstance(refusal, Refusal)
    assert refusal.detail.startswith("an OME-Zarr plate of 30 wells")
    assert refusal.detail.endswith("A/8/0, ...)")
