"""Readers of pictures: valid pictures, TIFFs and OME-Zarrs, and what reads them."""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from leica_file import write_lif
from nikon_file import write_nd2
from numpy.typing import NDArray

from blastscope import synthetic_cell
from blastscope.runtime.io.image import load_pixels
from blastscope.runtime.io.slides.slide import open_slide, read_region
from blastscope.runtime.io.slides.tiff_codec import ReadError
from blastscope.runtime.types import Refusal

SIDE = 96
OME_ID = "urn:uuid:00000000-0000-4000-8000-000000000000"  # a chance one would make other inputs of the same seed
PIECE_HEADER = struct.Struct("<BI")


def _pixels(seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    return np.ascontiguousarray(synthetic_cell(seed=seed)[:side, :side])


def image_seeds(folder: Path) -> list[bytes]:
    """Pictures of every kind that is read, and some that are refused."""
    from PIL import Image

    picture, found = Image.fromarray(_pixels()), []
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("PNG", {}),
        ("BMP", {}),
        ("JPEG", {"quality": 90, "exif": exif}),
        ("JPEG", {"progressive": True, "restart_marker_blocks": 2}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 60}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "packbits"}),
        ("JPEG2000", {}),
    )
    for kind, options in ways:
        content = io.BytesIO()
        picture.save(content, kind, **options)
        found.append(content.getvalue())
    for mode in ("RGBA", "P", "L", "I;16"):
        content = io.BytesIO()
        (picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)).save(content, "PNG")
        found.append(content.getvalue())
    return found


def image(folder: Path) -> Callable[[bytes], None]:
    """Decodes pictures."""

    def read(data: bytes) -> None:
        load_pixels(data)

    return read


def tiff_seeds(folder: Path) -> list[bytes]:
    """TIFFs in tiles, strips and planes, and a pyramid."""
    import tifffile

    ways: tuple[dict[str, Any], ...] = (
        {"tile": (32, 32), "compression": "jpeg"},
        {"tile": (32, 32), "compression": "deflate", "predictor": True},
        {"tile": (32, 32), "compression": "zstd"},
        {"rowsperstrip": 20, "compression": "lzw"},
        {"rowsperstrip": 7, "resolution": (4000, 4000), "resolutionunit": 3},
        {"planarconfig": "separate", "tile": (48, 48)},
        {"compression": "webp", "tile": (64, 64)},
    )
    found = []
    for way in ways:
        content, way = io.BytesIO(), dict(way)
        pixels = _pixels()
        if way.get("planarconfig"):
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        tifffile.imwrite(content, pixels, photometric="rgb", **way)
        found.append(content.getvalue())
    content = io.BytesIO()
    with tifffile.TiffWriter(content, bigtiff=True, ome=True) as tiff:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (32, 32)}
        tiff.write(_pixels(), subifds=1, metadata={"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "UUID": OME_ID}, **options)
        tiff.write(_pixels()[::2, ::2], subfiletype=1, **options)
    return [*found, content.getvalue()]


def tiff(folder: Path) -> Callable[[bytes], None]:
    """Reads scans in TIFF."""
    path = folder / "a.tif"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        _read_slide(path)

    return read


def _read_slide(path: Path) -> None:
    """All of a slide that is small, and the corners of one that is not."""
    slide = open_slide(path)
    if isinstance(slide, Refusal):
        return
    try:
        for level in (slide, *slide.reduced):
            for x, y in ((0, 0), (max(level.width - 100, 0), max(level.height - 100, 0))):
                box = (x, y, min(x + 100, level.width), min(y + 100, level.height))
                with suppress(ReadError):
                    pixels = read_region(level, box)
                    if pixels.shape != (box[3] - box[1], box[2] - box[0], 3) or pixels.dtype != np.uint8:
                        raise AssertionError(f"{pixels.shape} {pixels.dtype} of the box {box}")
        slide.blank((0, 0, 1, 1))
    finally:
        slide.close()


def zarr_seeds(folder: Path) -> list[bytes]:
    """OME-Zarrs of both formats, each packed into one input."""
    import numcodecs
    import zarr

    found = []
    for version, codec in ((2, numcodecs.Blosc("zstd")), (2, None), (3, zarr.codecs.GzipCodec())):
        place = folder / f"seed-{len(found)}.zarr"
        group = zarr.open_group(str(place), mode="w", zarr_format=version)
        array = group.create_array("0", shape=(3, SIDE, SIDE), chunks=(3, 64, 64), dtype="uint8", compressors=codec)
        array[...] = _pixels().transpose(2, 0, 1)
        axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
        scale = [{"type": "scale", "scale": [1, 0.25, 0.25]}]
        image = {"multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]}
        group.attrs.update({"ome": image} if version == 3 else image)
        found.append(_packed(place))
    return found


def _packed(folder: Path) -> bytes:
    """The files of a folder in one input: for each its number in `NAMES`, its length, its bytes."""
    pieces = []
    for number, name in enumerate(NAMES):
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            pieces.append(PIECE_HEADER.pack(number, len(content)) + content)
    return b"".join(pieces)


NAMES = (
    *(".zgroup", ".zattrs", "zarr.json", "0/.zarray", "0/zarr.json"),
    *(f"0/0.{y}.{x}" for y in range(2) for x in range(2)),
    *(f"0/c/0/{y}/{x}" for y in range(2) for x in range(2)),
)


def zarr(folder: Path) -> Callable[[bytes], None]:
    """Reads scans in OME-Zarr."""
    place = folder / "a.zarr"

    def read(data: bytes) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        while len(data) >= PIECE_HEADER.size:
            number, size = PIECE_HEADER.unpack_from(data)
            name = place / NAMES[number % len(NAMES)]
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(data[PIECE_HEADER.size :][:size])
            data = data[PIECE_HEADER.size + size :]
        _read_slide(place)

    return read


def lif_seeds(folder: Path) -> list[bytes]:
    """Leica LIF files of a colour picture, in both versions and three orders, and one of two pictures."""
    pixels = _pixels(side=24)
    ways: tuple[tuple[int, list[dict[str, Any]]], ...] = (
        (2, [{"pixels": pixels}]),
        (1, [{"pixels": pixels, "order": "BGR", "row_bytes": 80}]),
        (2, [{"pixels": pixels, "order": "planes"}]),
        (2, [{"pixels": pixels}, {"pixels": pixels}]),
    )
    return [write_lif(folder / "seed.lif", *pictures, version=version).read_bytes() for version, pictures in ways]


def lif(folder: Path) -> Callable[[bytes], None]:
    """Reads Leica LIF files."""
    path = folder / "a.lif"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        _read_slide(path)

    return read


def nd2_seeds(folder: Path) -> list[bytes]:
    """Nikon ND2 files of a colour picture, as it is and deflated, and one of two pictures."""
    ways: tuple[dict[str, Any], ...] = ({}, {"deflated": True}, {"zipped_tree": True, "row_bytes": 80}, {"pictures": 2})
    return [write_nd2(folder / "seed.nd2", _pixels(side=24), **words).read_bytes() for words in ways]


def nd2(folder: Path) -> Callable[[bytes], None]:
    """Reads Nikon ND2 files."""
    path = folder / "a.nd2"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        _read_slide(path)

    return read
