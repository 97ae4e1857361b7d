"""Slides as scanners write them, drawn, with the pixels that must come out."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from stream_layouts import HEIGHT, PLAIN, SIDE, SMOOTH, WIDTH

COLUMNS, ROWS, TILE, OVERLAP = 4, 3, 128, 44
FIELD = np.random.default_rng(8).integers(
    0, 256, (ROWS * TILE - (ROWS - 1) * OVERLAP, COLUMNS * TILE - (COLUMNS - 1) * OVERLAP, 3), np.uint8
)
APERIO = (
    f"Aperio Image Library v12.0.15\r\n{WIDTH}x{HEIGHT} [0,0 {WIDTH}x{HEIGHT}] (64x64) JPEG/RGB Q=90|AppMag = 40|MPP = 0,2500"
)


def overlapping() -> NDArray[np.uint8]:
    """The tiles of `FIELD` side by side, as they stand in the file."""
    stored = np.zeros((ROWS * TILE, COLUMNS * TILE, 3), np.uint8)
    for row in range(ROWS):
        for column in range(COLUMNS):
            y, x = row * (TILE - OVERLAP), column * (TILE - OVERLAP)
            stored[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = FIELD[y : y + TILE, x : x + TILE]
    return stored


def trestle(path: Path) -> NDArray[np.uint8]:
    words = f"Background Color=FFFFFF;OverlapsXY= {OVERLAP} {OVERLAP};Objective Power=40;"
    options: dict[str, Any] = {
        "resolution": ((1, 4), (1, 4)),
        "resolutionunit": "NONE",
        "software": "MedScan",
        "metadata": None,
    }
    tifffile.imwrite(path, overlapping(), tile=(TILE, TILE), photometric="rgb", description=words, **options)
    return FIELD


def ventana(path: Path) -> NDArray[np.uint8]:
    def number(column: int, row: int) -> int:
        """Tiles are counted from below, in turns."""
        up = ROWS - 1 - row
        return up * COLUMNS + (column if up % 2 == 0 else COLUMNS - 1 - column) + 1

    def joint(direction: str, one: tuple[int, int], other: tuple[int, int], overlap: tuple[int, int]) -> str:
        tiles = f'Tile1="{number(*one)}" Tile2="{number(*other)}" OverlapX="{overlap[0]}" OverlapY="{overlap[1]}"'
        return f'<TileJointInfo FlagJoined="1" Confidence="99" Direction="{direction}" {tiles}/>'

    across = [joint("RIGHT", (x, y), (x + 1, y), (OVERLAP, 0)) for y in range(ROWS) for x in range(COLUMNS - 1)]
    down = [joint("UP", (x, y + 1), (x, y), (0, OVERLAP)) for y in range(ROWS - 1) for x in range(COLUMNS)]
    image = (
        f'AOIScanned="1" AOIIndex="0" Width="{TILE}" Height="{TILE}" NumRows="{ROWS}" NumCols="{COLUMNS}" Pos-X="0" Pos-Y="0"'
    )
    stitching = f"<SlideStitchInfo><ImageInfo {image}>{''.join(across + down)}</ImageInfo></SlideStitchInfo>"
    xml = f'<EncodeInfo Ver="2">{stitching}<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'.encode()
    first = b'<Metadata><iScan Magnification="40" ScanRes="0.25" UnitNumber="1"/></Metadata>'
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "software": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        label = np.full((200, 100, 3), 255, np.uint8)
        tiff.write(label, description="Label Image", extratags=[(700, 1, len(first), first, True)], rowsperstrip=200, **options)
        words = "level=0 mag=40 quality=100"
        tags = [(700, 1, len(xml), xml, True)]
        tiff.write(overlapping(), tile=(TILE, TILE), description=words, extratags=tags, **options)
    return FIELD


def leica(path: Path) -> NDArray[np.uint8]:
    """Two areas of a slide, whose common bounds are less than the whole."""

    def image(name: str, ifd: int, place: tuple[int, int], size: tuple[int, int], step: int, objective: float) -> str:
        sides = f'sizeX="{size[0]}" sizeY="{size[1]}"'
        view = f'sizeX="{size[0] * step}" sizeY="{size[1] * step}" offsetX="{place[0] * step}" offsetY="{place[1] * step}"'
        return (
            f'<image name="{name}"><creationDate>2020-01-01T00:00:00Z</creationDate><device model="m" version="1"/>'
            f'<pixels {sides}><dimension {sides} r="0" ifd="{ifd}"/></pixels><view {view} spacingZ="0"/><scanSettings>'
            f"<objectiveSettings><objective>{objective}</objective></objectiveSettings><illuminationSettings>"
            "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    images = [image("a", 0, (300, 400), (WIDTH, HEIGHT), 250, 40), image("b", 1, (600, 700), (WIDTH, HEIGHT), 250, 40)]
    images.append(image("macro", 2, (0, 0), (100, 150), 2500, 0.6))
    collection = f'<collection name="c" sizeX="{1000 * 250}" sizeY="{1500 * 250}">{"".join(images)}</collection>'
    words = f'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">{collection}</scn>'
    options: dict[str, Any] = {"photometric": "rgb", "tile": (SIDE, SIDE), "metadata": None}
    scale: dict[str, Any] = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(PLAIN, description=words, **options, **scale)
        tiff.write(PLAIN[::-1].copy(), **options, **scale)
        tiff.write(np.full((150, 100, 3), 200, np.uint8), **options)
    shown = np.full((300 + HEIGHT, 300 + WIDTH, 3), 255, np.uint8)
    shown[:HEIGHT, :WIDTH], shown[300:, 300:] = PLAIN, PLAIN[::-1]
    return shown


def aperio(path: Path) -> NDArray[np.uint8]:
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "software": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(PLAIN, tile=(SIDE, SIDE), description=APERIO, compression="deflate", **options)
        tiff.write(PLAIN[::4, ::4].copy(), description=APERIO, **options)
        tiff.write(PLAIN[::2, ::2].copy(), tile=(SIDE, SIDE), description=APERIO, **options)
        tiff.write(PLAIN[:40, :50].copy(), subfiletype=1, description="Aperio\r\nlabel 50x40", **options)
    return PLAIN


def philips(path: Path) -> NDArray[np.uint8]:
    """Most of it left out, as this scanner does where it sees only glass."""
    words = '<Attribute Name="{0}" Group="0x0028" Element="0x0030" PMSVR="{1}">{2}</Attribute>'
    spacing = words.format("DICOM_PIXEL_SPACING", "IDoubleArray", "&quot;0.00025&quot; &quot;0.00025&quot;")
    level = f'<Array><DataObject ObjectType="PixelDataRepresentation">{spacing}</DataObject></Array>'
    levels = words.format("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "IDataObjectArray", level)
    kind = words.format("PIM_DP_IMAGE_TYPE", "IString", "WSI")
    image = f'<Array><DataObject ObjectType="DPScannedImage">{kind}{spacing}{levels}</DataObject></Array>'
    images = words.format("PIM_DP_SCANNED_IMAGES", "IDataObjectArray", image)
    xml = f'<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">{images}</DataObject>'
    shown = np.full((5 * SIDE, 6 * SIDE, 3), 255, np.uint8)
    shown[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = PLAIN[:SIDE, :SIDE]
    pieces = [shown[y : y + SIDE, x : x + SIDE] for y in range(0, 5 * SIDE, SIDE) for x in range(0, 6 * SIDE, SIDE)]
    encoded = [b"" if (piece == 255).all() else zlib.compress(piece.tobytes()) for piece in pieces]
    options: dict[str, Any] = {"photometric": "rgb", "tile": (SIDE, SIDE), "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(iter(encoded), shape=shown.shape, dtype=np.uint8, description=xml, software="Philips DP v1.0", **options)
    return shown


def hamamatsu_vms(path: Path) -> NDArray[np.uint8]:
    """A text that names JPEGs beside it."""
    pixels = np.asarray(cv2.resize(SMOOTH, (640, 480)), np.uint8)
    options: dict[str, Any] = {"quality": 95, "subsampling": 0}
    Image.fromarray(pixels).save(path.with_name("image.jpg"), "JPEG", restart_marker_blocks=20, **options)
    Image.fromarray(pixels[::8, ::8].copy()).save(path.with_name("map.jpg"), "JPEG", restart_marker_blocks=10, **options)
    sizes = "NoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nPhysicalWidth=160000\nPhysicalHeight=120000\nSourceLens=40\n"
    places = "XOffsetFromSlideCentre=0\nYOffsetFromSlideCentre=0\nImageFile=image.jpg\nMapFile=map.jpg\nMacroImage=map.jpg\n"
    path.write_text(f"[Virtual Microscope Specimen]\n{sizes}{places}", encoding="utf-8")
    return pixels
