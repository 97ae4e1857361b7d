"""Scans in every layout that is read, with the pixels that must come out."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

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


def write_tiles(path: Path, encoded: list[bytes], *, compression: int, photometric: int = 2, **words: Any) -> None:
    """tifffile wants a codec at hand even for bytes that are encoded already: so the tags are changed afterwards."""
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (SIDE, SIDE), "compression": "deflate", **words}
        tiff.write(iter(encoded), shape=(HEIGHT, WIDTH, 3), dtype=np.uint8, **options)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[259].overwrite(compression)
        tiff.pages.first.tags[262].overwrite(photometric)


def ndpi(path: Path, *, restarts: bool = False, sized: bool = True) -> NDArray[np.uint8]:
    """As Hamamatsu's scanners write it: one JPEG whose restart intervals (65426) are places to begin at."""
    pixels = np.asarray(cv2.resize(SMOOTH, (640, 480)), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=1, restart_marker_blocks=20)
    jpeg = bytearray(buffer.getvalue())
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    begin = scan + 2 + struct.unpack_from(">H", jpeg, scan + 2)[0]
    marks = [at + 2 for at in range(begin, len(jpeg) - 1) if jpeg[at] == 0xFF and 0xD0 <= jpeg[at + 1] <= 0xD7]
    starts = [begin, *marks]
    if not sized:  # as where a side has more than 65,535 pixels
        jpeg[frame + 5 : frame + 9] = bytes(4)
    body, places = bytearray(struct.pack("<2sHQ", b"II", 42, 0)), {}  # offsets are of 64 bits, unlike a TIFF's
    values = {"jpeg": jpeg, "starts": struct.pack(f"<{len(starts)}I", *starts), "bits": struct.pack("<3H", 8, 8, 8)}
    for name, value in (
        *values.items(),
        ("scale", struct.pack("<2I", 40_000, 1)),
        ("make", b"Hamamatsu\0"),
        ("by", b"NDP.scan\0"),
    ):
        places[name] = len(body)
        body += value + bytes(len(value) % 2)
    tags = [(256, 4, 1, 640), (257, 4, 1, 480), (258, 3, 3, places["bits"]), (259, 3, 1, 7), (262, 3, 1, 6)]
    tags += [
        (271, 2, 10, places["make"]),
        (273, 4, 1, places["jpeg"]),
        (277, 3, 1, 3),
        (278, 4, 1, 480),
        (279, 4, 1, len(jpeg)),
    ]
    tags += [
        (282, 5, 1, places["scale"]),
        (283, 5, 1, places["scale"]),
        (284, 3, 1, 1),
        (296, 3, 1, 3),
        (305, 2, 9, places["by"]),
    ]
    tags += [(65420, 4, 1, 1), (65421, 11, 1, struct.unpack("<I", struct.pack("<f", 40))[0]), (65424, 9, 1, 0)]
    tags += [(65426, 4, len(starts), places["starts"])] * restarts
    body[4:12] = struct.pack("<Q", len(body))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(body + directory + bytes(8 + 4 * len(tags)))
    return pixels


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
    "LZW in small strips": ("a.tif", by_pillow("tiff_lzw", tiffinfo={278: 7, 317: 2})),
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
