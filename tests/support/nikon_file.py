"""Nikon ND2 files of given pixels, as NIS-Elements lays them out: chunks, and at the end a map of them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC, ALIGNED, BEFORE_PIXELS = 0x0ABECEDA, 4096, 4072  # letters of a picture's name, so that pixels begin at a whole page
SIGNATURE, MAP_NAME = b"ND2 FILE SIGNATURE CHUNK NAME01!", b"ND2 FILEMAP SIGNATURE NAME 0001!"
MAP_END = b"ND2 CHUNK MAP SIGNATURE 0000001!"


def write_nd2(
    path: Path,
    pixels: NDArray[Any],
    *,
    pictures: int = 1,
    um: float = 0.2,
    calibrated: bool = True,
    deflated: bool = False,
    row_bytes: int = 0,
    planes: int = 1,
    zipped_tree: bool = False,
    version: bytes = b"Ver3.0",
    **claimed: Any,
) -> Path:
    """Writes pixels (H, W, C) RGB, `pictures` times; `claimed` are attributes that say something else."""
    height, width, count = pixels.shape
    row = row_bytes or width * count * pixels.itemsize
    stored = np.zeros((height, row), np.uint8)
    own = np.ascontiguousarray(pixels[..., ::-1]).view(np.uint8).reshape(height, -1)
    stored[:, : own.shape[1]] = own
    bits = pixels.itemsize * 8
    said = {
        "uiWidth": width,
        "uiWidthBytes": row,
        "uiHeight": height,
        "uiComp": count,
        "uiBpcInMemory": bits,
        "uiBpcSignificant": bits,
        "uiSequenceCount": pictures,
        "uiTileWidth": width,
        "uiTileHeight": height,
        "eCompression": 0 if deflated else 2,
        "dCompressionParam": -1.0,
        "ePixelType": 1,
        "uiVirtualComponents": count,
    } | claimed
    probe = {"m_ExcitationSpectrum": {"uiCount": 0}}
    plane = {"uiCompCount": count // planes, "sDescription": "Brightfield", "uiColor": 0xFFFFFF, "pFluorescentProbe": probe}
    seen = {
        "dTimeMSec": 0.0,
        "bCalibrated": calibrated,
        "dCalibration": um,
        "sPicturePlanes": {
            "uiCount": planes,
            "uiCompCount": count,
            "sPlaneNew": {f"a{number}": plane for number in range(planes)},
            "pNothing": b"\1\2\3",
        },
    }
    content = zlib.compress(stored.tobytes()) if deflated else stored.tobytes()
    chunks = {
        b"ImageAttributesLV!": tree({"SLxImageAttributes": said}, zipped=zipped_tree),
        b"ImageMetadataSeqLV|0!": tree({"SLxPictureMetadata": seen}, zipped=zipped_tree),
    }
    chunks[b"ImageCalibrationLV|0!"] = tree({"SLxCalibration": {"dCalibration": um}})
    chunks |= {b"ImageDataSeq|%d!" % number: struct.pack("<d", number) + content for number in range(pictures)}
    return write_chunks(path, chunks, version=version)


def write_chunks(
    path: Path, chunks: dict[bytes, bytes], *, version: bytes = b"Ver3.0", places: dict[bytes, int] | None = None
) -> Path:
    """Writes chunks and the map that tells where they lie, or where `places` says."""
    parts, told = [_chunk(SIGNATURE, version.ljust(64, b"\0"), len(SIGNATURE))], {}
    size = len(parts[0])
    for name, content in chunks.items():
        parts.append(b"\0" * (-size % ALIGNED))
        size += len(parts[-1])
        told[name] = (size, len(content))
        letters = BEFORE_PIXELS if name.startswith(b"ImageDataSeq") else len(name) + 20
        parts.append(_chunk(name, content, letters))
        size += len(parts[-1])
    told |= {name: (place, told[name][1]) for name, place in (places or {}).items()}
    listed = b"".join(name + struct.pack("<QQ", *place) for name, place in told.items())
    parts.append(_chunk(MAP_NAME, listed + MAP_END + struct.pack("<Q", size), len(MAP_NAME)))
    path.write_bytes(b"".join(parts))
    return path


def _chunk(name: bytes, content: bytes, letters: int) -> bytes:
    return struct.pack("<IIQ", MAGIC, letters, len(content)) + name.ljust(letters, b"\0") + content


def tree(values: dict[str, Any], *, zipped: bool = False) -> bytes:
    """Values, levels of values among them, in the format's own coding."""
    content = b"".join(_value(name, value) for name, value in values.items())
    return bytes((76, 0)) + b"\0" * 10 + zlib.compress(content) if zipped else content


def _value(name: str, value: Any) -> bytes:
    kind, coded = _coded(value)
    head = struct.pack("<BB", kind, len(name) + 1) + (name + "\0").encode("utf-16-le")
    if kind != 11:
        return head + coded
    length = len(head) + 12 + len(coded)
    return head + struct.pack("<IQ", len(value), length) + coded + b"\0" * (8 * len(value))


def _coded(value: Any) -> tuple[int, bytes]:
    if isinstance(value, dict):
        return 11, tree(value)
    if isinstance(value, bool):
        return 1, struct.pack("<B", value)
    if isinstance(value, int):
        return 3, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<d", value)
    if isinstance(value, bytes):
        return 9, struct.pack("<Q", len(value)) + value
    return 8, (value + "\0").encode("utf-16-le")
