"""Which container a file is: by its first bytes, and by what lies beside it where these are only a preview's."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_MAGIC = b"\xff\xd8\xff"
HEAD_BYTES = 256  # that `container_of` looks at
TEXT_BYTES = 1 << 20  # of a slide's text file
ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # one of these makes a folder a Zarr
ZARR_METADATA = {*ZARR_MARKS, ".zmetadata"}


class Container(NamedTuple):
    """A kind of file other than a plain picture.

    Attributes
    ----------
    name : str
        For people, with its article.
    reader : str
        'tiff', 'openslide', 'czi', 'dicom', 'heif', 'lif' or 'nd2'; '' where nothing here reads it.
    remedy : str
        What a person can do with a file that nothing reads.
    """

    name: str
    reader: str
    remedy: str = "save it as PNG or TIFF"


TIFF = Container("a TIFF", "tiff")
MIRAX = Container("a MIRAX slide (.mrxs)", "openslide")
VSI = Container("an Olympus slide (.vsi)", "", "export it as OME-TIFF")
READABLE = {
    rb"\[(Uncompressed )?Virtual Microscope Specimen\]": Container("a Hamamatsu slide (.vms, .vmu)", "openslide"),
    rb".{128}DICM": Container("a DICOM file", "dicom"),
    rb"SQLite format 3\0": Container("a Sakura slide (.svslide)", "openslide"),
    rb"ZISRAWFILE\0": Container("a Zeiss slide (.czi)", "czi"),
    rb"\x70\0\0\0.{4}\x2a": Container("a Leica LIF file", "lif"),
    rb"\xda\xce\xbe\x0a": Container("a Nikon ND2 file", "nd2"),
}
HEIF = Container("a HEIF photograph", "heif")
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
AVIF_BRANDS = {b"avif", b"avis"}
CONVERT = "save it as 8-bit RGB TIFF in the microscope's program, or as OME-Zarr by bioformats2raw"
CONVERTED = {
    rb"OLYMPUSRAWFORMAT": Container("an Olympus OIR file", "", CONVERT),
}
UNREADABLE = {
    rb"<DataObject ObjectType=\"DPUfsImport\"": "a Philips iSyntax slide",
    rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51": "a JPEG 2000 picture",
    rb"\0\0\0\x0cJXL \r\n|\xff\x0a": "a JPEG XL picture",
    rb"GIF8[79]a": "a GIF picture",
    rb"%PDF-": "a PDF",
}


def _slide_with(jpeg: Path) -> str | None:
    """The name of the slide that `jpeg` is a part of."""
    try:
        return _slide_parts(jpeg.parent, jpeg.parent.stat().st_mtime_ns).get(jpeg.name)
    except OSError:  # a folder whose files may be read, but not listed
        return None


@lru_cache(maxsize=16)
def _slide_parts(folder: Path, _modified_ns: int) -> dict[str, str]:
    """The JPEGs in `folder` that Hamamatsu's text files name as parts of a slide, with that file's name. Read once a change."""
    parts: dict[str, str] = {}
    for slide in folder.iterdir():
        if slide.suffix.lower() in (".vms", ".vmu") and slide.is_file():
            words = slide.read_bytes()[:TEXT_BYTES].decode("utf-8", "replace")
            named = re.findall(r"^(?:ImageFile|MapFile|MacroImage)[^=\n]*=(.+?)\s*$", words, re.MULTILINE)
            parts.update(dict.fromkeys(named, slide.name))
    return parts


def container_of(path: Path, head: bytes) -> Container | None:
    """The container of the file `path` that begins with `head`; None of a plain picture, and of what nobody knows.

    A MIRAX slide is a folder beside a JPEG, an Olympus slide one beside a TIFF: both pictures show the slide in small. The
    JPEGs of one of Hamamatsu's kinds are parts of a slide.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs" or (path.with_suffix("") / "Slidedat.ini").is_file():
        return MIRAX
    if head.startswith(JPEG_MAGIC):
        owner = _slide_with(path)
        return Container(f"a part of the Hamamatsu slide '{owner}'", "", "examine that file") if owner else None
    if suffix == ".vsi" or (head.startswith(TIFF_MAGIC) and path.with_name(f"_{path.stem}_").is_dir()):
        return VSI
    if head.startswith(TIFF_MAGIC):
        return TIFF
    known = {**READABLE, **CONVERTED}
    found = next((kind for magic, kind in known.items() if re.match(magic, head, re.DOTALL)), None)
    name = next((name for magic, name in UNREADABLE.items() if re.match(magic, head, re.DOTALL)), None)
    return found or _by_brands(head) or (Container(name, "") if name else None)


def _by_brands(head: bytes) -> Container | None:
    """What a file in the ISO base media format holds: by all brands of its first box, since the first may be a general one."""
    if head[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))}
    if brands & AVIF_BRANDS:
        return Container("an AVIF photograph", "")
    return HEIF if brands & (HEIF_BRANDS | {b"mif1", b"msf1"}) else None


def is_zarr(folder: Path) -> bool:
    """Whether `folder` is a Zarr, whatever is in it."""
    try:
        return any((folder / mark).is_file() for mark in ZARR_MARKS)
    except PermissionError:
        return False
