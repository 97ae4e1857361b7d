"""Nikon ND2 files, written here as NIS-Elements lays them out: read in pieces, in the right colours, or refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nikon_file import tree, write_chunks, write_nd2

from blastscope.runtime.io.slides import nikon
from blastscope.runtime.io.slides.nikon import NikonSlide
from blastscope.runtime.io.slides.slide import Slide, find_frames, open_slide, read_overview
from blastscope.runtime.types import Refusal

# no two of its colours are alike when red and blue change places
FIELD = np.kron(np.random.default_rng(7).integers(0, 256, (13, 21, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
HEIGHT, WIDTH = FIELD.shape[:2]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded rows": {"row_bytes": 600},
    "deflated": {"deflated": True},
    "deflated, padded rows": {"deflated": True, "row_bytes": 600},
    "deflated description": {"zipped_tree": True},
}


def opened(path: Path) -> Slide:
    slide = open_slide(path)
    assert not isinstance(slide, Refusal), slide
    return slide


def refused(path: Path) -> Refusal:
    refusal = open_slide(path)
    assert isinstance(refusal, Refusal)
    return refusal


@pytest.mark.parametrize("kind", KINDS)
def test_a_colour_picture_is_read_in_pieces(tmp_path: Path, kind: str) -> None:
    slide = opened(write_nd2(tmp_path / "a.nd2", FIELD, um=0.0645, **KINDS[kind]))
    assert isinstance(slide, NikonSlide)
    assert (slide.width, slide.height) == (WIDTH, HEIGHT)
    assert slide.pixel_um == pytest.approx(0.0645)
    assert slide.notes == ("0.0645 micrometres a pixel by the Nikon metadata",)
    assert np.array_equal(slide.read((17, 5, 90, 101)), FIELD[5:101, 17:90])
    assert np.array_equal(slide.read((0, 0, WIDTH, HEIGHT)), FIELD)
    assert not slide.blank((0, 0, 9, 9))
    assert read_overview(slide, WIDTH // 4).shape == (HEIGHT // 4, WIDTH // 4, 3)
    slide.close()
    slide.close()


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_the_library_that_reads_such_files(tmp_path: Path, kind: str) -> None:
    nd2 = pytest.importorskip("nd2", reason="nd2 isn't installed: pip install nd2")
    path = write_nd2(tmp_path / "a.nd2", FIELD, um=0.0645, **KINDS[kind])
    slide = opened(path)
    with nd2.ND2File(path) as file:
        assert file.is_rgb
        assert file.voxel_size().x == slide.pixel_um
        blue_first = file.asarray()
    assert np.array_equal(slide.read((0, 0, WIDTH, HEIGHT)), blue_first[..., ::-1])
    slide.close()


def test_a_folder_gives_its_nd2_files(tmp_path: Path) -> None:
    write_nd2(tmp_path / "a.nd2", FIELD)
    assert find_frames([tmp_path]) == [tmp_path / "a.nd2"]


@pytest.mark.parametrize(
    ("words", "note"), [({"um": 1.0}, "isn't used"), ({"um": 50.0}, ""), ({"um": 0.1, "calibrated": False}, "")]
)
def test_a_scale_that_nobody_measured_is_not_taken(tmp_path: Path, words: dict[str, Any], note: str) -> None:
    slide = opened(write_nd2(tmp_path / "a.nd2", FIELD, **words))
    assert slide.pixel_um is None
    assert note in "".join(slide.notes)
    slide.close()


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "several": ({"pictures": 2}, "undecodable", "of 2 pictures: export the ones that you mean as TIFF"),
    "one of several": ({"uiSequenceCount": 7}, "undecodable", "of 7 pictures"),
    "deep": ({"pixels": FIELD.astype(np.uint16)}, "not-8-bit-rgb", "3 channels of 16 bits in red, green and blue"),
    "gray": ({"pixels": FIELD[..., :1]}, "not-8-bit-rgb", "1 channels of 8 bits that aren't a colour camera's"),
    "dyes": ({"planes": 3}, "not-8-bit-rgb", "3 channels of 8 bits that aren't a colour camera's"),
    "lossy": ({"eCompression": 1}, "undecodable", "compressed with losses"),
    "tiles": ({"uiTileWidth": 64}, "undecodable", "kept in tiles"),
    "narrow rows": ({"uiWidthBytes": 3 * WIDTH - 1}, "undecodable", f"rows of {3 * WIDTH - 1} bytes"),
    "longer": ({"uiHeight": HEIGHT + 1, "uiTileHeight": 0}, "undecodable", f"{WIDTH} x {HEIGHT + 1} pixels don't lie in"),
    "vast": ({"uiWidth": 10**6, "uiHeight": 10**6, "uiWidthBytes": 3 * 10**6}, "bomb", "1000000 x 1000000 pixels, more than"),
    "vast rows": ({"uiWidthBytes": 2**32 - 1, "deflated": True}, "bomb", "pieces of"),
    "empty": ({"uiWidth": 0}, "undecodable", f"the header says 0 x {HEIGHT} pixels"),
    "older": ({"version": b"Ver2.1"}, "undecodable", "of another kind (Ver2.1): save it as 8-bit RGB TIFF"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_colour_picture_is_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    words, code, told = REFUSED[name]
    refusal = refused(write_nd2(tmp_path / "a.nd2", **{"pixels": FIELD, **words}))
    assert refusal.code == code
    assert told in refusal.detail


def test_no_more_is_inflated_than_the_pixels_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Inflate:
        def __init__(self) -> None:
            self._own = inflate()

        def decompress(self, content: bytes, most: int) -> bytes:
            asked.append((len(content), most))
            return self._own.decompress(content, most)

        @property
        def unconsumed_tail(self) -> bytes:
            return self._own.unconsumed_tail

    path = write_nd2(tmp_path / "a.nd2", np.zeros((9000, 300, 3), np.uint8), deflated=True, uiHeight=2, uiTileHeight=0)
    slide = opened(path)
    inflate = zlib.decompressobj
    monkeypatch.setattr(nikon.zlib, "decompressobj", Inflate)
    assert slide.read((0, 0, 300, 2)).shape == (2, 300, 3)
    assert [most for _, most in asked] == [1800, 1]
    assert asked[0][0] == 1800 + 18 + 1024
    slide.close()


def test_a_deflated_picture_that_changed_can_not_be_read(tmp_path: Path) -> None:
    path = write_nd2(tmp_path / "a.nd2", FIELD, deflated=True)
    content = bytearray(path.read_bytes())
    stored = zlib.compress(FIELD[..., ::-1].tobytes())
    content[content.index(stored) + len(stored) - 1] ^= 1
    path.write_bytes(content)
    slide = opened(path)
    with pytest.raises(nikon.ReadError, match="incorrect data check"):
        slide.read((0, 0, 8, 8))
    slide.close()


def test_a_deflated_picture_that_is_too_short_can_not_be_read(tmp_path: Path) -> None:
    slide = opened(write_nd2(tmp_path / "a.nd2", FIELD, deflated=True, uiHeight=HEIGHT + 1, uiTileHeight=0))
    for _ in range(2):
        with pytest.raises(nikon.ReadError, match=f"{WIDTH} x {HEIGHT + 1} pixels don't lie in {FIELD.size} bytes"):
            slide.read((0, 0, 8, 8))
    slide.close()


@pytest.mark.parametrize("kept", [20, 50, 5000, -1, -60])
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, kept: int) -> None:
    path = write_nd2(tmp_path / "a.nd2", FIELD)
    path.write_bytes(path.read_bytes()[:kept])
    refusal = refused(path)
    assert refusal.code == "undecodable"
    assert "damaged" in refusal.detail


@pytest.mark.parametrize("place", [0, 4096 * 9, 2**63])
def test_a_map_that_leads_elsewhere_is_refused(tmp_path: Path, place: int) -> None:
    chunks = {b"ImageAttributesLV!": tree({"SLxImageAttributes": {"uiWidth": 1}}), b"ImageMetadataSeqLV|0!": b""}
    path = write_chunks(tmp_path / "a.nd2", chunks, places={b"ImageAttributesLV!": place})
    refusal = refused(path)
    assert refusal.code == "undecodable"
    assert "ImageAttributesLV!" in refusal.detail


LEVEL = struct.pack("<BB", 11, 1) + b"\0\0"
TREES = {
    "no level": (tree({"SLxImageAttributes": 3}), "is no level"),
    "another level": (tree({"SLxSomething": {}}), "SLxImageAttributes"),
    "a level that ends before its values": (
        LEVEL + struct.pack("<IQ", 1, 4) + tree({"a": 1}),
        "longer than it says|beyond its level",
    ),
    "an array beyond the end": (struct.pack("<BB", 9, 1) + b"\0\0" + struct.pack("<Q", 2**60), "beyond its level"),
    "a text without end": (struct.pack("<BB", 8, 1) + b"\0\0" + b"a\0b\0", "beyond its level"),
    "an unknown type": (struct.pack("<BB", 44, 1) + b"\0\0", "a value of kind 44"),
    "nothing": (b"", "damaged"),
    "damaged deflate": (bytes((76, 0)) + bytes(10) + b"abc", "damaged"),
}


@pytest.mark.parametrize("name", TREES)
def test_a_description_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    content, told = TREES[name]
    path = write_chunks(tmp_path / "a.nd2", {b"ImageAttributesLV!": content, b"ImageMetadataSeqLV|0!": b""})
    with pytest.raises(nikon.ReadError, match=told) as raised:
        NikonSlide(path)
    assert raised.value.refusal.code == "undecodable"


def nested(deep: int) -> bytes:
    inside: dict[str, Any] = {}
    for _ in range(deep):
        inside = {"a": inside}
    return tree({"SLxImageAttributes": inside})


BOMBS = {
    "deflated zeros": bytes((76, 0)) + bytes(10) + zlib.compress(bytes(nikon.MOST_TREE + 1)),
    "a long description": bytes(nikon.MOST_TREE + 1),
    "many levels": nested(nikon.MOST_DEEP),
    "many values": tree({"SLxImageAttributes": {f"{number}": True for number in range(nikon.MOST_VALUES)}}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_description_larger_than_a_microscopes_is_a_bomb(tmp_path: Path, name: str) -> None:
    path = write_chunks(tmp_path / "a.nd2", {b"ImageAttributesLV!": BOMBS[name], b"ImageMetadataSeqLV|0!": b""})
    assert refused(path).code == "bomb"


@pytest.mark.parametrize(("limit", "told"), [("MOST_CHUNKS", "more than 2 parts"), ("MOST_MAP", "more than 2")])
def test_a_map_larger_than_a_microscopes_is_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, told: str
) -> None:
    monkeypatch.setattr(nikon, limit, 2)
    refusal = refused(write_nd2(tmp_path / "a.nd2", FIELD))
    assert refusal.code == "bomb"
    assert told in refusal.detail
