"""TIFFs of many writers show the same picture to both doors, and damaged ones are refused by both."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from stream_layouts import HEIGHT, LAYOUTS, PLAIN, SIDE, SMOOTH, WIDTH, ndpi, tiles, write_tiles

from blastscope.runtime.io.image import check_image, decode_image, read_image
from blastscope.runtime.io.slides.slide import open_slide, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Refusal

YCBCR = np.asarray(Image.fromarray(SMOOTH).convert("YCbCr"))


def scanned(path: Path) -> NDArray[np.uint8] | Refusal:
    """All pixels, read as frames and slides are."""
    slide = open_slide(path)
    if isinstance(slide, Refusal):
        return slide
    try:
        return read_region(slide, (0, 0, slide.width, slide.height))
    except ReadError as unreadable:
        return unreadable.refusal
    finally:
        slide.close()


def pixels_of(path: Path) -> NDArray[np.uint8]:
    """All pixels, which must be the same by both doors."""
    frame, image = scanned(path), read_image(path)
    assert not isinstance(frame, Refusal), frame
    assert not isinstance(image, Refusal), image
    assert np.array_equal(frame, image)
    assert check_image(path.read_bytes()) is None
    return frame


def codestream(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True, **options)
    return buffer.getvalue()


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


@pytest.mark.parametrize("layout", [name for name, (file, _) in LAYOUTS.items() if not file.endswith("zarr")])
def test_cells_and_frames_are_read_by_one_door(tmp_path: Path, layout: str) -> None:
    file, write = LAYOUTS[layout]
    expected = write(tmp_path / file)
    assert np.array_equal(pixels_of(tmp_path / file), expected)


@pytest.mark.parametrize(
    ("compression", "mct"), [(33003, 0), (33004, 1), (33005, 1), (34712, 1)], ids=["33003", "33004", "33005", "34712"]
)
def test_each_kind_of_jpeg_2000_has_the_right_colours(tmp_path: Path, compression: int, mct: int) -> None:
    """33003 holds YCbCr and doesn't say so: Aperio's. 33004 is what Bio-Formats writes with loss."""
    source = tiles(YCBCR if compression == 33003 else SMOOTH)
    write_tiles(tmp_path / "a.tif", [codestream(tile, mct=mct) for tile in source], compression=compression)
    difference = np.abs(pixels_of(tmp_path / "a.tif").astype(int) - SMOOTH)
    assert difference.mean() < 1.5 if compression == 33003 else difference.max() == 0


def test_aperios_jpeg_2000_has_the_colours_that_openslide_shows(tmp_path: Path) -> None:
    openslide = pytest.importorskip("openslide", reason="openslide isn't installed: pip install 'blastscope[slides]'")
    pieces = [codestream(tile, mct=0) for tile in tiles(YCBCR)]
    words = "Aperio Image Library v12\r\n210x150 [0,0 210x150] (64x64) J2K/YUV16 Q=90|AppMag = 40|MPP = 0.25"
    write_tiles(tmp_path / "a.svs", pieces, compression=33003, description=words, metadata=None)
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        expected = np.asarray(slide.read_region((0, 0), 0, (WIDTH, HEIGHT)))[..., :3].astype(int)
    ours = decode_image((tmp_path / "a.svs").read_bytes())
    assert not isinstance(ours, Refusal)
    assert np.abs(ours - expected).max() <= 2


@pytest.mark.parametrize("codec", ["jpegxl", "jpegxr"])
def test_pieces_that_imagecodecs_reads_need_it(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("imagecodecs", reason="imagecodecs isn't installed: pip install 'blastscope[slides]'")
    encode: Callable[..., bytes] = getattr(library, f"{codec}_encode")
    options = {"lossless": True} if codec == "jpegxl" else {"level": 100}
    pieces = [encode(np.ascontiguousarray(tile), **options) for tile in tiles(SMOOTH)]
    write_tiles(tmp_path / "a.tif", pieces, compression={"jpegxl": 50002, "jpegxr": 34934}[codec])
    assert np.abs(pixels_of(tmp_path / "a.tif").astype(int) - SMOOTH).max() <= 2
    tifffile.imwrite(tmp_path / "b.tif", SMOOTH, photometric="rgb", compression=codec, rowsperstrip=SIDE)  # the last is shorter
    assert pixels_of(tmp_path / "b.tif").shape == SMOOTH.shape
    monkeypatch.setattr("blastscope.runtime.io.slides.tile_table.find_spec", lambda name: None)
    for refusal in (scanned(tmp_path / "a.tif"), read_image(tmp_path / "a.tif")):
        assert isinstance(refusal, Refusal)
        assert f"{codec.upper()} are read by imagecodecs: pip install 'blastscope[slides]'" in refusal.detail


def planes_of_jpeg(path: Path) -> NDArray[np.uint8]:
    encoded = [jpeg(tile[..., channel]) for channel in range(3) for tile in tiles(SMOOTH)]
    decoded = [np.asarray(Image.open(io.BytesIO(one))) for one in encoded]
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate", "tile": (SIDE, SIDE)}
        tiff.write(iter(encoded), shape=(3, HEIGHT, WIDTH), dtype=np.uint8, compression="deflate", **options)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[259].overwrite(7)
    planes = [
        np.concatenate([np.concatenate(decoded[at : at + 4], 1) for at in range(first, first + 12, 4)]) for first in (0, 12, 24)
    ]
    return np.dstack(planes)[:HEIGHT, :WIDTH]


def ycbcr(compression: str | None) -> Callable[[Path], NDArray[np.uint8]]:
    def write(path: Path) -> NDArray[np.uint8]:
        Image.fromarray(SMOOTH).convert("YCbCr").save(path, "TIFF", compression=compression)
        return SMOOTH

    return write


def cropped_edge_tiles(path: Path) -> NDArray[np.uint8]:
    pieces = [SMOOTH[y : y + SIDE, x : x + SIDE] for y in range(0, HEIGHT, SIDE) for x in range(0, WIDTH, SIDE)]
    write_tiles(path, [jpeg(np.ascontiguousarray(piece)) for piece in pieces], compression=7, photometric=6)
    return SMOOTH


def full_last_strip(path: Path) -> NDArray[np.uint8]:
    strips = [np.full((SIDE, WIDTH, 3), 255, np.uint8) for _ in range(0, HEIGHT, SIDE)]
    for number, strip in enumerate(strips):
        part = SMOOTH[number * SIDE : (number + 1) * SIDE]
        strip[: len(part)] = part
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"photometric": "rgb", "rowsperstrip": SIDE, "compression": "deflate"}
        tiff.write(iter(map(jpeg, strips)), shape=SMOOTH.shape, dtype=np.uint8, **options)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[259].overwrite(7)
        tiff.pages.first.tags[262].overwrite(6)
    return SMOOTH


def png_tiles(path: Path) -> NDArray[np.uint8]:
    def png(tile: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, "PNG")
        return buffer.getvalue()

    write_tiles(path, [png(tile) for tile in tiles(SMOOTH)], compression=34933)
    return SMOOTH


def reversed_bits(path: Path) -> NDArray[np.uint8]:
    table = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    data = np.frombuffer(SMOOTH.tobytes().translate(table), np.uint8).reshape(SMOOTH.shape)
    tifffile.imwrite(path, data, photometric="rgb", extratags=[(65000, 3, 1, 2, True)])
    spare, fill_order = (struct.pack("<HHI", number, 3, 1) for number in (65000, 266))  # which tifffile doesn't write
    path.write_bytes(path.read_bytes().replace(spare, fill_order))
    return SMOOTH


def opaque(**options: Any) -> Callable[[Path], NDArray[np.uint8]]:
    def write(path: Path) -> NDArray[np.uint8]:
        pixels = np.dstack([SMOOTH, np.full((HEIGHT, WIDTH), 255, np.uint8)])
        pixels = pixels.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else pixels
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], **options)
        return SMOOTH

    return write


OTHER: dict[str, tuple[Callable[[Path], NDArray[np.uint8]], float]] = {  # and the mean difference to what went in
    "JPEG, colours apart": (planes_of_jpeg, 0),
    "uncompressed YCbCr": (ycbcr(None), 1.5),
    "YCbCr in LZW": (ycbcr("tiff_lzw"), 1.5),
    "edge tiles stored cropped": (cropped_edge_tiles, 1.5),
    "a last strip of full height": (full_last_strip, 1.5),
    "PNG tiles": (png_tiles, 0),
    "bits in reverse": (reversed_bits, 0),
    "opaque alpha": (opaque(), 0),
    "opaque alpha in deflated tiles": (opaque(tile=(SIDE, SIDE), compression="deflate"), 0),
    "opaque alpha, colours apart": (opaque(planarconfig="separate"), 0),
}


@pytest.mark.parametrize("kind", OTHER)
def test_less_common_tiffs_show_what_went_in(tmp_path: Path, kind: str) -> None:
    write, most = OTHER[kind]
    expected = write(tmp_path / "a.tif")
    assert np.abs(pixels_of(tmp_path / "a.tif").astype(int) - expected).mean() <= most


@pytest.mark.parametrize("step", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_ycbcr_with_fewer_colours_than_pixels_is_read(tmp_path: Path, step: tuple[int, int], compression: str | None) -> None:
    """As a camera of Fuji's writes it: the brightness of a few pixels, then their common colour."""
    across, down = step
    small = np.asarray(Image.fromarray(YCBCR).resize((WIDTH // across, HEIGHT // down), Image.Resampling.BOX))
    rows, columns = HEIGHT // down, WIDTH // across
    light = YCBCR[: rows * down, : columns * across, 0].reshape(rows, down, columns, across).transpose(0, 2, 1, 3)
    packed = np.concatenate([light.reshape(rows, columns, -1), small[..., 1:]], axis=2)
    # written as gray bytes, whose tags are changed afterwards
    options: dict[str, Any] = {"photometric": "minisblack", "rowsperstrip": rows, "extratags": [(530, 3, 2, step, True)]}
    tifffile.imwrite(tmp_path / "a.tif", packed.reshape(rows, -1), metadata=None, compression=compression, **options)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        sizes = {256: columns * across, 257: rows * down, 278: rows * down}
        for number, value in {**sizes, 258: (8, 8, 8), 262: 6, 277: 3}.items():
            tags[number].overwrite(value)
    shown = pixels_of(tmp_path / "a.tif").astype(int)
    assert np.abs(shown - SMOOTH[: rows * down, : columns * across]).mean() < 3


@pytest.mark.parametrize(
    "kind", [{}, {"restarts": True}, {"restarts": True, "sized": False}], ids=["plain", "starts", "no size"]
)
def test_an_ndpi_is_read_by_its_restart_intervals(
    tmp_path: Path, kind: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OpenSlide and without it; what lies between two intervals is smoothed by one and not by the other."""
    expected = ndpi(tmp_path / "a.ndpi", **kind).astype(int)
    ours = read_image(tmp_path / "a.ndpi")
    assert not isinstance(ours, Refusal)
    assert np.abs(ours - expected).mean() < 1.5
    for installed in (True, False):
        monkeypatch.setattr("blastscope.runtime.io.slides.slide.has_openslide", lambda it=installed: it)
        slide = open_slide(tmp_path / "a.ndpi")
        assert not isinstance(slide, Refusal)
        assert slide.pixel_um == pytest.approx(0.25)
        shown = read_region(slide, (0, 0, slide.width, slide.height))
        slide.close()
        assert np.abs(shown.astype(int) - ours).mean() < 1


@pytest.mark.parametrize("most", [1, 10_000])
def test_strips_are_decoded_in_groups_that_fit_the_memory(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.tif", "TIFF", compression="tiff_lzw", tiffinfo={278: 7})
    planes = np.ascontiguousarray(SMOOTH.transpose(2, 0, 1))
    for module, value in (("GROUP_BYTES", most), ("CACHE_BYTES", most)):
        monkeypatch.setattr(f"blastscope.runtime.io.slides.tile_table.{module}", value)
    assert np.array_equal(pixels_of(tmp_path / "a.tif"), SMOOTH)
    pytest.importorskip("imagecodecs", reason="imagecodecs isn't installed: pip install 'blastscope[slides]'")
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate", compression="lzw", rowsperstrip=11)
    assert np.array_equal(pixels_of(tmp_path / "b.tif"), SMOOTH)


# ---- damage


def damaged(compression: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(SMOOTH).save(path, "TIFF", compression=compression)
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            start, count = page.dataoffsets[0], page.databytecounts[0]
        content = bytearray(path.read_bytes())
        content[start + count // 3 : start + count] = bytes(count - count // 3)
        path.write_bytes(content)

    return write


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "jpeg"])
def test_damaged_pixels_are_refused_by_both_doors(tmp_path: Path, compression: str) -> None:
    damaged(compression)(tmp_path / "a.tif")
    for refusal in (scanned(tmp_path / "a.tif"), read_image(tmp_path / "a.tif")):
        assert isinstance(refusal, Refusal)
        assert refusal.code == "undecodable"
        assert "damaged" in refusal.detail


def test_damaged_ycbcr_is_refused_too(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).convert("YCbCr").save(tmp_path / "a.tif", "TIFF", compression="tiff_lzw")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        start, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    content[start + count // 3 : start + count] = bytes(count - count // 3)
    (tmp_path / "a.tif").write_bytes(content)
    refusal = scanned(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert "damaged" in refusal.detail


def test_a_jpeg_tile_that_is_too_small_is_refused(tmp_path: Path) -> None:
    pieces = [jpeg(np.ascontiguousarray(tile[: SIDE // 2])) for tile in tiles(SMOOTH)]
    write_tiles(tmp_path / "a.tif", pieces, compression=7, photometric=6)
    refusal = scanned(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert "it holds 64 x 32 pixels of 64 x 64" in refusal.detail


@pytest.mark.parametrize("planar", [False, True])
def test_transparent_pixels_are_refused(tmp_path: Path, planar: bool) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[77, 33] = 254
    pixels = np.dstack([PLAIN, alpha])
    options: dict[str, Any] = {"planarconfig": "separate"} if planar else {}
    pixels = pixels.transpose(2, 0, 1) if planar else pixels
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], **options)
    for refusal in (scanned(tmp_path / "a.tif"), read_image(tmp_path / "a.tif")):
        assert isinstance(refusal, Refusal)
        assert refusal.code == "not-8-bit-rgb"
        assert "transparent" in refusal.detail


def test_a_dropped_alpha_channel_is_told(tmp_path: Path) -> None:
    opaque()(tmp_path / "a.tif")
    slide = open_slide(tmp_path / "a.tif")
    assert not isinstance(slide, Refusal)
    slide.close()
    assert "alpha channel" in slide.notes[0]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: tifffile.imwrite(path, (PLAIN >> 1).astype(np.int8), photometric="rgb"), "8-bit signed RGB"),
        (lambda path: tifffile.imwrite(path, PLAIN.astype(np.float32), photometric="rgb"), "32-bit floating-point RGB"),
        (lambda path: tifffile.imwrite(path, PLAIN[..., 0].astype(np.uint16), photometric="cfa"), "16-bit raw sensor"),
    ],
)
def test_the_refusal_says_what_the_pixels_are(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path / "a.tif")
    for refusal in (scanned(tmp_path / "a.tif"), read_image(tmp_path / "a.tif")):
        assert isinstance(refusal, Refusal)
        assert refusal.code == "not-8-bit-rgb"
        assert f"a TIFF of {words} pixels" in refusal.detail


def test_planes_in_a_codec_that_is_only_read_whole_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", PLAIN.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="deflate"
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages.first.tags[259].overwrite(50001)
    refusal = scanned(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert "WEBP, its colours apart in planes, aren't read" in refusal.detail


def test_a_tiff_of_more_pixels_than_an_image_is_no_image_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLAIN, photometric="rgb")
    monkeypatch.setattr("blastscope.runtime.io.slides.slide.MAX_PIXELS", PLAIN[..., 0].size - 1)
    refusal = read_image(tmp_path / "a.tif")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "bomb"
    assert isinstance(scanned(tmp_path / "a.tif"), np.ndarray)
