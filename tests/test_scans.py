"""Frames and scans are read piece by piece and exactly, or refused with a reason."""

from __future__ import annotations

import contextlib
import io
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from blastscope.runtime.errors import DataError, MissingLibrary
from blastscope.runtime.frames.pieces import Unreadable
from blastscope.runtime.frames.scans import ArrayScan, Scan, find_frames, open_scan, overview, read_part
from blastscope.runtime.prediction import Refusal

HEIGHT, WIDTH, SIDE = 150, 210, 64
PLAIN = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
SMOOTH = np.asarray(cv2.resize(PLAIN[:6, :8], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)  # JPEG likes it

Writer = Callable[[Path], NDArray[np.uint8]]  # writes a file, gives the pixels that must be read


def by_tifffile(**options: Any) -> Writer:
    def write(path: Path) -> NDArray[np.uint8]:
        pixels = PLAIN.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else PLAIN
        tifffile.imwrite(path, pixels, photometric="rgb", **options)
        return PLAIN

    return write


def by_pillow(compression: str, **options: Any) -> Writer:
    def write(path: Path) -> NDArray[np.uint8]:
        Image.fromarray(SMOOTH).save(path, "TIFF", compression=compression, **options)
        with Image.open(path) as image:
            return np.asarray(image)

    return write


def tiles(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The tiles of an image, the last ones padded by their edges."""
    down, across = -(-HEIGHT // SIDE) * SIDE - HEIGHT, -(-WIDTH // SIDE) * SIDE - WIDTH
    padded = np.pad(pixels, ((0, down), (0, across), (0, 0)), "edge")
    return [padded[y : y + SIDE, x : x + SIDE] for y in range(0, HEIGHT, SIDE) for x in range(0, WIDTH, SIDE)]


def jpeg_tiles(*, ycbcr: bool) -> Writer:
    """As slide scanners write them; RGB without a colour transform is Aperio's."""

    def write(path: Path) -> NDArray[np.uint8]:
        encoded, decoded = [], []
        for tile in tiles(SMOOTH):
            buffer = io.BytesIO()
            Image.fromarray(tile).save(buffer, "JPEG", quality=90, keep_rgb=not ycbcr)
            encoded.append(without_app(buffer.getvalue()))
            decoded.append(np.asarray(Image.open(buffer)))
        write_tiles(path, encoded, compression=7, photometric=6 if ycbcr else 2)
        rows = [np.concatenate(decoded[at : at + 4], axis=1) for at in range(0, len(decoded), 4)]
        return np.concatenate(rows)[:HEIGHT, :WIDTH]

    return write


def lossless_tiles(name: str, compression: int, **options: Any) -> Writer:
    """Tiles as images of their own that keep every bit."""

    def write(path: Path) -> NDArray[np.uint8]:
        encoded = []
        for tile in tiles(PLAIN):
            buffer = io.BytesIO()
            Image.fromarray(tile).save(buffer, name, **options)
            encoded.append(buffer.getvalue())
        write_tiles(path, encoded, compression=compression)
        return PLAIN

    return write


def without_app(jpeg: bytes) -> bytes:
    """A JPEG that doesn't say what its three components are, as it stands in a TIFF."""
    kept, at = [jpeg[:2]], 2
    while jpeg[at + 1] != 0xDA:
        length = 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        kept += [jpeg[at : at + length]] * (jpeg[at + 1] not in (0xE0, 0xEE))
        at += length
    return b"".join([*kept, jpeg[at:]])


def write_tiles(path: Path, encoded: list[bytes], *, compression: int, photometric: int = 2) -> None:
    """tifffile wants a codec at hand even for bytes that are encoded already: so the tags are changed afterwards."""
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (SIDE, SIDE), "compression": "deflate"}
        tiff.write(iter(encoded), shape=(HEIGHT, WIDTH, 3), dtype=np.uint8, **options)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[259].overwrite(compression)
        tiff.pages.first.tags[262].overwrite(photometric)


def pyramid(path: Path) -> NDArray[np.uint8]:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(PLAIN, photometric="rgb", tile=(SIDE, SIDE), subifds=1)
        tiff.write(PLAIN[::2, ::2], photometric="rgb", tile=(SIDE, SIDE), subfiletype=1)
    return PLAIN


def ome(path: Path) -> NDArray[np.uint8]:
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "\u00b5m"}
    tifffile.imwrite(path, PLAIN, photometric="rgb", ome=True, metadata={"axes": "YXS", **sizes})
    return PLAIN


def ome_zarr(version: int) -> Writer:
    def write(path: Path) -> NDArray[np.uint8]:
        group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == 5 else 2)
        full = group.create_array("0", shape=(1, 3, 1, HEIGHT, WIDTH), chunks=(1, 1, 1, SIDE, SIDE), dtype="uint8")
        full[0, :, 0] = PLAIN.transpose(2, 0, 1)
        half = group.create_array("1", shape=(1, 3, 1, HEIGHT // 2, WIDTH // 2), chunks=(1, 3, 1, SIDE, SIDE), dtype="uint8")
        half[0, :, 0] = PLAIN[: HEIGHT // 2 * 2 : 2, : WIDTH // 2 * 2 : 2].transpose(2, 0, 1)
        group.attrs.update(describe(version))
        return PLAIN

    return write


def describe(version: int) -> dict[str, Any]:
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *space]
    levels = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1, 0.25 * step, 0.25 * step]}]}
        for level, step in enumerate((1, 2))
    ]
    image = {"multiscales": [{"axes": axes, "datasets": levels}]}
    return {"ome": {"version": "0.5", **image}} if version == 5 else image


LAYOUTS: dict[str, tuple[str, Writer]] = {
    "raw strips": ("a.tif", by_tifffile(rowsperstrip=7)),
    "one raw strip": ("a.tif", by_tifffile()),
    "raw tiles": ("a.tif", by_tifffile(tile=(SIDE, SIDE))),
    "colours apart": ("a.tif", by_tifffile(planarconfig="separate", rowsperstrip=32)),
    "colours apart in tiles": ("a.tif", by_tifffile(planarconfig="separate", tile=(SIDE, SIDE), compression="deflate")),
    "deflate with a predictor": ("a.tif", by_tifffile(tile=(SIDE, SIDE), compression="deflate", predictor=True)),
    "big endian BigTIFF": ("a.tif", by_tifffile(tile=(SIDE, SIDE), bigtiff=True, byteorder=">", compression="deflate")),
    "LZW": ("a.tif", by_pillow("tiff_lzw")),
    "LZW with a predictor": ("a.tif", by_pillow("tiff_lzw", tiffinfo={317: 2})),
    "Zstandard": ("a.tif", by_pillow("zstd")),
    "packbits": ("a.tif", by_pillow("packbits")),
    "JPEG strips with shared tables": ("a.tif", by_pillow("jpeg")),
    "JPEG tiles of YCbCr": ("a.svs", jpeg_tiles(ycbcr=True)),
    "JPEG tiles of RGB": ("a.svs", jpeg_tiles(ycbcr=False)),
    "JPEG 2000 tiles": ("a.svs", lossless_tiles("JPEG2000", 33005, no_jp2=True)),
    "WebP tiles": ("a.tif", lossless_tiles("WEBP", 50001, lossless=True)),
    "LZMA": ("a.tif", by_tifffile(tile=(SIDE, SIDE), compression="lzma")),
    "a pyramid": ("a.tif", pyramid),
    "OME-TIFF": ("a.ome.tif", ome),
    "OME-Zarr 0.4": ("a.zarr", ome_zarr(4)),
    "OME-Zarr 0.5": ("a.ome.zarr", ome_zarr(5)),
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Scan, NDArray[np.uint8]]]]:
    """Every layout, open, with what it must give."""
    opened = {}
    for number, (name, (file, write)) in enumerate(LAYOUTS.items()):
        path = tmp_path_factory.mktemp(f"layout{number}") / file
        pixels = write(path)
        scan = open_scan(path)
        assert not isinstance(scan, Refusal), f"{name}: {scan}"
        opened[name] = scan, pixels
    yield opened
    for scan, _ in opened.values():
        scan.close()


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scan_read_whole_is_what_was_written(scans: dict[str, tuple[Scan, NDArray[np.uint8]]], layout: str) -> None:
    scan, pixels = scans[layout]
    assert (scan.width, scan.height) == (WIDTH, HEIGHT)
    assert np.array_equal(read_part(scan, (0, 0, WIDTH, HEIGHT)), pixels)


@settings(max_examples=60, phases=[Phase.generate])
@given(st.sampled_from(sorted(LAYOUTS)), st.data())
def test_any_part_is_that_part_of_the_whole(scans: dict[str, tuple[Scan, NDArray[np.uint8]]], layout: str, data: Any) -> None:
    scan, pixels = scans[layout]
    x0, y0 = data.draw(st.integers(0, WIDTH - 1)), data.draw(st.integers(0, HEIGHT - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, WIDTH)), data.draw(st.integers(y0 + 1, HEIGHT))
    assert np.array_equal(read_part(scan, (x0, y0, x1, y1)), pixels[y0:y1, x0:x1])


def test_an_overview_takes_a_smaller_copy_where_there_is_one(scans: dict[str, tuple[Scan, NDArray[np.uint8]]]) -> None:
    for layout in ("a pyramid", "OME-Zarr 0.4"):
        scan = scans[layout][0]
        assert np.array_equal(overview(scan, WIDTH // 2), PLAIN[: HEIGHT // 2 * 2 : 2, ::2])
        assert len(scan.reduced) == 1
    assert overview(scans["raw strips"][0], 70).shape == (50, 70, 3)
    assert np.array_equal(overview(ArrayScan(PLAIN), 10_000), PLAIN)


@pytest.mark.parametrize(
    ("layout", "note"),
    [
        ("OME-TIFF", "0.25 micrometres a pixel by OME-XML"),
        ("OME-Zarr 0.4", "0.25 micrometres a pixel by OME-Zarr"),
        ("OME-Zarr 0.5", "0.25 micrometres a pixel by OME-Zarr"),
    ],
)
def test_the_scale_is_read_where_the_file_says_it(
    scans: dict[str, tuple[Scan, NDArray[np.uint8]]], layout: str, note: str
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
    ],
)
def test_resolution_tags_count_where_they_can_be_a_microscopes(
    tmp_path: Path, options: dict[str, Any], pixel_um: float | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLAIN, photometric="rgb", **options)
    scan = open_scan(tmp_path / "a.tif")
    assert not isinstance(scan, Refusal)
    scan.close()
    assert scan.pixel_um == (pytest.approx(pixel_um) if pixel_um else None)
    assert ("not square" in " ".join(scan.notes)) == (options.get("resolution") == (40_000, 20_000))


def test_of_several_pages_the_one_that_was_read_is_stated(scans: dict[str, tuple[Scan, NDArray[np.uint8]]]) -> None:
    assert scans["a pyramid"][0].notes == (f"read: page 1 of 1 with 1 smaller copy of it, {WIDTH} x {HEIGHT} pixels",)
    assert scans["raw strips"][0].notes == ()


def test_a_thumbnail_beside_the_slide_is_no_second_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        tiff.write(PLAIN, photometric="rgb", tile=(SIDE, SIDE))
        tiff.write(PLAIN[:40, :50], photometric="rgb", subfiletype=1)
    scan = open_scan(tmp_path / "a.svs")
    assert not isinstance(scan, Refusal)
    assert np.array_equal(read_part(scan, (0, 0, WIDTH, HEIGHT)), PLAIN)
    scan.close()
    assert scan.notes == (f"read: page 1 of 2, {WIDTH} x {HEIGHT} pixels",)


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


ALPHA = np.dstack([PLAIN, PLAIN[..., :1]])
REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a stack": (tiff_of(np.stack([PLAIN] * 3), photometric="rgb"), "undecodable", "3 pages"),
    "two images": (two_pages, "undecodable", "2 images"),
    "16 bits": (tiff_of(PLAIN.astype(np.uint16), photometric="rgb"), "not-8-bit-rgb", "16-bit RGB"),
    "gray": (tiff_of(PLAIN[..., 0], photometric="minisblack"), "not-8-bit-rgb", "gray"),
    "alpha": (tiff_of(ALPHA, photometric="rgb", extrasamples=[2]), "not-8-bit-rgb", "an extra channel"),
    "one compressed piece": (huge, "bomb", "save it in tiles"),
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
    refusal = open_scan(tmp_path / "a.tif")
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
    scan = open_scan(tmp_path / "a.tif")
    assert not isinstance(scan, Refusal)
    assert read_part(scan, (0, 0, SIDE, SIDE)).shape == (SIDE, SIDE, 3)  # another piece is whole
    with pytest.raises(Unreadable, match="a piece of the scan is damaged"):
        read_part(scan, (SIDE, SIDE, 2 * SIDE, 2 * SIDE))
    scan.close()


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
        scan = open_scan(path)
        if isinstance(scan, Refusal):
            return
        with contextlib.suppress(Unreadable):
            read_part(scan, (0, 0, min(scan.width, 300), min(scan.height, 300)))
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
    refusal = open_scan(tmp_path / "a.zarr")
    assert isinstance(refusal, Refusal)
    assert words in refusal.detail


def test_without_zarr_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ome_zarr(4)(tmp_path / "a.zarr")
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(MissingLibrary, match=r"blastscope\[zarr\]"):
        open_scan(tmp_path / "a.zarr")


def test_folders_give_the_frames_below_them_and_a_zarr_is_one(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.svs", "a.png", "notes.txt", ".hidden.png", "deep/c.JPG"):
        (tmp_path / name).touch()
    ome_zarr(5)(tmp_path / "deep" / "s.zarr")
    found = [tmp_path / name for name in ("a.png", "b.svs", "deep/c.JPG", "deep/s.zarr")]
    assert find_frames([tmp_path]) == found
    assert find_frames([tmp_path / "nowhere.png", found[3]]) == [tmp_path / "nowhere.png", found[3]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no frame"):
        find_frames([tmp_path / "empty"])
