"""Which arrays and files are taken as images."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from blastscope.runtime.errors import ImageError
from blastscope.runtime.io.image import check_array, decode_image, read_image
from blastscope.runtime.io.image_header import MAX_PIXELS, Header, orientation_in, read_header
from blastscope.runtime.types import Refusal

RANDOM = np.random.default_rng(0)
PIXELS = np.clip(cv2.resize(RANDOM.integers(0, 256, (6, 8, 3)).astype(np.float32), (37, 29)), 0, 255).astype(np.uint8)


def encoded(pixels: NDArray[np.generic] = PIXELS, kind: str = "PNG", **options: object) -> bytes:
    """The file that Pillow makes of `pixels`."""
    return saved(Image.fromarray(pixels), kind, **options)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[np.generic] = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "rgb", **options})
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int = 8, kind: int = 2, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def bmp_header(width: int, height: int, bits: int = 24) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)


def webp_header(side: int, flags: int = 0) -> bytes:
    size = (side - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size + size


def code(content: bytes) -> str | None:
    """The refusal's code, None for pixels."""
    result = decode_image(content)
    return result.code if isinstance(result, Refusal) else None


LOSSLESS = {
    "bmp": encoded(kind="BMP"),
    "png": encoded(),
    "webp": encoded(kind="WEBP", lossless=True),
    "tif": tiff(),
    "big-endian-tif": tiff(byteorder=">"),
    "bigtiff": tiff(bigtiff=True),
    "planar-tif": tiff(PIXELS.transpose(2, 0, 1), planarconfig="separate"),
    "lzw-tif": encoded(kind="TIFF", compression="tiff_lzw"),
    "deflate-tif": encoded(kind="TIFF", compression="tiff_adobe_deflate"),
}
LOSSY = {
    "jpeg": encoded(kind="JPEG"),
    "progressive-jpeg": encoded(kind="JPEG", progressive=True),
    "webp": encoded(kind="WEBP", quality=80),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_files_are_decoded_to_the_bytes_that_went_in(kind: str) -> None:
    assert np.array_equal(decode_image(LOSSLESS[kind]), PIXELS)


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_files_are_decoded_as_pillow_decodes_them(kind: str) -> None:
    pixels = decode_image(LOSSY[kind])
    assert isinstance(pixels, np.ndarray)
    expected = np.asarray(Image.open(io.BytesIO(LOSSY[kind])).convert("RGB")).astype(int)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", [*LOSSLESS, *(f"lossy {kind}" for kind in LOSSY)])
def test_a_file_cut_short_anywhere_is_refused(kind: str) -> None:
    whole = LOSSY[kind[6:]] if kind.startswith("lossy ") else LOSSLESS[kind]
    pixels_end = len(whole) - 2 * ("jpeg" in kind)  # a JPEG has an end marker, which nobody needs
    lengths = {*range(0, min(len(whole), 600)), *range(0, pixels_end, 13), *range(pixels_end - 30, pixels_end)}
    assert {code(whole[:length]) for length in sorted(lengths)} == {"undecodable"}


@pytest.mark.parametrize(
    ("content", "lacking"),
    [
        (LOSSLESS["bmp"], " bytes of {}"),
        (LOSSLESS["webp"], " bytes of {}"),
        (LOSSY["jpeg"], " bytes"),
        (LOSSLESS["png"], " bytes"),
    ],
)
def test_what_a_cut_file_lacks_is_said_where_the_file_itself_says_it(content: bytes, lacking: str) -> None:
    refusal = decode_image(content[:-100])
    assert isinstance(refusal, Refusal)
    assert refusal.detail.endswith(f" {len(content) - 100}{lacking.format(len(content))}")


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_damaged_header_never_raises(kind: str) -> None:
    whole, random = LOSSLESS[kind], np.random.default_rng(1)
    ends = [*range(min(len(whole), 120)), *range(max(len(whole) - 250, 0), len(whole))]
    for position in ends:
        damaged = bytearray(whole)
        damaged[position] = int(random.integers(256))
        result = decode_image(bytes(damaged))
        assert isinstance(result, Refusal) or result.dtype == np.uint8


@pytest.mark.parametrize(
    "content",
    [
        png(40_000, 40_000),
        bmp_header(40_000, 40_000),
        bmp_header(40_000, -40_000),
        webp_header(40_000),
        tiff(np.zeros((1, 1, 3), np.uint8)).replace(
            struct.pack("<HHII", 256, 4, 1, 1), struct.pack("<HHII", 256, 4, 1, 2_000_000_000)
        ),
        b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 40_000, 40_000, 3) + bytes(9),
    ],
    ids=["png", "bmp", "bmp-from-the-top", "webp", "tif", "jpeg"],
)
def test_a_bomb_is_refused_by_its_header(content: bytes) -> None:
    assert code(content) == "bomb"


def test_the_largest_size_let_through_is_not_a_bomb() -> None:
    assert code(bmp_header(10_000, MAX_PIXELS // 10_000)) == "undecodable"  # its pixels are missing
    assert code(bmp_header(10_000, MAX_PIXELS // 10_000 + 1)) == "bomb"


GRAY = PIXELS[..., 0].copy()
NOT_RGB = {
    "16-bit PNG": png(4, 4, bits=16),
    "PNG with a transparent colour": encoded(transparency=tuple(PIXELS[4, 5].tolist())),
    "gray PNG": encoded(GRAY),
    "PNG with alpha": encoded(np.dstack([PIXELS, GRAY])),
    "palette PNG": saved(Image.fromarray(PIXELS).quantize(16), "PNG"),
    "1-bit PNG": saved(Image.fromarray(GRAY).convert("1"), "PNG"),
    "gray JPEG": encoded(GRAY, "JPEG"),
    "CMYK JPEG": saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "gray BMP": encoded(GRAY, "BMP"),
    "BMP with alpha": encoded(np.dstack([PIXELS, GRAY]), "BMP"),
    "16-bit BMP": bmp_header(4, 4, bits=16) + bytes(64),
    "WebP with alpha": encoded(np.dstack([PIXELS, GRAY]), "WEBP", lossless=True),
    "lossy WebP with alpha": encoded(np.dstack([PIXELS, GRAY]), "WEBP"),
    "16-bit RGB TIFF": tiff(PIXELS.astype(np.uint16)),
    "floating-point TIFF": tiff(PIXELS.astype(np.float32)),
    "signed TIFF": tiff((PIXELS // 2).astype(np.int8)),
    "gray TIFF": tiff(GRAY, photometric="minisblack"),
    "TIFF with alpha": tiff(np.dstack([PIXELS, GRAY]), extrasamples=["unassalpha"]),
    "CMYK TIFF": saved(Image.fromarray(PIXELS).convert("CMYK"), "TIFF"),
    "palette TIFF": saved(Image.fromarray(PIXELS).quantize(16), "TIFF"),
}


@pytest.mark.parametrize("kind", NOT_RGB)
def test_what_is_not_8_bit_rgb_is_never_converted_silently(kind: str) -> None:
    assert code(NOT_RGB[kind]) == "not-8-bit-rgb"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b"not an image at all",
        saved(Image.fromarray(GRAY), "GIF"),
        tiff(np.stack([PIXELS, PIXELS])),
        saved(Image.fromarray(PIXELS), "WEBP", save_all=True, append_images=[Image.fromarray(PIXELS[::-1].copy())]),
        saved(Image.fromarray(PIXELS), "PNG", save_all=True, append_images=[Image.fromarray(PIXELS[::-1].copy())]),
        tiff(extratags=[(274, "H", 1, 6, True)]),
        LOSSLESS["png"].replace(b"IDAT", b"IDAt", 1),
    ],
    ids=["empty", "zeros", "text", "gif", "two-pages", "animated-webp", "animated-png", "turned-tif", "bad-checksum"],
)
def test_what_is_no_single_whole_image_is_undecodable(content: bytes) -> None:
    assert code(content) == "undecodable"


OPAQUE = np.dstack([PIXELS, np.full_like(GRAY, 255)])


def bmp32(alpha: int, *, masks: bool = False, top_down: bool = False) -> bytes:
    """A BMP of 32 bits, with the places of its colours as masks where wanted."""
    height, width = GRAY.shape
    start = 14 + 40 + 12 * masks
    rows = np.dstack([PIXELS[..., ::-1], np.full_like(GRAY, alpha)])
    body = (rows if top_down else rows[::-1]).tobytes()
    size = (width, -height if top_down else height)
    head = struct.pack("<IIIIiiHHIIiiII", start + len(body), 0, start, 40, *size, 1, 32, 3 * masks, len(body), 0, 0, 0, 0)
    return b"BM" + head + (struct.pack("<III", 0xFF0000, 0xFF00, 0xFF) if masks else b"") + body


OPAQUE_FILES = {
    "PNG": encoded(OPAQUE),
    "PNG with a transparent colour that no pixel has": encoded(transparency=(1, 2, 3)),
    "BMP": encoded(OPAQUE, "BMP"),
    "BMP whose fourth bytes are unused": bmp32(0),
    "BMP with masks": bmp32(255, masks=True),
    "BMP from the top": bmp32(255, top_down=True),
    "TIFF": tiff(OPAQUE, extrasamples=["unassalpha"]),
    "TIFF of associated alpha": tiff(OPAQUE, extrasamples=["assocalpha"]),
    "planar TIFF": tiff(OPAQUE.transpose(2, 0, 1), planarconfig="separate", extrasamples=["unassalpha"]),
}


@pytest.mark.parametrize("kind", OPAQUE_FILES)
def test_alpha_that_is_opaque_everywhere_is_left_out_with_a_note(kind: str) -> None:
    assert np.array_equal(decode_image(OPAQUE_FILES[kind]), PIXELS)
    if "TIFF" in kind:  # which readers of slides read
        return
    header = read_header(OPAQUE_FILES[kind])
    assert isinstance(header, Header)
    assert header.notes == ("its alpha channel, which is opaque everywhere, is dropped",)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_single_pixel_that_is_not_opaque_is_enough_for_a_refusal(kind: str) -> None:
    almost = OPAQUE.copy()
    almost[7, 9, 3] = 254
    refusal = decode_image(encoded(almost, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "not-8-bit-rgb"


HELD = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "lossy WEBP": {"quality": 95}}


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_upright_as_their_exif_orientation_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    content = encoded(kind=kind.removeprefix("lossy "), exif=exif, **HELD[kind])
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    pixels, header = decode_image(content), read_header(content)
    assert isinstance(pixels, np.ndarray)
    assert isinstance(header, Header)
    assert pixels.shape == expected.shape == (header.height, header.width, 3)
    assert np.abs(pixels - expected).max() <= 2
    assert ("turned upright" in " ".join(header.notes)) == (2 <= orientation <= 8)


def test_a_damaged_jpeg_without_its_end_never_raises() -> None:
    exif, random = Image.Exif(), np.random.default_rng(2)
    exif[274] = 8
    whole = encoded(kind="JPEG", exif=exif, progressive=True, restart_marker_blocks=2)[:-2]
    for position in range(2, len(whole)):
        if 2 <= position < 200 or whole[position - 1] in (0xDA, 0xC2, 0xDD) or position % 17 == 0:
            damaged = bytearray(whole)
            damaged[position] = int(random.integers(256))
            result = decode_image(bytes(damaged))
            assert isinstance(result, Refusal) or result.dtype == np.uint8


def test_a_damaged_exif_block_turns_nothing() -> None:
    exif = Image.Exif()
    exif[274] = 6
    block = exif.tobytes()
    assert [orientation_in(block[:length]) for length in range(len(block) + 1)].count(6) <= 9
    assert orientation_in(b"") == orientation_in(b"XX" + bytes(40)) == 1


JPEGS = {
    "baseline": {},
    "all of the quality": {"quality": 100, "subsampling": 0},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 2},
    "with restarts a row, whole colours": {"restart_marker_rows": 1, "subsampling": 0},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 3},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_nothing_but_its_end_marker_is_read_with_a_note(kind: str) -> None:
    whole = encoded(kind="JPEG", **JPEGS[kind])
    for cut in (1, 2):
        assert np.array_equal(decode_image(whole[:-cut]), decode_image(whole))
        header = read_header(whole[:-cut])
        assert isinstance(header, Header)
        assert header.notes == ("the JPEG's end marker is missing, no pixel is",)
    assert {code(whole[:length]) for length in range(200, len(whole) - 2)} == {"undecodable"}


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "cell.jpg"
    path.write_bytes(LOSSLESS["bmp"])
    assert np.array_equal(read_image(path), PIXELS)
    assert np.array_equal(read_image(str(path)), PIXELS)


def test_what_is_no_readable_file_is_a_refusal_with_the_reason(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "not a file"), (tmp_path / "none.png", "No such file"), ("a\0b.png", "null")):
        result = read_image(path)
        assert isinstance(result, Refusal)
        assert result.code == "undecodable"
        assert reason in result.detail


@pytest.mark.parametrize("step", ["read_content", "decode_image"])
def test_a_file_for_which_memory_lacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    (tmp_path / "a.png").write_bytes(LOSSLESS["png"])

    def lacking(what: object) -> None:
        raise MemoryError

    monkeypatch.setattr(f"blastscope.runtime.io.image.{step}", lacking)
    refusal = read_image(tmp_path / "a.png")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "failed"
    assert "memory" in refusal.detail


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ([[[0, 0, 0]]], "list"),
        (None, "NoneType"),
        (Image.fromarray(PIXELS), "numpy.asarray"),
        (PIXELS.astype(np.float32), "float32"),
        (PIXELS.astype(np.uint16), "uint16"),
        (PIXELS > 3, "bool"),
        (GRAY, "shape"),
        (PIXELS[None], "shape"),
        (np.dstack([PIXELS, GRAY]), "shape"),
    ],
)
def test_misuse_raises_an_image_error_that_says_what_was_wrong(image: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        check_array(image)


def test_a_good_array_is_handed_through() -> None:
    assert check_array(PIXELS) is PIXELS
    assert check_array(PIXELS[:0]).shape == (0, 37, 3)
