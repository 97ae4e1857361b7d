"""Which container a file is: by its first bytes, and by what lies beside it where these are only a preview's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEAD_BYTES = 256  # that `container_of` looks at
UNREAD = "which isn't read here"


class Container(NamedTuple):
    """A kind of file other than a plain picture."""

    name: str  # for people, with its article
    reader: str  # "tiff", "openslide", or "" where nothing here reads it
    remedy: str = "save it as PNG or TIFF"


TIFF = Container("a TIFF", "tiff")
MIRAX = Container("a MIRAX slide (.mrxs)", "openslide")
VSI = Container("an Olympus slide (.vsi)", "", "export it as OME-TIFF")
BY_OPENSLIDE = {
    rb"\[(Uncompressed )?Virtual Microscope Specimen\]": "a Hamamatsu slide (.vms, .vmu)",
    rb".{128}DICM": "a DICOM file",
    rb"SQLite format 3\0": "a Sakura slide (.svslide)",
    rb"ZISRAWFILE\0": "a Zeiss slide (.czi)",
}
UNREADABLE = {
    rb"\xda\xce\xbe\x0a": "a Nikon ND2 file",
    rb"\x70\0\0\0.{4}\x2a": "a Leica LIF file",
    rb"OLYMPUSRAWFORMAT": "an Olympus OIR file",
    rb"<DataObject ObjectType=\"DPUfsImport\"": "a Philips iSyntax slide",
    rb"....ftyp(heic|heix|heim|heis|hevc|mif1|msf1|avif)": "a HEIF photograph",
    rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51": "a JPEG 2000 picture",
    rb"\0\0\0\x0cJXL \r\n|\xff\x0a": "a JPEG XL picture",
    rb"GIF8[79]a": "a GIF picture",
    rb"%PDF-": "a PDF",
}


def container_of(path: Path, head: bytes) -> Container | None:
    """The container of the file `path` that begins with `head`; None of a plain picture, and of what nobody knows.

    A MIRAX slide is a folder beside a JPEG, an Olympus slide one beside a TIFF: both pictures show the slide in small.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs" or (path.with_suffix("") / "Slidedat.ini").is_file():
        return MIRAX
    if suffix == ".vsi" or (head.startswith(TIFF_MAGIC) and path.with_name(f"_{path.stem}_").is_dir()):
        return VSI
    if head.startswith(TIFF_MAGIC):
        return TIFF
    for readable, kinds in ((True, BY_OPENSLIDE), (False, UNREADABLE)):
        name = next((name for magic, name in kinds.items() if re.match(magic, head, re.DOTALL)), None)
        if name:
            return Container(name, "openslide" if readable else "")
    return None
