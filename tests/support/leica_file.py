"""Leica LIF files of given pixels, as the microscope's program lays them out: a description in XML, then a block a picture."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDERS = {"RGB": (1, 2, 3), "BGR": (3, 2, 1), "planes": (1, 2, 3)}
X, Y, Z = 1, 2, 3  # LIF's numbers of dimensions


def write_lif(path: Path, *pictures: dict[str, Any], version: int = 2) -> Path:
    """Writes pictures, each as the words of `picture`."""
    elements, blocks = zip(*[picture(number, **words) for number, words in enumerate(pictures)], strict=True)
    xml = (
        f'<LMSDataContainerHeader Version="{version}"><Element Name="project"><Data/><Memory Size="0" MemoryBlockID="M"/>'
        f"<Children>{''.join(elements)}</Children></Element></LMSDataContainerHeader>"
    )
    return write_blocks(path, xml, blocks, version)


def write_blocks(path: Path, xml: str, blocks: tuple[bytes, ...], version: int = 2) -> Path:
    """Writes a description and the blocks that it names."""
    letters = xml.encode("utf-16-le")
    parts = [struct.pack("<IIBI", 0x70, len(letters) + 5, 0x2A, len(xml)), letters]
    for number, block in enumerate(blocks):
        name = f"MemBlock_{number}"
        layout = "<IIBQBI" if version == 2 else "<IIBIBI"
        size = struct.calcsize(layout) - 8 + 2 * len(name)
        parts += [struct.pack(layout, 0x70, size, 0x2A, len(block), 0x2A, len(name)), name.encode("utf-16-le"), block]
    path.write_bytes(b"".join(parts))
    return path


def picture(
    number: int,
    pixels: NDArray[Any],
    *,
    um: float = 0.2,
    order: str = "RGB",
    row_bytes: int = 0,
    planes: int = 1,
    bits: int = 8,
    tags: tuple[int, ...] | None = None,
    claimed: tuple[int, int] | None = None,
) -> tuple[str, bytes]:
    """The element and the block of `pixels` (H, W, 3), whose rows begin each `row_bytes`."""
    height, width, count = pixels.shape
    item = pixels.itemsize
    tags = tags or ORDERS[order][:count]
    stored = pixels[..., ::-1] if order == "BGR" else pixels
    if order == "planes":
        across, down = item, width * item
        offsets = [channel * height * down for channel in range(count)]
        block = np.ascontiguousarray(stored.transpose(2, 0, 1)).tobytes()
    else:
        across, down = count * item, max(row_bytes, width * count * item)
        offsets = [channel * item for channel in range(count)]
        rows = np.zeros((height, down), np.uint8)
        rows[:, : width * count * item] = np.ascontiguousarray(stored).reshape(height, -1).view(np.uint8)
        block = rows.tobytes()
    channels = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="{tag}" Resolution="{bits}" NameOfMeasuredQuantity="" Min="0" Max="255" '
        f'Unit="" LUTName="Red" IsLUTInverted="0" BytesInc="{offset}" BitInc="0"/>'
        for tag, offset in zip(tags, offsets, strict=True)
    )
    wide, high = claimed or (width, height)
    sizes = [(X, wide, across), (Y, high, down)] + ([(Z, planes, len(block))] if planes > 1 else [])
    dimensions = "".join(
        f'<DimensionDescription DimID="{kind}" NumberOfElements="{count}" Origin="0" Length="{(count - 1) * um * 1e-6:.9e}" '
        f'Unit="m" BytesInc="{step}" BitInc="0"/>'
        for kind, count, step in sizes
    )
    element = (
        f'<Element Name="image {number}"><Data><Image><ImageDescription><Channels>{channels}</Channels>'
        f"<Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
        f'<Memory Size="{len(block) * planes}" MemoryBlockID="MemBlock_{number}"/></Element>'
    )
    return element, block * planes
